from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from experiments.families import FAMILIES, RESULTS, bound, by_words, load, measure, save, texts, whole_output
from experiments.family_configurations import POSITIONS, WINDOW
from fedpeptao.errors import InputError
from models import deep_prompts
from models.export import to_peft
from models.tuned_model import TunedModel

REFUSED = {
    "ALBERT": "layers share one attention module",
    "DeBERTa-v2": "never called the attention function",
    "MPNet": "never called the attention function",
    "GPT-Neo": "refuses a registered attention function",
    "GPT-J": "refuses a registered attention function",
    "BLOOM": "never called the attention function",
    "Falcon": "refuses a registered attention function",
    "GPT-OSS": "has terms that are lost here",
}
NO_PEFT = {"DistilBERT", "ModernBERT", "Granite", "Cohere"}
WORKS = [name for name in FAMILIES if name not in REFUSED]
WINDOWS = {  # positions before and behind that a text position sees, by layer; None: all
    "Mistral": ((WINDOW - 1, 0), (WINDOW - 1, 0)),
    "Phi-3": ((WINDOW - 1, 0), (WINDOW - 1, 0)),
    "Gemma 2": ((WINDOW - 1, 0), (POSITIONS, 0)),
    "Gemma 3": ((WINDOW - 1, 0), (POSITIONS, 0)),
    "ModernBERT": ((POSITIONS, POSITIONS), (WINDOW // 2, WINDOW // 2)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")

    def saved(name: str) -> Path:
        where = root / name
        return where if where.exists() else save(FAMILIES[name], where)

    return saved


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_page_says_of_each_family(name: str, tmp_path: Path) -> None:
    found = measure(name, tmp_path)
    if name in REFUSED:
        assert REFUSED[name] in found.refused
        return
    assert not found.refused
    assert found.words == ("masked-lm" if FAMILIES[name].masked else "causal-lm")
    assert found.positions == POSITIONS - 2
    assert found.gather_away is not None
    assert found.gather_away < 2e-6
    assert (found.no_peft != "") == (name in NO_PEFT)
    if name not in NO_PEFT:
        assert found.peft_away is not None
        assert found.peft_away < 1e-5
        beyond = found.peft_away_beyond
        assert (beyond is not None and beyond > 1e-3) == FAMILIES[name].windowed


@pytest.mark.parametrize("name", ["DistilBERT", "ModernBERT"])
def test_a_model_without_past_keys_gets_no_adapter(name: str, tmp_path: Path) -> None:
    backbone = load(save(FAMILIES[name], tmp_path / "classifier", classifier=True), head="model")
    backbone.build_head("model", 3)
    model = deep_prompts.prompted(backbone, (0, 1), 2)
    told = to_peft(model, bound(model), tmp_path / "adapter", ["a", "b", "c"])
    assert told is not None
    assert "takes no past keys and values" in told
    assert not (tmp_path / "adapter").exists()


def test_the_page_shows_the_raw_figures() -> None:
    rows = {row["family"]: row for row in json.loads(RESULTS.read_text(encoding="utf8"))["families"]}
    assert list(rows) == list(FAMILIES)
    page = (RESULTS.parent.parent.parent / "docs" / "MODELS.md").read_text(encoding="utf8")
    for name, row in rows.items():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {name} |"))
        assert line.startswith(f"| {name} | {'no' if row['refused'] else 'yes'} |")
        assert row["refused"] in line
        assert row["no_peft"] in line


@pytest.mark.parametrize("name", WORKS)
def test_a_step_reaches_every_prompt_and_lowers_the_loss(folder: Callable[[str], Path], name: str) -> None:
    model = by_words(folder(name))
    inputs, row, wanted = texts(model), bound(model), torch.tensor([0, 1, 2, 1])
    assert model.layout.names == ("prompt.0", "prompt.1")
    before = model.loss(inputs, wanted)
    (gradient,) = torch.autograd.grad(before, row)
    assert (gradient != 0).all()
    model.bind((row - 0.1 * gradient / gradient.norm())[None])
    assert model.loss(inputs, wanted) < before
    assert all(weight.grad is None and not weight.requires_grad for weight in model.backbone.model.parameters())


@pytest.mark.parametrize("name", WORKS)
def test_any_subset_of_layers(folder: Callable[[str], Path], name: str) -> None:
    scores = {}
    for layers in ((0, 1), (0,), (1,)):
        model = by_words(folder(name), layers)
        inputs, row = texts(model), bound(model)
        scores[layers] = model.logits(inputs)
        (gradient,) = torch.autograd.grad(scores[layers].sum(), row)
        assert (gradient != 0).all()
        assert model.layout.names == tuple(f"prompt.{layer}" for layer in layers)
    assert not torch.allclose(scores[(0, 1)], scores[(0,)])
    assert not torch.allclose(scores[(0,)], scores[(1,)])


@pytest.mark.parametrize("name", WORKS)
def test_the_longest_text_runs(folder: Callable[[str], Path], name: str) -> None:
    model = by_words(folder(name), (1,))
    bound(model)
    limit = model.backbone.text_positions(2)
    assert limit is not None
    with torch.no_grad():
        assert model.logits(texts(model, (limit,))).isfinite().all()
        if has_position_table(model):  # others would run on, beyond what they were trained for
            with pytest.raises((IndexError, RuntimeError)):
                model.logits(texts(model, (limit + 1,)))


def has_position_table(model: TunedModel) -> bool:
    names = ("position_embeddings", "wpe", "embed_positions")
    parts = model.backbone.model.named_modules()
    return any(path.endswith(names) and isinstance(part, torch.nn.Embedding) for path, part in parts)


def test_position_tables_are_those_of_the_families_that_have_them(folder: Callable[[str], Path]) -> None:
    tables = {name for name in WORKS if has_position_table(by_words(folder(name)))}
    assert tables == {"BERT", "RoBERTa", "XLM-RoBERTa", "CamemBERT", "ELECTRA", "ERNIE", "DistilBERT", "GPT-2", "OPT"}


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_is_of_text_and_every_position_sees_the_prompts(
    folder: Callable[[str], Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = by_words(folder(name))
    inputs, row = texts(model), bound(model)
    ours = whole_output(model, inputs, row)
    real = inputs["attention_mask"].bool()
    values = model.layout.unflatten(row.detach())
    attend = by_hand([values["prompt.0"], values["prompt.1"]], WINDOWS[name], real)
    AttentionInterface.register("by_hand", attend)
    AttentionMaskInterface.register("by_hand", lambda *given, **named: None)
    model.backbone.model.set_attn_implementation("by_hand")
    arguments = model.backbone.forward_arguments(inputs)
    positions = model.backbone.position_ids(arguments["input_ids"], arguments["attention_mask"], 2)
    with torch.no_grad():
        theirs = model.backbone.model(**arguments, position_ids=positions).logits
    torch.testing.assert_close(ours[real], theirs[real], rtol=1e-4, atol=1e-5)


def by_hand(prompts: list[Tensor], windows: tuple[tuple[int, int], ...], real: Tensor) -> Callable[..., Any]:
    """Attention by softmax, windows and prompts written out; prompts [2, kv_heads, N_p, head_dim] by layer."""

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **given: Any) -> Any:
        layer, length, group = module.layer_idx, query.shape[2], query.shape[1] // key.shape[1]
        before, behind = windows[layer]
        at = torch.arange(length)
        distance = at[:, None] - at[None]
        seen = (distance <= before) & (distance >= -behind) & real[:, None]
        seen = torch.cat([torch.ones(len(query), length, prompts[layer].shape[2], dtype=torch.bool), seen], 2)[:, None]
        prefix = prompts[layer][:, None].expand(-1, len(query), -1, -1, -1)
        key, value = (
            torch.cat([front, back], 2).repeat_interleave(group, 1)
            for front, back in zip(prefix, (key, value), strict=True)
        )
        scores = query @ key.transpose(2, 3) * scaling
        if (cap := given.get("softcap")) is not None:
            scores = cap * torch.tanh(scores / cap)
        return (scores.masked_fill(~seen, -1e30).softmax(-1) @ value).transpose(1, 2), None

    return attend


def test_families_that_fail_say_so_before_training(folder: Callable[[str], Path]) -> None:
    for name in REFUSED:
        with pytest.raises(InputError) as caught:
            by_words(folder(name))
        assert (caught.value.key, caught.value.value) == ("model", str(folder(name)))
        assert "such as BERT" in caught.value.mend
