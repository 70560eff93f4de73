"""Prompts that depend on the text: late, generated and mixed ones, against their equations written out text by text."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedpeptao.errors import InputError
from models.hidden_states import StateCache
from models.tuned_model import TunedModel
from tests.models.conftest import PROMPT_TOKENS, padded_for
from tests.models.reference import plain_model
from tests.models.techniques import (
    DECODERS,
    Folders,
    answers,
    by_words,
    filled,
    head_of,
    loaded,
    named,
    scores,
    sources,
    tuned,
    weighted,
)

Parts = dict[str, Tensor]


def generated(parts: Parts, h: Tensor) -> Tensor:
    hidden = torch.clamp(parts["generator.down.weight"] @ h + parts["generator.down.bias"], min=0)
    return (parts["generator.up.weight"] @ hidden + parts["generator.up.bias"]).reshape(PROMPT_TOKENS, -1)


def texts_of(inputs: dict[str, Tensor]) -> list[Tensor]:
    sizes = inputs["attention_mask"].sum(1).tolist()
    return [ids[:size] for ids, size in zip(inputs["input_ids"], sizes, strict=True)]


def agree(model: TunedModel, found: Tensor, expected: Tensor, row: Tensor, leaf: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weighted(found).backward()
    weighted(expected).backward()
    assert row.grad is not None
    assert leaf.grad is not None
    size = sum(entry.size for entry in model.technique.entries)
    assert float(leaf.grad[:size].norm()) > 0
    torch.testing.assert_close(row.grad[:size], leaf.grad[:size], rtol=2e-3, atol=1e-4)


@pytest.fixture(params=["bert", "roberta", "gpt2", "llama"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_generated_prompts_follow_their_equation(checkpoint: Folders, family: str, inputs: dict[str, Tensor]) -> None:
    inputs = padded_for(family, inputs)
    model = tuned(loaded(checkpoint(family)), "generated-prompts")
    row, leaf = filled(model, std=0.2).requires_grad_(), filled(model, std=0.2).requires_grad_()
    plain, at = plain_model(checkpoint(family), head_of(model, row)), 0 if family in DECODERS else 1
    each = []
    for ids in texts_of(inputs):
        embedded = plain.get_input_embeddings()(ids)
        prompt = generated(named(model, leaf), plain.base_model(input_ids=ids[None])[0][0].mean(0))
        each.append(plain(inputs_embeds=torch.cat([embedded[:at], prompt, embedded[at:]])[None]).logits)
    agree(model, scores(model, row, inputs), torch.cat(each), row, leaf)


def test_mixed_prompts_follow_their_equation(checkpoint: Folders, family: str, inputs: dict[str, Tensor]) -> None:
    inputs = padded_for(family, inputs)
    model = tuned(loaded(checkpoint(family)), "mixed-prompts")
    row, leaf = filled(model, std=2.0).requires_grad_(), filled(model, std=2.0).requires_grad_()
    parts, others = named(model, leaf), sources(model.backbone, PROMPT_TOKENS)
    plain, at = plain_model(checkpoint(family), head_of(model, row)), 0 if family in DECODERS else 1
    each, shares = [], []
    for ids in texts_of(inputs):
        embedded = plain.get_input_embeddings()(ids)
        z = parts["generator.down.weight"] @ embedded.max(0).values
        up = parts["generator.up.weight"] @ (z / (1 + torch.exp(-z)))
        normed = (up - up.mean()) / torch.sqrt(up.var(unbiased=False) + 1e-5)
        asked = normed * parts["generator.norm.weight"] + parts["generator.norm.bias"]
        every = [*others, parts["prompt.target"]]
        exponents = torch.stack([p.max(0).values @ asked / (math.e * len(asked)) for p in every])
        share = exponents.exp() / exponents.exp().sum()
        prompt = parts["prompt.target"] + sum(a * p for a, p in zip(share, every, strict=True))
        shares.append(share)
        each.append(plain(inputs_embeds=torch.cat([embedded[:at], prompt, embedded[at:]])[None]).logits)
    assert not torch.allclose(shares[0], shares[1], atol=1e-3)
    agree(model, scores(model, row, inputs), torch.cat(each), row, leaf)


def blocks_of(model: torch.nn.Module, family: str) -> torch.nn.ModuleList:
    inner = model.base_model
    return inner.h if family == "gpt2" else inner.layers if family == "llama" else inner.encoder.layer


def late_scores(model: TunedModel, plain: torch.nn.Module, family: str, ids: Tensor, parts: Parts) -> Tensor:
    """Of one text: the states before layer 1 of the plain model, prompts put among those of a longer pass by a hook."""
    seen, at = {}, 0 if family in DECODERS else 1
    block = blocks_of(plain, family)[1]
    look = block.register_forward_pre_hook(lambda module, given: seen.update(h=given[0][0].detach()))
    plain(input_ids=ids[None])
    look.remove()
    h = seen["h"]
    prompt = generated(parts, h[-1] if family in DECODERS else h[0])
    states = torch.cat([h[:at], prompt, h[at:]])[None]
    put = block.register_forward_pre_hook(lambda module, given: (states, *given[1:]))
    longer = torch.cat([ids[:1].repeat(PROMPT_TOKENS), ids])
    found: Tensor = plain(input_ids=longer[None]).logits
    put.remove()
    return found


def test_late_prompts_follow_their_equation(checkpoint: Folders, family: str, inputs: dict[str, Tensor]) -> None:
    inputs = padded_for(family, inputs)
    model = tuned(loaded(checkpoint(family)), "late-prompts")
    assert (model.technique.begins_at, model.technique.shift) == (1, 0)
    row, leaf = filled(model, std=0.2).requires_grad_(), filled(model, std=0.2).requires_grad_()
    plain = plain_model(checkpoint(family), head_of(model, row))
    each = [late_scores(model, plain, family, ids, named(model, leaf)) for ids in texts_of(inputs)]
    agree(model, scores(model, row, inputs), torch.cat(each), row, leaf)


def test_late_prompts_from_kept_states_are_the_same(checkpoint: Folders, family: str) -> None:
    """And the layers below do not run."""
    model = tuned(loaded(checkpoint(family)), "late-prompts")
    model.keep_lower_states(StateCache(torch.float32, 1 << 20, 0))
    assert model.lower is not None
    texts = [[20, 21, 22, 23], [30, 31]]
    pad = model.backbone.tokenizer.pad_token_id
    ids = torch.tensor([texts[0], [*texts[1], pad, pad]])
    inputs = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])}
    whole = scores(model, filled(model), inputs)
    entering = model.lower.states(texts, None)
    ran: list[int] = []
    hook = model.backbone.attention[0].register_forward_hook(lambda *given: ran.append(1))
    kept = scores(model, filled(model), {**inputs, "entering": entering})
    hook.remove()
    torch.testing.assert_close(kept, whole, rtol=1e-5, atol=1e-5)
    assert ran == []


@pytest.mark.parametrize("layer", [0, 2])
def test_late_prompts_enter_above_the_first_layer(layer: int) -> None:
    with pytest.raises(InputError, match=f"prompt-layer = {layer}.*from 1 to 1"):
        tuned(loaded("random:bert"), "late-prompts", prompt_layer=layer)


@pytest.mark.parametrize("technique", ["late-prompts", "generated-prompts", "mixed-prompts"])
def test_a_prompt_knows_nothing_of_the_word_that_is_scored(technique: str) -> None:
    """Words of several tokens follow the text; the first token is predicted from the text alone, whatever word it begins."""
    model = tuned(by_words("gpt2"), technique)
    assert model.backbone.language is not None
    inputs = answers({"input_ids": torch.arange(20, 26)[None], "attention_mask": torch.ones(1, 6, dtype=torch.long)})
    model.bind(filled(model)[None])
    firsts = []
    forward = model._decide

    def watch(given: dict[str, Tensor], at: Tensor, texts: Tensor | None) -> Tensor:
        output = forward(given, at, texts)
        firsts.append(output[:, 0])
        return output

    model._decide = watch  # type: ignore[method-assign]
    model.logits(inputs)
    for row in firsts[0][1:]:
        torch.testing.assert_close(row, firsts[0][0], rtol=1e-5, atol=1e-5)


def test_sources_are_needed_and_frozen(checkpoint: Folders) -> None:
    backbone = loaded(checkpoint("bert"))
    with pytest.raises(InputError, match="prompt-sources"):
        tuned(backbone, "mixed-prompts", sources=())
    model = tuned(backbone, "mixed-prompts")
    assert [entry.name for entry in model.technique.entries] == [
        "prompt.target",
        "generator.down.weight",
        "generator.up.weight",
        "generator.norm.weight",
        "generator.norm.bias",
    ]
    start = named(model, model.initial(2, std=0.1))
    assert (start["generator.norm.weight"] == 1).all()
    assert (start["generator.norm.bias"] == 0).all()
    assert 0.05 < float(start["prompt.target"].std()) < 0.15


def test_a_generator_begins_with_small_prompts() -> None:
    model = tuned(loaded("random:bert"), "generated-prompts")
    start = named(model, model.initial(2, std=0.1))
    assert 0.05 < float(start["generator.up.weight"].std()) < 0.15
    assert 0.1 < float(start["generator.down.weight"].abs().max()) <= 32**-0.5
    assert not start["generator.up.bias"].any()
    assert not start["generator.down.bias"].any()
