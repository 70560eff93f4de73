"""The server's equations by hand, on three numbers (section 2.5 of docs/ALGORITHMS.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from strategies.client_rows import MemoryRows
from strategies.drift import DeviceCorrection, Drift, NoCorrection, ServerCorrection
from strategies.fedpeptao import FedPepTAO, State, Update
from strategies.server_optimizers import Momentum

N, ETA = 10, 0.5
CORRECTIONS = pytest.mark.parametrize(
    "make",
    [NoCorrection, lambda: ServerCorrection(N, ETA, MemoryRows()), lambda: DeviceCorrection(N, ETA)],
    ids=["none", "server", "device"],
)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(a: Tensor | None, *values: float) -> None:
    assert a is not None
    torch.testing.assert_close(a, vector(*values), rtol=0, atol=1e-12)


def update(client: int, examples: int, *delta: float, steps: int = 1, used: int = 0, s: Tensor | None = None) -> Update:
    return Update(client, examples, steps, torch.tensor(delta), used, s)


def play(algorithm: FedPepTAO, state: State, updates: Sequence[Update]) -> State:
    total = algorithm.begin(state)
    for one in updates:
        algorithm.fold(state, total, one)
    return algorithm.step(state, total)


def plain(drift: Drift | None = None, beta: float = 0.0, eta_s: float = 1.0) -> FedPepTAO:
    return FedPepTAO(drift or NoCorrection(), Momentum(beta), eta_s)


def begin(algorithm: FedPepTAO) -> State:
    return algorithm.initial(("x",), torch.tensor([1.0, 2.0, 3.0]))


def test_weights_are_examples_over_those_that_replied() -> None:
    algorithm = plain()
    after = play(algorithm, begin(algorithm), [update(4, 1, 4, 0, 0), update(2, 3, 0, 4, 8)])
    close(after.x, 1 - 1, 2 - 3, 3 - 6)  # g = (1, 3, 6)
    assert (after.round, after.updates, after.names, dict(after.accepted)) == (1, 1, ("x",), {4: 1, 2: 1})
    assert after.x.dtype == torch.float64


def test_momentum_is_corrected_for_its_start_at_zero() -> None:
    """m_1 = .1 g_1, over .1; m_2 = .09 g_1 + .1 g_2, over .19."""
    algorithm = plain(beta=0.9, eta_s=0.5)
    first = play(algorithm, begin(algorithm), [update(4, 1, 4, 0, 0), update(2, 3, 0, 4, 8)])
    close(first.x, 0.5, 0.5, 0.0)
    close(first.moments["m"], 0.1, 0.3, 0.6)
    second = play(algorithm, first, [update(0, 5, 1, 1, 1)])
    close(second.moments["m"], 0.19, 0.37, 0.64)
    close(second.x, 0.5 - 0.5, 0.5 - 0.5 * 0.37 / 0.19, -0.5 * 0.64 / 0.19)


def test_without_momentum_steps_are_the_mean_displacements() -> None:
    algorithm = plain(eta_s=0.5)
    state = play(algorithm, begin(algorithm), [update(0, 5, 2, 2, 2)])
    close(play(algorithm, state, [update(1, 2, 0, 0, 4)]).x, 0, 1, 0)


def test_server_correction_by_hand() -> None:
    """Clients 0, 1, 2 with n_i = 2, 3, 5 and eta = .5; u stays sum (n_i/n) u_i, whatever the K_i."""
    rows = MemoryRows()
    algorithm = plain(ServerCorrection(N, ETA, rows))
    first = play(algorithm, begin(algorithm), [update(0, 2, 1, 0, 0, steps=7), update(1, 3, 0, 1, 0, steps=2)])
    close(first.x, 1 - 0.4, 2 - 0.6, 3)
    close(first.drift.control, 0.4, 0.6, 0)
    second = play(algorithm, first, [update(1, 3, 0, 0, 1, steps=2), update(2, 5, 1, 1, 1, steps=4)])
    close(second.x, 0.6 - 0.825, 1.4 - 0.55, 3 - 1.0)
    close(second.drift.control, 1.4, 1.0, 1.6)
    for client, u in ((0, (2, 0, 0)), (1, (0, 0, 2)), (2, (2, 2, 2))):
        row = rows.read(client, second.accepted[client])
        assert row is not None
        close(row.to(torch.float64), *u)
    assert algorithm.downlink(second) is None


def test_device_correction_by_hand() -> None:
    """e_i = Delta_i/(K_i eta) - c with the c that went down, for all replies of a round."""
    algorithm = plain(DeviceCorrection(N, ETA))
    first = play(algorithm, begin(algorithm), [update(0, 2, 1, 0, 0, steps=2), update(1, 3, 0, 4, 0, steps=4)])
    close(first.drift.control, 2, 6, 0)
    close(algorithm.downlink(first), 0.2, 0.6, 0)
    close(first.x, 1 - 0.4, 2 - 2.4, 3)  # the sum itself is not corrected
    second = play(algorithm, first, [update(2, 5, 1, 0, 1), update(0, 2, 0, 1, 0, steps=2, used=1)])
    close(second.drift.control, 2 + 9 - 0.4, 6 - 3 + 0.8, 10)
    close(second.x, 0.6 - 5 / 7, -0.4 - 2 / 7, 3 - 5 / 7)


def test_device_correction_counts_with_c_as_it_travels() -> None:
    """A codec that rounds to whole numbers: c = (.2, .6, 0) arrives as (0, 1, 0)."""
    algorithm = plain(DeviceCorrection(N, ETA, as_sent=lambda c, sent: c.round()))
    first = play(algorithm, begin(algorithm), [update(0, 2, 1, 0, 0, steps=2), update(1, 3, 0, 4, 0, steps=4)])
    second = play(algorithm, first, [update(2, 5, 1, 0, 1)])
    close(second.drift.control, 2 + 5 * 2, 6 + 5 * (0 - 1), 5 * 2)


@CORRECTIONS
def test_step_normalised_by_hand(make: Callable[[], Drift]) -> None:
    """Kbar = 3: Delta_i with K_i = 6 counts half, with K_i = 1 threefold; e_i knows nothing of it."""
    algorithm = replace(plain(make()), mean_steps=3.0)
    after = play(algorithm, begin(algorithm), [update(0, 2, 8, 0, 0, steps=6), update(1, 3, 0, 1, 2, steps=1)])
    close(after.x, 1 - 2 / 5 * 4, 2 - 3 / 5 * 3, 3 - 3 / 5 * 6)
    if isinstance(algorithm.drift, ServerCorrection):
        close(after.drift.control, 2 / 10 * 8, 3 / 10 * 6, 3 / 10 * 12)
    if isinstance(algorithm.drift, DeviceCorrection):
        close(after.drift.control, 2 * 8 / 3, 3 * 2, 3 * 4)


def test_a_new_epoch_forgets_the_round_that_began_it() -> None:
    algorithm = plain(DeviceCorrection(N, ETA))
    first = play(algorithm, begin(algorithm), [update(0, 2, 1, 0, 0), update(1, 3, 1, 1, 1)])
    second = play(algorithm, first, [update(0, 2, 1, 0, 0, used=0)])  # accepted in round 1, and it has nothing of it
    close(second.drift.control, 0, 0, 0)
    assert (second.drift.epoch, second.drift.epoch_round, second.drift.lost_examples) == (1, 2, 0)
    third = play(algorithm, second, [update(0, 2, 1, 0, 0, used=2), update(1, 3, 0, 0, 1, used=0)])
    assert third.drift.epoch == 1  # client 1 had no share since the epoch began
    close(third.drift.control, 4, 0, 6)


def test_no_correction_sends_and_keeps_nothing() -> None:
    algorithm = plain()
    state = play(algorithm, begin(algorithm), [update(0, 2, 1, 0, 0)])
    assert algorithm.downlink(state) is None
    assert state.drift.control is None


def test_shared_second_moments_begin_as_the_mean_and_then_move_by_a_tenth() -> None:
    algorithm = plain()
    state = begin(algorithm)
    assert state.vbar is None
    first = play(algorithm, state, [update(0, 1, 0, 0, 0, s=vector(4, 8)), update(1, 3, 0, 0, 0, s=vector(0, 4))])
    close(first.vbar, 1, 5)
    second = play(algorithm, first, [update(1, 3, 0, 0, 0, s=vector(11, 5))])
    close(second.vbar, 2, 5)
    assert play(algorithm, second, []).vbar is second.vbar


@CORRECTIONS
def test_a_round_without_replies_changes_only_its_number(make: Callable[[], Drift]) -> None:
    algorithm = plain(make(), beta=0.9)
    first = play(algorithm, begin(algorithm), [update(0, 2, 1, 0, 0, s=vector(1, 2))])
    empty = play(algorithm, first, [])
    assert empty.round == 2
    for field in fields(State):
        if field.name != "round":
            assert getattr(empty, field.name) is getattr(first, field.name)
    late, soon = play(algorithm, empty, [update(1, 3, 1, 1, 1)]), play(algorithm, first, [update(1, 3, 1, 1, 1)])
    assert torch.equal(late.x, soon.x)  # t counts updates, not rounds
    assert dict(late.accepted) == {0: 1, 1: 3}


@CORRECTIONS
def test_fold_and_step_leave_the_old_state_and_the_update_as_they_are(make: Callable[[], Drift]) -> None:
    algorithm = plain(make(), beta=0.9)
    state = play(algorithm, begin(algorithm), [update(0, 2, 1, 0, 0, s=vector(1, 2))])
    x, m, control = state.x.clone(), state.moments["m"].clone(), state.drift.control
    control = None if control is None else control.clone()
    reply = replace(update(0, 2, 3, 1, 2, used=1, s=vector(5, 6)), delta=vector(3, 1, 2))  # float64: nothing is copied
    play(algorithm, state, [reply, update(1, 3, 1, 1, 1)])
    assert (dict(state.accepted), state.round, state.updates) == ({0: 1}, 1, 1)
    assert torch.equal(state.x, x)
    assert torch.equal(state.moments["m"], m)
    close(state.vbar, 1, 2)
    close(reply.delta, 3, 1, 2)
    close(reply.second_moments, 5, 6)
    if control is not None:
        assert torch.equal(state.drift.control, control)  # type: ignore[arg-type]


@CORRECTIONS
def test_a_round_that_is_folded_again_finds_what_was_there_before_it(make: Callable[[], Drift]) -> None:
    """A server that died before the round had ended goes on from the state before, and asks again."""
    algorithm = plain(make(), beta=0.9)
    before = play(algorithm, begin(algorithm), [update(0, 2, 1, 0, 0), update(1, 3, 0, 1, 0)])
    replies = [update(1, 3, 0, 0, 1, used=1), update(0, 2, 5, 1, 1, used=1)]
    once, again = play(algorithm, before, replies), play(algorithm, before, replies)
    assert torch.equal(once.x, again.x)
    if once.drift.control is not None:
        assert torch.equal(once.drift.control, again.drift.control)  # type: ignore[arg-type]


@CORRECTIONS
def test_the_order_of_folding_gives_the_bits(make: Callable[[], Drift]) -> None:
    """Floating-point sums depend on their order; that of sampling is therefore part of the method."""
    replies = [update(0, 1, 1e16, 1, 1e-3), update(1, 1, 1, 1e16, 3e16), update(2, 1, -1e16, -1e16, -3e16)]
    once, again, other = (
        play(algorithm, begin(algorithm), order)
        for algorithm, order in (
            (plain(make()), replies),
            (plain(make()), replies),
            (plain(make()), [replies[0], replies[2], replies[1]]),
        )
    )
    assert torch.equal(once.x, again.x)
    assert not torch.equal(once.x, other.x)


def test_sums_run_in_float64() -> None:
    """In float32 the two thousand small replies after a large one would vanish."""
    algorithm = plain()
    replies = [update(0, 1, 2.0**24, 0, 0)] + [update(i, 1, 0.5, 0, 0) for i in range(1, 2001)]
    after = play(algorithm, begin(algorithm), replies)
    assert float((1 - after.x[0]) * 2001) == pytest.approx(2.0**24 + 1000, abs=1e-3)


def test_what_a_device_keeps_is_within_float32_by_what_its_steps_add_up_to() -> None:
    """1e38 over 4 steps of .05 is 5e38, over the 10 that momentum makes of them 2e38: float32 holds 3.4e38."""
    update = Update(0, 1, 4, torch.tensor([1e38]), 0)
    assert not DeviceCorrection(N, 0.05).holds(update, 1.0)
    assert DeviceCorrection(N, 0.05, step_sum=lambda steps: 2.5 * steps).holds(update, 1.0)
