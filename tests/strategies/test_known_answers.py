"""Where each method settles, on problems whose answer is known (sections 2.5 and 5 of docs/ALGORITHMS.md).

Each statement comes with the distance to where a plausible wrong formula would settle, so that a test that passes has told
them apart.
"""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from client_app import local_update
from experiments.quadratics import Federation, distance, four_clients, jitter, line, settings

ETA = 0.15
BETAS = pytest.mark.parametrize(("beta", "rounds"), [(0.0, 200), (0.9, 550)])  # until float64 has no more to give


def test_the_candidate_points_lie_apart() -> None:
    problem = four_clients()
    sampled = problem.expected_weights(2)
    points = [
        problem.optimum(),
        problem.averaging_point(problem.shares, ETA),
        problem.averaging_point(problem.shares, ETA, divided=True),
        problem.averaging_point(sampled, ETA),
        problem.averaging_point(torch.full((4,), 0.25, dtype=torch.float64), ETA),
    ]
    assert min(distance(a, b) for a, b in combinations(points, 2)) > 0.05
    assert torch.allclose(
        problem.shares @ problem.gradients(points[0]), torch.zeros(2, dtype=torch.float64), atol=1e-12
    )


@BETAS
def test_plain_averaging_with_all_clients_settles_where_displacements_cancel(beta: float, rounds: int) -> None:
    problem = four_clients()
    path = Federation(problem, settings(server_momentum=beta)).run(rounds)
    assert distance(path[-1], problem.averaging_point(problem.shares, ETA)) < 1e-9
    assert jitter(path) < 1e-10


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_plain_averaging_of_samples_jitters_around_its_expected_balance(beta: float) -> None:
    problem = four_clients()
    path = Federation(problem, settings(server_momentum=beta), per_round=2).run(1200)
    mean = path[100:].mean(0)
    target = problem.averaging_point(problem.expected_weights(2), ETA)
    assert distance(mean, target) < 0.1
    assert distance(mean, target) < 0.5 * distance(mean, problem.averaging_point(problem.shares, ETA))
    assert jitter(path) > 0.5


@BETAS
def test_server_correction_settles_on_full_participation_averaging_without_jitter(beta: float, rounds: int) -> None:
    problem = four_clients()
    path = Federation(problem, settings(drift_correction="server", server_momentum=beta), per_round=2).run(rounds)
    assert jitter(path) < 1e-10
    assert distance(path[-1], problem.averaging_point(problem.shares, ETA)) < 1e-9


@BETAS
def test_device_correction_settles_on_the_optimum_without_jitter(beta: float, rounds: int) -> None:
    problem = four_clients()
    path = Federation(problem, settings(drift_correction="device", server_momentum=beta), per_round=2).run(rounds)
    assert jitter(path) < 1e-10
    assert distance(path[-1], problem.optimum()) < 1e-9


def test_device_correction_ends_with_each_client_at_its_own_gradient() -> None:
    problem = four_clients()
    federation = Federation(problem, settings(drift_correction="device"), per_round=2)
    x = federation.run(200)[-1]
    controls = torch.stack([federation.control(client) for client in federation.clients])
    assert torch.allclose(controls, problem.gradients(x), atol=1e-9)


@pytest.mark.parametrize("clip_norm", [1e9, 1.0])
def test_device_correction_reaches_the_optimum_under_momentum_on_the_devices(clip_norm: float) -> None:
    """A round's steps of a running sum add up to several times their gradients, and c_i has to be one of them."""
    problem = four_clients()
    told = settings(drift_correction="device", device_momentum=0.9, learning_rate=0.05, clip_norm=clip_norm)
    federation = Federation(problem, told, per_round=2)
    path = federation.run(300)
    assert jitter(path) < 1e-10
    assert distance(path[-1], problem.optimum()) < 1e-9
    controls = torch.stack([federation.control(client) for client in federation.clients])
    assert torch.allclose(controls, problem.gradients(path[-1]), atol=1e-9)


def test_the_server_learning_rate_changes_the_way_not_the_end() -> None:
    problem = four_clients()
    for drift, end in (("device", problem.optimum()), ("server", problem.averaging_point(problem.shares, ETA))):
        setup = settings(drift_correction=drift, server_learning_rate=0.5)
        assert distance(Federation(problem, setup, per_round=2).run(250)[-1], end) < 1e-9


def test_device_correction_reaches_the_optimum_through_the_clip() -> None:
    """The correction is inside the clip: outside, clients whose own gradient is above it would stay wrong."""
    problem, norm = four_clients(), 0.5
    setup = settings(drift_correction="device", clip_norm=norm)
    path = Federation(problem, setup, per_round=2).run(250)
    assert (problem.gradients(problem.optimum()).norm(dim=1) > norm).all()
    assert distance(path[-1], problem.optimum()) < 1e-9
    assert jitter(path) < 1e-10


# -- step-normalised: the displacements times Kbar/K_i -------------------------------------------------------


