"""Where FedProx and the server optimisers settle, alone and with the drift corrections (section 5 of docs/ALGORITHMS.md)."""

from __future__ import annotations

import pytest
import torch

from experiments.quadratics import Federation, distance, four_clients, jitter, settings
from federation.settings import Settings

ETA = 0.15

# -- FedProx -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drift", "per_round"), [("none", 4), ("server", 2)])
def test_fedprox_settles_where_pulled_displacements_cancel(drift: str, per_round: int) -> None:
    problem, mu = four_clients(), 3.0
    path = Federation(problem, settings(proximal=mu, drift_correction=drift), per_round).run(300)
    point = problem.proximal_point(problem.shares, ETA, mu)
    assert jitter(path) < 1e-10
    assert distance(path[-1], point) < 1e-9
    others = [problem.averaging_point(problem.shares, ETA), problem.optimum(), torch.zeros(2, dtype=torch.float64)]
    others += [problem.proximal_point(problem.shares, ETA, wrong) for wrong in (-mu, mu / 2, 2 * mu)]
    assert min(distance(point, other) for other in others) > 0.1


def test_fedprox_of_samples_jitters_less_than_plain_averaging_around_its_own_balance() -> None:
    problem = four_clients()
    plain = Federation(problem, settings(), per_round=2).run(400)
    path = Federation(problem, settings(proximal=3.0), per_round=2).run(400)
    target = problem.proximal_point(problem.expected_weights(2), ETA, 3.0)
    assert distance(path[100:].mean(0), target) < 0.1
    assert 0.5 < jitter(path) < jitter(plain)


def test_fedprox_goes_from_averaging_to_the_optimum_as_mu_grows() -> None:
    """With eta mu = 1 a round of any K_i is one gradient step of 1/mu, up to 1/mu^2; eta_s = mu makes up for its length."""
    problem = four_clients()
    averaging = problem.averaging_point(problem.shares, ETA)
    assert distance(Federation(problem, settings(proximal=1e-6)).run(150)[-1], averaging) < 1e-6
    for mu in (100.0, 1000.0):
        setup = settings(proximal=mu, learning_rate=1 / mu, server_learning_rate=mu)
        end = Federation(problem, setup).run(100)[-1]
        assert distance(end, problem.proximal_point(problem.shares, 1 / mu, mu)) < 1e-9
        assert distance(end, problem.optimum()) < 1 / mu


def test_fedprox_with_device_correction_reaches_the_optimum() -> None:
    """c_i is the device's gradient there, so that no device moves and none is pulled back."""
    problem = four_clients()
    path = Federation(problem, settings(proximal=3.0, drift_correction="device"), per_round=2).run(400)
    assert jitter(path) < 1e-10
    assert distance(path[-1], problem.optimum()) < 1e-9


# -- server optimisers: another way, the same end --------------------------------------------------------------

OPTIMIZERS = pytest.mark.parametrize(
    ("optimizer", "eta_s"), [("momentum", 1.0), ("heavy-ball", 0.5), ("adam", 0.2), ("yogi", 0.2), ("adagrad", 1.0)]
)


def optimized(optimizer: str, eta_s: float, drift: str, tau: float = 0.1, beta_2: float = 0.99) -> Settings:
    return settings(
        server_optimizer=optimizer,
        server_second_momentum=beta_2,
        server_learning_rate=eta_s,
        server_momentum=0.5,
        server_adaptivity=tau,
        drift_correction=drift,
    )


@OPTIMIZERS
def test_any_server_optimizer_ends_where_the_correction_says(optimizer: str, eta_s: float) -> None:
    problem = four_clients()
    for drift, end in (("device", problem.optimum()), ("server", problem.averaging_point(problem.shares, ETA))):
        path = Federation(problem, optimized(optimizer, eta_s, drift), per_round=2).run(200)
        assert jitter(path) < 1e-8
        assert distance(path[-1], end) < 1e-8


@OPTIMIZERS
def test_no_server_optimizer_makes_sampled_averaging_settle(optimizer: str, eta_s: float) -> None:
    """Its mean stays near the balance of the sampled weights, away from that of full participation."""
    problem = four_clients()
    path = Federation(problem, optimized(optimizer, eta_s, "none"), per_round=2).run(500)
    mean = path[100:].mean(0)
    assert jitter(path) > 0.05
    assert distance(mean, problem.averaging_point(problem.expected_weights(2), ETA)) < 0.12
    assert distance(mean, problem.averaging_point(problem.shares, ETA)) > 0.2


@pytest.mark.parametrize(("share", "settles"), [(0.9, True), (1.2, False)])
def test_adams_server_steps_end_as_momentum_with_eta_s_over_tau(share: float, settles: bool) -> None:
    """v forgets: where g vanishes a step is eta_s/tau m, which settles below 2 (1 + beta)/((1 - beta) lambda).

    lambda: the largest eigenvalue of sum (n_i/n)(I - M_i). Yogi's and Adagrad's v do not fall with g, and settle at both.
    """
    problem, beta, tau = four_clients(), 0.5, 0.001
    eye = torch.eye(2, dtype=torch.float64)
    moved = [
        eye - torch.linalg.matrix_power(eye - ETA * a, k) for a, k in zip(problem.curvature, problem.steps, strict=True)
    ]
    top = float(torch.linalg.eigvals(torch.einsum("n,nij->ij", problem.shares, torch.stack(moved))).real.max())
    eta_s = share * tau * 2 * (1 + beta) / ((1 - beta) * top)
    settled = jitter(Federation(problem, optimized("adam", eta_s, "none", tau, 0.9)).run(300)) < 1e-6
    assert settled is settles
    assert jitter(Federation(problem, optimized("yogi", eta_s, "none", tau, 0.9)).run(300)) < 1e-6
