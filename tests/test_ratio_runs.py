"""Whole runs that estimate their ratio: what travels before and after the selection, the same bits, and with what it goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from client_app import host
from client_app.host import Start
from federation.messages import Ask
from federation.settings import Settings
from strategies.ratio import plateau
from tests.small_runs import Flat, Passed, Ran, Watched, go, model_of

pytestmark = pytest.mark.usefixtures("no_plots")
MakeFlat = Callable[..., Flat]
WARM_UP, ROUNDS = 2, 5
HEAD = {"head.classifier.weight", "head.classifier.bias"}
BOTH = pytest.mark.parametrize("unselected", ["local", "none"])


@pytest.fixture
def make_run(make_flat: MakeFlat) -> Callable[..., Flat]:
    def flat(**changes: Any) -> Flat:
        chosen = {"ratio": "plateau", "warmup_rounds": WARM_UP, "rounds": ROUNDS, "prompt_tokens": 1, **changes}
        return make_flat(**chosen)

    return flat


def round_of(passed: Passed) -> int:
    return int(passed.content.config_records["round"]["round"])


def names(passed: Passed) -> set[str]:
    return {name for shapes in passed.shapes.values() for name in shapes}


def spectrum(ran: Ran) -> dict[str, Any]:
    return dict(json.loads((ran.folder / "spectrum.json").read_text(encoding="utf8")))


# -- what travels ------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("estimator", ["eigengap", "plateau"])
def test_all_layers_travel_in_the_warm_up_and_then_only_s(make_run: MakeFlat, estimator: str, unselected: str) -> None:
    watched = Watched()
    flat = make_run(ratio=estimator, unselected_prompts=unselected, drift_correction="device", evaluate_every=2)
    ran = go(flat, client_app=watched)
    everything, selected = {"prompt.0", "prompt.1"} | HEAD, {f"prompt.{i}" for i in ran.summary["layers"]} | HEAD
    assert [line["warm_up"] for line in ran.lines[1:]] == [True] * WARM_UP + [False] * (ROUNDS - WARM_UP)
    for passed in [*watched.of("train"), *watched.of("evaluate")]:
        warm = passed.content.config_records["round"]["warm_up"]
        assert warm is (round_of(passed) <= WARM_UP)
        assert names(passed) == (everything if warm else selected)
    for passed in watched.of("train", "up"):
        warm = {record["round"] for name, record in passed.content.config_records.items() if name.startswith("client.")}
        assert names(passed) == (everything if max(warm) <= WARM_UP else selected)
    assert {frozenset(names(p)) for p in watched.of("query.curvature")} == {frozenset(everything)}
    assert not any(names(p) for p in watched.of("query.curvature", "up"))
    assert set(ran.parameters) == selected
    ratio = ran.summary["ratio"]["ratio"]
    assert len(ran.summary["layers"]) == max(1, math.ceil(ratio * 2 - 1e-6))
    if estimator == "plateau":
        assert len(ran.summary["layers"]) == 1


def test_the_ratio_is_that_of_the_clients_spectra(make_run: MakeFlat) -> None:
    ran = go(make_run())
    clients, mean = spectrum(ran)["clients"], 0.0
    for one in clients:
        mean += one["examples"] * plateau(np.array(one["theta"]), np.array(one["weight"]))
    assert ran.summary["ratio"]["ratio"] == pytest.approx(mean / sum(one["examples"] for one in clients), rel=1e-12)
    assert {one["parameters"] for one in clients} == {128}


def test_with_heads_of_their_own_too(make_run: MakeFlat) -> None:
    ran = go(make_run(personal_head=True, warmup_rounds=1, rounds=2))
    found = spectrum(ran)
    assert (found["failed"], found["missing"]) == ({}, [])
    assert {one["parameters"] for one in found["clients"]} == {128}
    assert set(ran.parameters) == {f"prompt.{layer}" for layer in ran.layers}


# -- the same bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["eigengap", "plateau"])
def test_the_same_seed_gives_the_same_bits_with_and_without_the_cache(make_run: MakeFlat, estimator: str) -> None:
    flat = make_run(ratio=estimator, drift_correction="device")
    watched = Watched()
    one = go({**flat, "run-name": "first"})
    cached = go({**flat, "run-name": "again"}, client_app=watched)
    assert not watched.of("query.curvature")
    assert cached.summary["ratio"]["from_cache"]
    anew = go({**flat, "run-name": "third", "runs-dir": str(flat["runs-dir"]) + "-2"}, nodes=2)
    assert not anew.summary["ratio"]["from_cache"]
    for other in (cached, anew):
        assert other.parameter_bytes == one.parameter_bytes
        assert other.lines_without("seconds") == one.lines_without("seconds")
        assert other.summary["final"] == one.summary["final"]
    for a, b in zip(spectrum(one)["clients"], spectrum(anew)["clients"], strict=True):
        assert {**a, "seconds": 0, "peak_bytes": 0} == {**b, "seconds": 0, "peak_bytes": 0}


# -- after the selection -----------------------------------------------------------------------------------


@BOTH
def test_corrections_begin_anew_after_the_selection(make_run: MakeFlat, unselected: str) -> None:
    watched = Watched()
    go(make_run(unselected_prompts=unselected, drift_correction="device"), client_app=watched)
    for passed in watched.of("train"):
        record, number = passed.content.config_records["round"], round_of(passed)
        assert record["epoch"] == (0 if number <= WARM_UP else 1)
        assert ("control" in passed.content.array_records) is (number > WARM_UP)
        if number > WARM_UP:
            largest = max(float(abs(a.numpy()).max()) for a in passed.content.array_records["control"].values())
            assert (largest == 0) is (number == WARM_UP + 1)


def test_the_shared_prompts_go_on_from_the_warm_ups(make_run: MakeFlat) -> None:
    """Plain averaging: x after the last warm-up round is that before it, less the weighted mean of Delta_i."""
    watched = Watched()
    ran = go(make_run(), client_app=watched)
    (layer,) = ran.summary["layers"]
    last, first = (next(p for p in watched.of("train") if round_of(p) == n) for n in (WARM_UP, WARM_UP + 1))
    for name in (f"prompt.{layer}", "head.classifier.weight"):
        x = last.content.array_records["shared"][name].numpy().astype(np.float64)
        step, n = 0.0, 0
        for passed in watched.of("train", "up"):
            for record, config in passed.content.config_records.items():
                if record.startswith("client.") and config["round"] == WARM_UP:
                    delta = passed.content.array_records[f"update.{config['client']}"][name].numpy()
                    step, n = step + config["examples"] * delta.astype(np.float64), n + config["examples"]
        assert np.abs(step).max() > 0
        np.testing.assert_allclose(first.content.array_records["shared"][name].numpy(), x - step / n, atol=1e-7)


def test_local_prompts_go_on_from_a_clients_own_last_ones(make_run: MakeFlat, monkeypatch: pytest.MonkeyPatch) -> None:
    """And from the common initial ones where a client was never sampled; all at the first message after the selection."""
    begun: dict[int, Start] = {}
    ended: dict[int, Tensor] = {}
    start, train = host.start, host.train

    def noting(settings: Settings, ask: Ask, client: int, *rest: Any, **named: Any) -> Start:
        found = start(settings, ask, client, *rest, **named)
        if not ask.warm_up:
            begun.setdefault(client, found)
        return found

    def training(settings: Settings, ask: Ask, client: int, *rest: Any) -> Any:
        reply = train(settings, ask, client, *rest)
        if ask.warm_up:
            ended[client] = ask.shared - reply.delta
        return reply

    monkeypatch.setattr(host, "start", noting)
    monkeypatch.setattr(host, "train", training)
    ran = go(make_run(clients_per_round=2, rounds=WARM_UP + 1))
    (layer,) = ran.summary["layers"]
    other = f"prompt.{1 - layer}"
    _, layout, row = model_of(ran.settings, (0, 1), 3)
    initial = layout.unflatten(row)[other]
    never = set(range(5)) - set(ended)
    assert never
    assert set(begun) == set(range(5))  # all are evaluated after the last round
    for client, found in begun.items():
        own = found.layout.unflatten(found.row)[other]
        if client in never:
            assert torch.equal(own, initial)
        else:
            wanted = layout.unflatten(ended[client])[other]
            torch.testing.assert_close(own, wanted, rtol=0, atol=1e-6)
            assert not torch.allclose(own, initial, atol=1e-4)


@BOTH
def test_other_families_too(make_run: MakeFlat, unselected: str) -> None:
    for model in ("random:gpt2", "random:llama"):
        ran = go(make_run(model=model, unselected_prompts=unselected, rounds=3, warmup_rounds=1))
        assert len(ran.summary["layers"]) == 1
        assert ran.summary["ratio"]["found"] == 3
