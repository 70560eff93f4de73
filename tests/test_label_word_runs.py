"""Whole runs in which a frozen language model's own head decides by label words: nothing but prompts is tuned or travels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from federation import evaluation, resources
from federation.settings import parse
from fedpeptao import ceiling
from fedpeptao.errors import InputError
from models import recompute
from models.export import load_parameters
from tests.small_runs import Flat, Ran, Watched, go, model_of, opens_again

MakeFlat = Callable[..., Flat]
WORDS = {"animals": "pets", "colours": "paints", "verbs": "deeds"}
FAMILIES = {"random:roberta": "masked-lm", "random:llama": "causal-lm"}


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Label words for the small data; an encoder's answer stands in the middle of a text, a decoder's at its end."""
    whole = evaluation.pad

    def pad(*given: Any, **named: Any) -> dict[str, torch.Tensor]:
        batch = whole(*given, **named)
        size = batch["attention_mask"].sum(1)
        return {**batch, "answer_at": size // 2 if int(batch["input_ids"][0, 0]) == 0 else size - 1}

    monkeypatch.setattr(evaluation, "pad", pad)
    monkeypatch.setattr(resources, "label_words", lambda settings: WORDS)
    monkeypatch.setattr("server_app.plots.draw", lambda *given, **named: None)


def names_in(watched: Watched) -> set[str]:
    """Of all parameters in any message."""
    return {name for passed in watched.passed for arrays in passed.shapes.values() for name in arrays}


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("unselected", ["local", "none"])
def test_a_run_tunes_and_sends_prompts_alone(
    make_flat: MakeFlat, shown: list[str], model: str, unselected: str
) -> None:
    watched = Watched()
    shared = {"device_second_moment": "shared", "unselected_prompts": unselected, "layers": "1"}
    ran = go(make_flat(model=model, learning_rate=0.05, **shared), client_app=watched)
    assert ran.summary["status"] == "completed"
    assert set(ran.parameters) == {"prompt.1"}
    assert names_in(watched) == {"prompt.1", "values"}  # values: the shared second moments, two a layer
    assert not any("head, down" in line or "head, up" in line for line in shown)
    assert any("prompts of 1 selected layers, down" in line for line in shown)
    _reproduces(ran, model)
    opens_again(ran)


def test_a_prior_of_labels_needs_a_loss_over_them(make_flat: MakeFlat) -> None:
    flat = make_flat(model="random:roberta", label_prior="client")
    with pytest.raises(InputError, match=r'label-prior.*label-loss to "label-words"'):
        go(flat)
    assert go({**flat, "label-loss": "label-words"}).summary["status"] == "completed"


@pytest.mark.parametrize(("loss", "adds"), [("vocabulary", False), ("label-words", True)])
def test_left_alone_a_prior_goes_with_a_loss_over_labels(make_flat: MakeFlat, loss: str, adds: bool) -> None:
    settings = parse(make_flat(model="random:roberta", label_prior="auto", label_loss=loss))
    assert resources.adds_prior(settings) is adds
    assert resources.adds_prior(
        parse(make_flat(model="random:bert", head="linear", label_prior="auto", label_loss=loss))
    )


def _reproduces(ran: Ran, model: str) -> None:
    """The saved parameters give the run's own figures, and are not the initial ones."""
    tuned, layout, start = model_of_words(ran)
    assert tuned.backbone.head_kind == FAMILIES[model]
    row = load_parameters(ran.folder / "parameters.safetensors", layout)
    assert not torch.equal(row, start)
    values = tuned.layout.unflatten(tuned.initial(0))
    tuned.bind(tuned.layout.flatten({**values, **layout.unflatten(row)})[None])
    test = resources.tokenised(ran.settings).test
    assert test is not None
    counts = evaluation.count(tuned, test, sorted(WORDS), 32)
    assert counts.loss == pytest.approx(ran.summary["final"]["global_loss"], rel=1e-9)
    assert counts.accuracy == ran.summary["final"]["global_accuracy"]


def model_of_words(ran: Ran) -> Any:
    return model_of(ran.settings, tuple(ran.summary["layers"]), sorted(WORDS))


@pytest.mark.parametrize("model", FAMILIES)
def test_the_ratio_is_estimated_without_a_head(make_flat: MakeFlat, model: str) -> None:
    given = {"ratio": "eigengap", "warmup_rounds": 1, "rounds": 2, "curvature_steps": 6, "curvature_examples": 4}
    ran = go(make_flat(model=model, **given))
    assert ran.summary["status"] == "completed"
    assert 0 < ran.summary["ratio"]["ratio"] <= 1
    assert all(name.startswith("prompt.") for name in ran.parameters)


@pytest.mark.parametrize("model", FAMILIES)
def test_the_second_method_has_no_head_either(make_flat: MakeFlat, model: str) -> None:
    """Difficulties, scores of layers and Fisher information by the words' own losses."""
    watched = Watched()
    given = {"tuned": "lora", "score": "perturbation", "curriculum": "exp", "curriculum_full": 0.5, "update_share": 0.5}
    ran = go(make_flat(model=model, drift_correction="none", **given), client_app=watched)
    assert ran.summary["status"] == "completed"
    assert names_in(watched) == set(ran.parameters)
    assert {tuple(name.split(".")[:2]) for name in ran.parameters} == {("lora", str(*ran.layers))}
    _reproduces(ran, model)
    opens_again(ran)


@pytest.mark.parametrize("model", FAMILIES)
def test_the_losses_differ_by_label_loss(make_flat: MakeFlat, model: str) -> None:
    found = {
        loss: go(make_flat(model=model, label_loss=loss, rounds=1)).lines for loss in ("vocabulary", "label-words")
    }
    whole, among = (found[loss][-1]["train_loss"] for loss in ("vocabulary", "label-words"))
    assert among < whole - 1  # shares of three words, and of the whole vocabulary


def test_the_ceiling_decides_by_label_words_too(make_flat: MakeFlat) -> None:
    figures = ceiling.train_centrally(parse(make_flat(model="random:roberta", rounds=1)), quiet=True)
    assert figures["test"]["accuracy"] is not None


def test_precision_by_settings(make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[int] = []
    original = recompute.checkpoint
    monkeypatch.setattr(recompute, "checkpoint", lambda *a, **k: again.append(1) or original(*a, **k))
    flat = {"rounds": 1, "model": "random:llama"}
    exact = go(make_flat(**flat)).lines[-1]["train_loss"]
    assert go(make_flat(**flat, gradient_checkpointing=True)).lines[-1]["train_loss"] == pytest.approx(exact, rel=1e-6)
    assert again
    cast = go(make_flat(**flat, autocast="bfloat16")).lines[-1]["train_loss"]
    assert cast == pytest.approx(exact, rel=0.05)
    assert cast != exact
