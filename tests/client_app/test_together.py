"""Several clients in one forward pass: each as if alone, and one that fails fails alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from client_app import host
from client_app.state import MemoryStore
from federation.messages import Ask
from federation.settings import Settings, parse
from tests.small_runs import Flat, go, model_of

MakeFlat = Callable[..., Flat]
LABELS, CLIENTS = ("animals", "colours", "verbs"), (0, 1, 3)


def question(settings: Settings, server_round: int, control: float | None = None) -> Ask:
    _, _, shared = model_of(settings, (1,), len(LABELS))
    c = None if control is None else torch.full_like(shared, control)
    return Ask("run", server_round, LABELS, (1,), CLIENTS, (0,) * len(CLIENTS), 0, False, shared, c)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"device-optimizer": "sgd", "proximal": 0.3},
        {"device-second-moment": "shared"},
        {"restart-moments": False},
        {"unselected-prompts": "none"},
    ],
    ids=str,
)
def test_each_trains_as_if_alone(make_flat: MakeFlat, parts: dict[str, object]) -> None:
    """Two rounds, with a correction and clipping, of clients with different numbers of steps."""
    flat = {**make_flat(alpha=0.5, clients=4, clip_norm=0.05, learning_rate=0.03), **parts}
    settings = parse(flat)  # type: ignore[arg-type]
    stores = {"together": MemoryStore(), "alone": MemoryStore()}
    steps = set()
    for server_round in (1, 2):
        ask, accepted = question(settings, server_round, control=0.01), dict.fromkeys(CLIENTS, server_round - 1)
        found = {r.client: r for r in host.train_together(settings, ask, CLIENTS, accepted, stores["together"])}
        assert sorted(found) == list(CLIENTS)
        for client in CLIENTS:
            one = host.train(settings, ask, client, server_round - 1, stores["alone"])
            both = found[client]
            steps.add(one.steps)
            assert (both.steps, both.examples, both.control_round) == (one.steps, one.examples, one.control_round)
            assert both.train_loss == pytest.approx(one.train_loss, rel=1e-5)
            assert one.delta is not None
            assert both.delta is not None
            torch.testing.assert_close(both.delta, one.delta, rtol=1e-3, atol=1e-5)
            if one.second_moments is not None:
                assert both.second_moments is not None
                torch.testing.assert_close(both.second_moments, one.second_moments, rtol=1e-3, atol=1e-9)
            a, b = (store.resume(client, server_round) for store in stores.values())
            assert a is not None
            assert b is not None
            assert (a.steps, sorted(a.local)) == (b.steps, sorted(b.local))
    assert len(steps) > 1


def test_a_run_of_stacks_is_that_of_single_clients(make_flat: MakeFlat, no_plots: None) -> None:
    common = {"clients": 4, "clients_per_round": 4, "rounds": 3}
    one, three = (go(make_flat(**common, clients_together=size, run_name=f"by-{size}"), nodes=1) for size in (1, 3))
    for a, b in zip(one.lines[1:], three.lines[1:], strict=True):
        assert b["accepted"] == 4
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-3)
        assert b["update_norm"] == pytest.approx(a["update_norm"], rel=1e-2)


def test_one_that_fails_fails_alone(make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch, no_plots: None) -> None:
    real = host.start

    def broken(settings: Settings, ask: Ask, client: int, *rest: object) -> host.Start:
        if client == 2:
            raise OSError("disk full")
        return real(settings, ask, client, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(host, "start", broken)
    ran = go(make_flat(clients=4, clients_per_round=4, rounds=1, clients_together=4), nodes=1)
    assert ran.lines[1]["accepted"] == 3
    assert ran.lines[1]["failed"] == {"2": "OSError: disk full"}
