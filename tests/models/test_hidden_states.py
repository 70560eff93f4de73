"""Hidden states below the lowest prompted layer: kept or not, the same scores and gradients; bounded in memory and on disk."""

from __future__ import annotations

import logging
import os
import tempfile

import pytest
import torch
from torch import Tensor

from models import deep_prompts
from models.backbone import Backbone
from models.hidden_states import LowerLayers, StateCache
from models.loading import load_backbone
from models.tuned_model import TunedModel
from tests.federation.test_durable import files_up_to

FAMILIES = ["random:bert", "random:roberta", "random:gpt2", "random:llama"]
TEXTS = [[5, 6, 7, 8, 9, 10], [11, 12, 13], [20, 21] * 12]
TOKENS = 3
Inputs = dict[str, Tensor]


def padded(backbone: Backbone, texts: list[list[int]]) -> Inputs:
    width, fill = max(map(len, texts)), backbone.tokenizer.pad_token_id
    ids = torch.tensor([text + [fill] * (width - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    return {"input_ids": ids, "attention_mask": mask}


def upper(name: str) -> TunedModel:
    """Prompts in the second of two layers."""
    backbone = load_backbone(name)
    backbone.build_head("linear", 3)
    return deep_prompts.prompted(backbone, (1,), TOKENS)


def cache(memory: int = 1 << 20, disk: int = 1 << 20, dtype: torch.dtype = torch.float32) -> StateCache:
    return StateCache(dtype, memory, disk)


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_and_gradients_are_those_of_the_whole_pass(name: str) -> None:
    model = upper(name)
    inputs, row = padded(model.backbone, TEXTS), model.initial(0, 0.5)

    def run(inputs: Inputs) -> tuple[Tensor, Tensor]:
        leaf = row.clone().requires_grad_()
        model.bind(leaf[None])
        scores = model.logits(inputs)
        (grad,) = torch.autograd.grad(scores.square().sum(), leaf)
        return scores.detach(), grad

    whole = run(inputs)
    model.keep_lower_states(cache())
    assert model.lower is not None
    kept = run({**inputs, "entering": model.lower.states(TEXTS, None)})
    assert float(whole[1].norm()) > 0
    for a, b in zip(whole, kept, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


def test_the_lower_layers_do_not_run_again_and_are_whole_afterwards() -> None:
    model, ran = upper("random:bert"), []
    model.keep_lower_states(cache())
    assert model.lower is not None
    states = model.lower.states(TEXTS, None)
    block = model.backbone.blocks[0]
    hook = block.attention.register_forward_hook(lambda *given: ran.append(1))  # type: ignore[operator, union-attr]
    model.bind(model.initial(0)[None])
    inputs = padded(model.backbone, TEXTS)
    model.logits({**inputs, "entering": states})
    assert ran == []
    model.lower.states(TEXTS, None)
    assert ran == []
    model.logits(inputs)
    assert ran == [1]
    hook.remove()


def test_a_texts_states_do_not_depend_on_its_company() -> None:
    lower = LowerLayers(load_backbone("random:bert"), 1, TOKENS, cache())
    together = lower.states(TEXTS, None)
    for row, text in enumerate(TEXTS):
        alone = LowerLayers(lower.backbone, 1, TOKENS, cache()).states([text], None)
        assert torch.equal(together[row, : len(text)], alone[0])
        assert not together[row, len(text) :].any()


def test_token_types_tell_texts_apart() -> None:
    lower = LowerLayers(load_backbone("random:bert"), 1, TOKENS, cache())
    one, other = lower.states([[5, 6, 7]], [[0, 0, 0]]), lower.states([[5, 6, 7]], [[0, 0, 1]])
    assert not torch.equal(one, other)
    assert len(lower.cache) == 2


@pytest.mark.parametrize(
    ("memory", "disk", "kept"), [(1 << 20, 0, 3), (800, 1 << 20, 3), (800, 0, 1), (0, 0, 0), (0, 800, 1)]
)
def test_what_does_not_fit_is_computed_again_to_the_same_bits(memory: int, disk: int, kept: int) -> None:
    """The texts take 768, 384 and 3072 bytes."""
    lower = LowerLayers(load_backbone("random:bert"), 1, TOKENS, cache(memory, disk))
    first, again = lower.states(TEXTS, None), lower.states(TEXTS, None)
    assert torch.equal(first, again)
    assert len(lower.cache) == kept
    assert lower.cache.in_memory <= memory
    assert lower.cache.on_disk <= disk


def test_a_disk_that_takes_no_more_refuses_nothing_and_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For real: the file may not grow beyond 1000 bytes, in the middle of the second text of 768, 384 and 3072."""
    monkeypatch.setattr(StateCache, "_told", False)
    backbone = load_backbone("random:bert")
    wanted = LowerLayers(backbone, 1, TOKENS, cache()).states(TEXTS, None)
    with files_up_to(1000), caplog.at_level(logging.WARNING, "fedpeptao"):
        for _ in range(2):  # a remark of one cache is enough
            lower = LowerLayers(backbone, 1, TOKENS, cache(memory=0))
            assert torch.equal(lower.states(TEXTS, None), wanted)
            assert torch.equal(lower.states(TEXTS, None), wanted)
            assert (len(lower.cache), lower.cache.on_disk) == (1, 768)
            assert lower.cache._file is not None
            assert os.fstat(lower.cache._file.fileno()).st_size == 768  # nothing of the write that failed
    (told,) = caplog.messages
    assert "no room for hidden states" in told
    assert "File too large" in told
    assert torch.equal(lower.states(TEXTS, None), wanted)  # there is room again: what is kept was kept whole
    assert len(lower.cache) == 1  # and the file grows no more


def test_a_write_in_parts_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    lower, write = LowerLayers(load_backbone("random:bert"), 1, TOKENS, cache(memory=0)), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: write(file, content[:100], offset))
    first, again = lower.states(TEXTS, None), lower.states(TEXTS, None)
    assert len(lower.cache) == 3
    assert torch.equal(first, again)


def test_a_write_that_takes_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: 0)
    lower = LowerLayers(load_backbone("random:bert"), 1, TOKENS, cache(memory=0))
    assert torch.equal(lower.states(TEXTS, None), lower.states(TEXTS, None))
    assert len(lower.cache) == 0


def test_without_a_place_for_temporary_files_all_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(StateCache, "_told", False)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", nowhere)
    monkeypatch.setattr(tempfile, "tempdir", None)
    lower = LowerLayers(load_backbone("random:bert"), 1, TOKENS, cache(memory=0))
    assert torch.equal(lower.states(TEXTS, None), lower.states(TEXTS, None))
    assert len(lower.cache) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_half_and_is_near(dtype: torch.dtype) -> None:
    backbone = load_backbone("random:bert")
    half, full = cache(0, 1 << 20, dtype), cache()
    near = LowerLayers(backbone, 1, TOKENS, half).states(TEXTS, None)
    exact = LowerLayers(backbone, 1, TOKENS, full).states(TEXTS, None)
    assert half.on_disk == full.in_memory / 2
    assert 0 < float((near - exact).abs().max()) < 0.02 * float(exact.abs().max())


def test_nothing_is_kept_below_the_lowest_layer() -> None:
    backbone = load_backbone("random:bert")
    backbone.build_head("linear", 3)
    model = deep_prompts.prompted(backbone, (0, 1), TOKENS)
    model.keep_lower_states(cache())
    assert model.lower is None
    with pytest.raises(ValueError, match="layer 0 has no layers below it"):
        LowerLayers(backbone, 0, TOKENS, cache())