@pytest.mark.parametrize(("drift", "per_round"), [("none", 4), ("server", 2)])
@BETAS
def test_step_normalised_settles_where_mean_steps_cancel(beta: float, rounds: int, drift: str, per_round: int) -> None:
    """sum (n_i/n) (I - M_i)/K_i (x - a_i) = 0: .6 and more from where plain displacements cancel, and .22 from the optimum."""
    problem = four_clients()
    setup = settings(drift_correction=drift, step_normalised=True, server_momentum=beta)
    path = Federation(problem, setup, per_round).run(rounds)
    assert jitter(path) < 1e-10
    assert distance(path[-1], problem.averaging_point(problem.shares, ETA, divided=True)) < 1e-9


@BETAS
def test_step_normalised_device_correction_still_reaches_the_optimum(beta: float, rounds: int) -> None:
    """e_i takes Delta_i as it is: scaled there too, c_i would no longer be the device's gradient where the K_i differ."""
    problem = four_clients()
    setup = settings(drift_correction="device", step_normalised=True, server_momentum=beta)
    path = Federation(problem, setup, per_round=2).run(rounds)
    assert jitter(path) < 1e-10
    assert distance(path[-1], problem.optimum()) < 1e-9


# -- restarted Adam, one dimension -------------------------------------------------------------------------


def decaying(number: int) -> float:
    return float(0.5 * 0.95**number)


@pytest.mark.parametrize("drift", ["none", "server", "device"])
def test_restarted_adam_ends_at_the_weighted_median(drift: str) -> None:
    """n_i = 30, 25, 10, 20, 15: the median by weight is -1; unweighted it would be 0.5, the optimum is near 1."""
    problem = line((30, 25, 10, 20, 15), (3, 3, 3, 3, 3))
    setup = settings(drift_correction=drift, device_optimizer="adam")
    end = Federation(problem, setup).run(180, decaying)[-1]
    assert abs(float(end) + 1.0) < 1e-3
    assert abs(float(problem.optimum()) + 1.0) > 0.5


@pytest.mark.parametrize(("drift", "median"), [("none", 2.0), ("server", 2.0), ("device", -1.0)])
def test_with_unequal_steps_only_device_correction_keeps_the_median_weighted_by_examples(
    drift: str, median: float
) -> None:
    """K_i = 1, 1, 1, 6, 2: signs weighted by n_i K_i balance at 2."""
    problem = line((30, 25, 10, 20, 15), (1, 1, 1, 6, 2))
    setup = settings(drift_correction=drift, device_optimizer="adam")
    assert abs(float(Federation(problem, setup).run(180, decaying)[-1]) - median) < 1e-3


def test_shared_second_moments_with_device_correction_reach_the_optimum() -> None:
    problem = line((30, 25, 10, 20, 15), (1, 4, 2, 6, 3))
    setup = settings(
        drift_correction="device", device_optimizer="adam", device_second_moment="shared", learning_rate=0.2
    )
    path = Federation(problem, setup).run(250)
    assert distance(path[-1], problem.optimum()) < 1e-6
    assert jitter(path) < 1e-6


def test_shared_second_moments_reach_the_optimum_through_the_clip() -> None:
    """The local gradients at the optimum are above the clip, most of them many times."""
    problem, norm = four_clients(), 0.3
    setup = settings(
        drift_correction="device",
        device_optimizer="adam",
        device_second_moment="shared",
        learning_rate=0.2,
        clip_norm=norm,
    )
    path = Federation(problem, setup).run(250)
    assert (problem.gradients(problem.optimum()).norm(dim=1) > 2 * norm).all()
    assert distance(path[-1], problem.optimum()) < 1e-6


def test_shared_second_moments_without_correction_miss_the_optimum() -> None:
    """So it is the correction that reaches it."""
    problem = line((30, 25, 10, 20, 15), (1, 4, 2, 6, 3))
    setup = settings(device_optimizer="adam", device_second_moment="shared", learning_rate=0.1)
    assert distance(Federation(problem, setup).run(100)[-1], problem.optimum()) > 0.05


# -- Adam that goes on with its moments from round to round ----------------------------------------------------


@pytest.mark.parametrize(("drift", "shares"), [("none", "n_i K_i"), ("device", "n_i")])
def test_moments_that_never_restart_head_for_the_same_median_as_fast_as_v_forgets(
    drift: str, shares: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is g over the root of a mean of past g^2: a sign only once 1/(1 - BETA_2) steps have passed with that gradient.

    With BETA_2 = .9 that is soon. With Adam's own .999 the 180 to 1080 steps here are still on their way when eta has died out.
    """
    problem = line((30, 25, 10, 20, 15), (1, 1, 1, 6, 2))
    median = problem.median(problem.step_shares() if shares == "n_i K_i" else problem.shares)
    setup = settings(drift_correction=drift, device_optimizer="adam", restart_moments=False)
    slow = Federation(problem, setup).run(180, decaying)[-1]
    monkeypatch.setattr(local_update, "BETA_2", 0.9)
    fast = Federation(problem, setup).run(180, decaying)[-1]
    assert distance(fast, median) < 5e-3
    assert distance(slow, median) > 0.05
    assert float(median) == {"n_i K_i": 2.0, "n_i": -1.0}[shares]
