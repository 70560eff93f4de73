"""Where a run settles when what travels is int8 (section 2.8 of docs/ALGORITHMS.md), on problems whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from experiments.quadratics import Federation, Quadratics, distance, four_clients, settings
from federation.settings import Scalar

UNIT = 2.0**-7  # of x in int8: the optimum's larger coordinate is -.979


def settled(problem: Quadratics, rounds: int, per_round: int, **changes: Scalar) -> Tensor:
    """x over the last 150 rounds, [150, R]."""
    return Federation(problem, settings(**changes), per_round, exact=False).run(rounds)[-150:]


def spread(path: Tensor, point: Tensor) -> float:
    """Root mean square of the distance."""
    return float((path - point).norm(dim=1).square().mean().sqrt())


@pytest.mark.parametrize("feedback", [True, False])
def test_updates_and_c_in_int8_reach_the_optimum_with_device_correction(feedback: bool) -> None:
    """Delta_i and c - c_i vanish there, and with them all that rounding can take; with or without error feedback."""
    problem = four_clients()
    changes = {"update_precision": "int8", "control_precision": "int8", "error_feedback": feedback}
    path = settled(problem, 300, 2, drift_correction="device", **changes)
    assert spread(path, problem.optimum()) < 2e-6


@pytest.mark.parametrize("feedback", [True, False])
def test_x_in_int8_settles_around_the_optimum_within_its_own_unit(feedback: bool) -> None:
    """x does not vanish: each round sends it with another error of up to a unit, which is 0 on average."""
    problem = four_clients()
    path = settled(problem, 400, 2, drift_correction="device", precision="int8", error_feedback=feedback)
    assert UNIT / 10 < spread(path, problem.optimum()) < UNIT / 2
    assert distance(path.mean(0), problem.optimum()) < UNIT / 5


def test_error_feedback_is_needed_where_updates_do_not_vanish() -> None:
    """Plain averaging of all clients: at its end the Delta_i cancel. What is fed back cancels over rounds, lots do so slowly."""
    problem = four_clients()
    point = problem.averaging_point(problem.shares, 0.15)
    with_it, without = (
        settled(problem, 350, 4, update_precision="int8", error_feedback=feedback, server_momentum=0.9)
        for feedback in (True, False)
    )
    assert spread(with_it, point) < 1e-3
    assert spread(without, point) > 2.5 * spread(with_it, point)
    assert distance(with_it.mean(0), point) < 1e-4
    assert distance(without.mean(0), point) > 2e-4


def test_what_is_fed_back_makes_the_sum_of_the_updates_right() -> None:
    """Over rounds from one x: K_i steps give the same Delta_i each time, and its multiple arrives but for r_i of the last one."""
    problem = four_clients()
    federation = Federation(problem, settings(update_precision="int8", learning_rate=0.03), exact=False)
    exact = Federation(problem, settings(learning_rate=0.03), exact=False).train(2).delta
    x, sent = federation.state.x, torch.zeros(2)
    for _ in range(40):
        sent += federation.train(2).delta
        federation.round([2])
        federation.state = replace(federation.state, x=x)
    state = federation.store.resume(2, federation.state.round)
    assert state is not None
    assert state.residual is not None
    torch.testing.assert_close(sent, 40 * exact - state.residual, rtol=0, atol=1e-5)
    assert float((sent - 40 * exact).abs().max()) < float(exact.abs().max()) / 63


def test_both_ends_hold_the_same_c_in_the_same_round_again() -> None:
    """A server that resumes the round before draws the same lots."""
    federation = Federation(four_clients(), settings(drift_correction="device", precision="int8"), exact=False)
    federation.run(20)
    before = federation.state
    federation.round()
    once = federation.state
    federation.state = before
    federation.round()
    assert torch.equal(federation.state.x, once.x)
    c = federation.state.drift.control
    assert c is not None
    torch.testing.assert_close(c / 150, federation.mean_control(), rtol=0, atol=1e-6)
