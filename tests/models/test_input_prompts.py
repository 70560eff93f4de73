from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from experiments.families import FAMILIES, save
from fedpeptao.errors import InputError
from models.export import to_peft
from models.inserted import place_of
from models.loading import load_backbone
from models.vocabulary import drawn_tokens, embedded_tokens
from tests.models.conftest import PROMPT_TOKENS, padded_for
from tests.models.reference import plain_model
from tests.models.techniques import DECODERS, Folders, filled, head_of, loaded, named, scores, tuned, weighted

NAMES = ["a", "b", "c"]
PUBLIC = {"gpt2": "GPT-2", "llama": "Llama"}


def with_vectors(folder: Path, head: dict[str, Tensor], prompt: Tensor, ids: Tensor) -> Tensor:
    """Scores of one text by its embeddings [T, d], prompt among them, in transformers alone."""
    model = plain_model(folder, head)
    at = 0 if folder.name in DECODERS else 1
    embedded = model.get_input_embeddings()(ids)
    return model(inputs_embeds=torch.cat([embedded[:at], prompt, embedded[at:]])[None]).logits


@pytest.mark.parametrize("head", ["linear", "model"])
def test_scores_are_those_of_the_vectors_among_the_embeddings(
    checkpoint: Folders, family: str, inputs: dict[str, Tensor], head: str
) -> None:
    inputs = padded_for(family, inputs)
    model = tuned(loaded(checkpoint(family), "model"), "input-prompts")
    row = filled(model).requires_grad_()
    found = scores(model, row, inputs)
    prompt = named(model, row)["prompt.input"].detach().requires_grad_()
    sizes = inputs["attention_mask"].sum(1).tolist()
    each = [ids[:size] for ids, size in zip(inputs["input_ids"], sizes, strict=True)]
    expected = torch.cat([with_vectors(checkpoint(family), head_of(model, row), prompt, ids) for ids in each])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weighted(found).backward()
    weighted(expected).backward()
    assert row.grad is not None
    gradient = named(model, row.grad)["prompt.input"]
    assert (gradient != 0).all()
    torch.testing.assert_close(gradient, prompt.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_equal_to_pefts_prompt_tuning(checkpoint: Folders, tmp_path: Path, family: str) -> None:
    """Texts of one length: PEFT's classifiers do not see where padding begins."""
    inputs = {"input_ids": torch.arange(20, 32).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    model = tuned(loaded(checkpoint(family)), "input-prompts")
    row = filled(model)
    config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=PROMPT_TOKENS)
    other = get_peft_model(plain_model(checkpoint(family), head_of(model, row)), config).eval()
    with torch.no_grad():
        other.prompt_encoder["default"].embedding.weight.copy_(named(model, row)["prompt.input"])
        expected = other(**inputs).logits
        torch.testing.assert_close(scores(model, row, inputs), expected, rtol=0, atol=1e-5)
    assert to_peft(model, row, tmp_path, NAMES) is None
    read = PeftModel.from_pretrained(plain_model(checkpoint(family), {}), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(read(**inputs).logits, expected, rtol=0, atol=1e-5)


def test_an_encoder_gets_no_adapter_and_a_word_why(checkpoint: Folders, tmp_path: Path) -> None:
    model = tuned(loaded(checkpoint("bert")), "input-prompts")
    told = to_peft(model, model.initial(0), tmp_path / "adapter", NAMES)
    assert told is not None
    assert "whose place an encoder's head reads: no adapter written" in told
    assert not (tmp_path / "adapter").exists()


def test_causal_is_measured(checkpoint: Folders, family: str) -> None:
    backbone = loaded(checkpoint(family))
    assert backbone.is_causal is (family in DECODERS)
    assert place_of(backbone) == (0 if family in DECODERS else 1)
    assert loaded(f"random:{family}").is_causal is (family in DECODERS)  # also with small weights


def test_it_begins_at_random_or_at_real_tokens(checkpoint: Folders, family: str) -> None:
    backbone = loaded(checkpoint(family))
    plain, real = (tuned(backbone, "input-prompts", prompt_init=init) for init in ("normal", "vocabulary"))
    random, tokens = (named(model, model.initial(5, std=0.1))["prompt.input"] for model in (plain, real))
    assert 0.05 < float(random.std()) < 0.15
    ids = drawn_tokens(backbone, PROMPT_TOKENS, 5, "prompt.input")
    assert len(set(ids.tolist())) == PROMPT_TOKENS
    assert not set(ids.tolist()) & set(backbone.tokenizer.all_special_ids)
    torch.testing.assert_close(tokens, backbone.model.get_input_embeddings().weight[ids], rtol=0, atol=0)
    assert not torch.equal(ids, drawn_tokens(backbone, PROMPT_TOKENS, 6, "prompt.input"))
    text = torch.tensor([40, 41, 42])
    first = [] if family in DECODERS else [text[:1]]
    whole = {"input_ids": torch.cat([*first, ids, text[len(first) :]])[None]}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    row = real.initial(5)
    own = plain_model(checkpoint(family), head_of(real, row))(**whole).logits
    given = {"input_ids": text[None], "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    torch.testing.assert_close(scores(real, row, given), own, rtol=1e-5, atol=1e-5)


def test_more_tokens_than_the_vocabulary_begin_again() -> None:
    backbone = loaded("random:bert")
    ids = drawn_tokens(backbone, 300, 0, "x").tolist()
    assert len(ids) == 300
    assert len(set(ids)) == 256
    assert embedded_tokens(backbone, 300, 0, "x").shape == (300, 32)


@pytest.mark.parametrize("family", DECODERS)
def test_deep_prompts_can_begin_as_real_tokens_before_the_text(checkpoint: Folders, family: str) -> None:
    """In a decoder that is what the frozen model gives with those tokens in front."""
    backbone = loaded(checkpoint(family))
    model = tuned(backbone, "deep-prompts", prompt_init="vocabulary")
    row, text = model.initial(3), torch.tensor([[40, 41, 42, 43]])
    ids = torch.cat([drawn_tokens(backbone, PROMPT_TOKENS, 3, "prompt")[None], text], dim=1)
    own = plain_model(checkpoint(family), head_of(model, row))(input_ids=ids).logits
    torch.testing.assert_close(scores(model, row, {"input_ids": text}), own, rtol=1e-5, atol=1e-5)
    part = tuned(backbone, "deep-prompts", (1,), prompt_init="vocabulary")
    assert torch.equal(named(part, part.initial(3))["prompt.1"], named(model, row)["prompt.1"])
    assert not torch.equal(model.initial(4), row)


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(InputError, match=r"prompt-tokens = 512.*Use fewer than 512"):
        tuned(loaded("random:bert"), "input-prompts", prompt_tokens=512)


@pytest.mark.parametrize("family", DECODERS)
def test_a_language_model_comes_back_from_peft(family: str, tmp_path: Path) -> None:
    """Padded texts too: nothing but the places before the text is new to it."""
    backbone = load_backbone(str(save(FAMILIES[PUBLIC[family]], tmp_path / "base")), words=("good", "bad"), head="auto")
    backbone.build_head("auto", 2, ("good", "bad"))
    model = tuned(backbone, "input-prompts")
    row, ids = filled(model), torch.arange(20, 32).reshape(2, 6)
    inputs = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
    assert to_peft(model, row, tmp_path / "adapter", NAMES) is None
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    read = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    model.bind(row[None])
    with torch.no_grad():
        found, expected = model.outputs(inputs), read(**inputs).logits
    assert found.shape == (2, PROMPT_TOKENS + 6, found.shape[-1])
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1, :-2], expected[1, :-2], rtol=1e-4, atol=1e-5)
