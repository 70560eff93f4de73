from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from experiments.families import FAMILIES, bound, by_words, load, save, texts
from fedpeptao.errors import InputError
from models import deep_prompts, quantisation
from models.curvature import check_second_derivative
from models.loading import load_backbone
from models.quantisation import quantised
from models.tuned_model import TunedModel

WANTED = torch.tensor([0, 1, 2, 1])


@pytest.fixture(scope="module", params=["BERT", "Llama", "GPT-2", "OPT"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(FAMILIES[request.param], tmp_path_factory.mktemp("precision") / request.param)


def gradient(model: TunedModel, row: Tensor) -> tuple[Tensor, Tensor]:
    model.bind(row[None])
    loss = model.loss(texts(model), WANTED)
    return loss.detach(), torch.autograd.grad(loss, row)[0]


def classifier(folder: Path, **options: Any) -> TunedModel:
    backbone = load(folder, **options)
    backbone.build_head("auto", 3)
    return deep_prompts.prompted(backbone, (0, 1), 2)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("build", [by_words, classifier])
def test_autocast_is_of_the_forward_pass_alone(folder: Path, precision: str, build: Any) -> None:
    exact, cast = build(folder), build(folder, autocast=precision)
    used: list[torch.dtype] = []
    block = cast.backbone.blocks[0]
    linear = next(part for part in block.modules() if type(part).__name__ in ("Linear", "Conv1D"))
    linear.register_forward_hook(lambda module, given, output: used.append(output.dtype))
    row = bound(exact)
    (loss, expected), (rough, found) = gradient(exact, row), gradient(cast, row)
    assert set(used) == {getattr(torch, precision)}
    assert (rough.dtype, found.dtype) == (torch.float32, torch.float32)
    assert next(cast.backbone.model.parameters()).dtype == torch.float32
    assert not torch.equal(loss, rough)
    torch.testing.assert_close(rough, loss, rtol=0.05, atol=0.05)
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.98


def test_a_classifier_stays_float32_under_autocast(folder: Path) -> None:
    model = classifier(folder, autocast="bfloat16")
    kinds: list[torch.dtype] = []
    head = model.backbone.model.get_submodule(model.backbone.head.names[-1].rpartition(".")[0])
    head.register_forward_hook(lambda module, given, output: kinds.append(output.dtype))
    gradient(model, bound(model))
    assert kinds == [torch.float32]


@pytest.mark.parametrize("build", [by_words, classifier])
def test_recomputed_blocks_see_the_same_prompts(folder: Path, build: Any) -> None:
    kept, again = build(folder), build(folder, gradient_checkpointing=True)
    row = bound(kept)
    (loss, expected), (found_loss, found) = gradient(kept, row), gradient(again, row)
    torch.testing.assert_close(found_loss, loss, rtol=0, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (found != 0).all()
    assert all(slot.prompt is None and slot.owner is None for slot in again.backbone.slots)


def test_blocks_run_again_only_where_gradients_are_asked_for(folder: Path) -> None:
    model = by_words(folder, gradient_checkpointing=True)
    calls: list[int] = []
    inner = next(
        part
        for part in model.backbone.blocks[1].modules()
        if isinstance(part, torch.nn.LayerNorm) or "Norm" in type(part).__name__
    )
    inner.register_forward_hook(lambda *_: calls.append(1))
    row = bound(model)
    with torch.no_grad():
        model.logits(texts(model))
    assert len(calls) == 1
    gradient(model, row)
    assert len(calls) == 3


def test_recomputed_blocks_of_several_clients(folder: Path) -> None:
    found = []
    for again in (False, True):
        model = by_words(folder, gradient_checkpointing=again)
        rows = torch.stack([model.initial(seed, std=0.5) for seed in range(2)]).requires_grad_()
        model.bind(rows, owner=torch.tensor([1, 0, 0, 1]))
        found.append(torch.autograd.grad(model.loss(texts(model), WANTED), rows)[0])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)


def test_recomputed_blocks_draw_the_same_dropout(folder: Path) -> None:
    found = []
    for again in (False, True):
        model = by_words(folder, gradient_checkpointing=again, dropout=0.3)
        model.backbone.train()
        row = bound(model)
        torch.manual_seed(5)
        found.append(gradient(model, row)[1])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)


def test_second_derivatives_with_recomputed_blocks(folder: Path) -> None:
    check_second_derivative(by_words(folder, gradient_checkpointing=True), "ratio", "eigengap")


def test_numbers_that_are_dropout_are_switched_off_too(folder: Path) -> None:
    model = by_words(folder, gradient_checkpointing=True)
    row = bound(model)
    model.backbone.model.train(True)
    assert torch.equal(gradient(model, row)[1], gradient(model, row)[1])


def test_quantisation_is_refused_where_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save(FAMILIES["Llama"], tmp_path / "llama")
    with pytest.raises(InputError, match=r"quantisation = 'int2': there is no such kind.*none, int8, int4"):
        load_backbone("random:llama", quantisation="int2")
    with pytest.raises(InputError, match=r"quantisation = 'int8': random models"):
        load_backbone("random:llama", quantisation="int8")
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"quantisation = 'int4': the package bitsandbytes is not installed"):
        load(saved, quantisation="int4")
    monkeypatch.setattr(quantisation, "find_spec", lambda name: object())
    with pytest.raises(InputError, match=r"it needs a GPU, and the device is cpu"):
        load(saved, quantisation="int8")
    with pytest.raises(InputError, match=r"autocast = 'float64': there is no such type"):
        load(saved, autocast="float64")


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_what_the_quantised_model_is_asked_to_be(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    options = quantised(kind, torch.device("cuda:1"), AutoModelForCausalLM, LlamaConfig(num_hidden_layers=1))
    bits = options["quantization_config"]
    assert (bits.load_in_8bit, bits.load_in_4bit) == (kind == "int8", kind == "int4")
    assert bits.llm_int8_skip_modules == ["lm_head"]
    assert options["device_map"] == {"": torch.device("cuda:1")}
    if kind == "int4":
        assert (bits.bnb_4bit_quant_type, bits.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
    assert quantised("none", torch.device("cpu"), AutoModelForCausalLM, LlamaConfig()) == {}
