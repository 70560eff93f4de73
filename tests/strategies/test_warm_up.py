"""Rounds before the layers are selected: plain averaging, and what goes on from them (section 2.2 of docs/ALGORITHMS.md)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from experiments.quadratics import settings
from federation import records
from federation.channels import make_channels
from models.layout import Entry, Layout
from strategies.build import build_warm_up
from strategies.client_rows import MemoryRows
from strategies.drift import DeviceCorrection
from strategies.fedpeptao import Algorithm, FedPepTAO, State, Update
from strategies.released import Released
from strategies.roster import Roster
from strategies.server_optimizers import Momentum
from strategies.shell import SelectiveStrategy

ALGORITHMS = pytest.mark.parametrize(
    "make",
    [
        lambda: FedPepTAO(DeviceCorrection(40, 0.1), Momentum(0.9), eta_s=1.0),
        lambda: Released(0.1, 0.05, 1, 2, False, MemoryRows()),
    ],
    ids=["device", "released"],
)


def delta(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def play(algorithm: Algorithm, state: State, *updates: Update) -> State:
    total = algorithm.begin(state)
    for update in updates:
        algorithm.fold(state, total, update)
    return algorithm.step(state, total)


def warmed_up() -> State:
    """Three rounds, the second without a reply; client 1 was accepted in the first, client 0 in the last."""
    algorithm = build_warm_up()
    state = algorithm.initial(("a", "b", "c"), torch.zeros(3))
    state = play(algorithm, state, Update(1, 30, 2, delta(4, 0, 0)), Update(0, 10, 3, delta(0, 8, 0)))
    state = play(algorithm, state)
    return play(algorithm, state, Update(0, 10, 3, delta(0, 0, 1)))


def test_a_warm_up_is_plain_averaging() -> None:
    """x <- sum w_i x_i, whatever came before: no momentum, a full step, nothing sent besides x."""
    end = warmed_up()
    torch.testing.assert_close(end.x, delta(-3, -2, -1), rtol=0, atol=1e-12)
    assert build_warm_up().downlink(end) is None


@ALGORITHMS
def test_after_it_only_x_and_the_count_of_rounds_go_on(make: Callable[[], Algorithm]) -> None:
    algorithm, warm = make(), warmed_up()
    first = algorithm.initial(("a", "c"), warm.x[[0, 2]], after=warm)
    fresh = algorithm.initial(("a", "c"), warm.x[[0, 2]])
    assert (first.round, first.updates, first.names) == (3, 0, ("a", "c"))
    assert dict(first.accepted) == {1: 1, 0: 3}  # so that a device finds the prompts of its last warm-up round
    assert torch.equal(first.x, delta(-3, -1))
    assert first.moments.keys() == fresh.moments.keys()
    assert all(torch.equal(first.moments[name], fresh.moments[name]) for name in fresh.moments)
    assert first.vbar is None
    assert first.drift.control is not None
    assert first.drift.control.tolist() == [0, 0]
    assert (first.drift.epoch, first.drift.epoch_round, first.drift.lost_examples) == (1, 3, 0)


def test_a_client_of_the_warm_up_has_lost_no_control_variate() -> None:
    """It was accepted in round 3 and answers that it goes on from there, or, its disk being new, from nothing."""
    warm = warmed_up()
    algorithm = FedPepTAO(DeviceCorrection(40, 0.5), Momentum(0.0), eta_s=1.0)
    state = algorithm.initial(("a", "c"), warm.x[[0, 2]], after=warm)
    state = play(algorithm, state, Update(0, 10, 1, delta(1, 0), control_round=3), Update(1, 30, 1, delta(0, 1)))
    assert (state.round, state.drift.epoch, state.drift.lost_examples) == (4, 1, 0)
    assert state.drift.control is not None
    torch.testing.assert_close(state.drift.control, delta(20, 60), rtol=0, atol=1e-12)
    assert dict(state.accepted) == {0: 4, 1: 4}


@pytest.mark.parametrize("warm_up", [True, False])
def test_messages_say_whether_it_is_the_warm_up_and_which_epoch(warm_up: bool) -> None:
    layout = Layout((Entry("prompt.0", 0, (2,)), Entry("head.w", None, (1,))))
    channels, roster = make_channels(settings(), layout), Roster("run", 0, {0: 10}, {0: 7}, ("no", "yes"), (0,), 1)
    algorithm = build_warm_up()
    state = algorithm.initial(layout.names, torch.zeros(3), after=None if warm_up else warmed_up())
    (sent,) = SelectiveStrategy(algorithm, state, roster, channels, warm_up=warm_up).train_messages(4)
    found = records.decode_ask(sent.content, channels)
    assert (found.warm_up, found.epoch) == ((True, 0) if warm_up else (False, 1))
    assert found.accepted == ((0,) if warm_up else (3,))
