"""Server optimisers by hand, and against those that Flower has."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi

from strategies.drift import NoCorrection
from strategies.fedpeptao import FedPepTAO, Update
from strategies.server_optimizers import (
    Adaptive,
    HeavyBall,
    Momentum,
    SecondMoment,
    ServerOptimizer,
    adagrad,
    adam,
    yogi,
)

BETA, BETA_2, TAU, ETA_S = 0.9, 0.99, 1e-3, 0.05


def directions(optimizer: ServerOptimizer, gs: list[float]) -> list[float]:
    """What the optimiser makes of pseudo-gradients of one parameter."""
    moments, found = optimizer.initial(torch.zeros(1, dtype=torch.float64)), []
    for t, g in enumerate(gs, start=1):
        direction, moments = optimizer.direction(moments, torch.tensor([g], dtype=torch.float64), t)
        found.append(float(direction))
    return found


def test_momentum_by_hand() -> None:
    assert directions(Momentum(0.5), [4.0, 2.0]) == pytest.approx([4.0, (0.5 * 2 + 0.5 * 2) / 0.75])
    assert directions(Momentum(0.0), [4.0, 2.0]) == [4.0, 2.0]


def test_heavy_ball_by_hand() -> None:
    assert directions(HeavyBall(0.5), [4.0, 2.0, -1.0]) == [4.0, 4.0, 1.0]


def test_adam_by_hand() -> None:
    """m = .4, .56; v = .01 + .16 = .17, then .1683 + .04 with beta_2 = .99 and tau = .1: m over sqrt(v) + tau."""
    v1 = 0.99 * 0.01 + 0.01 * 16
    v2 = 0.99 * v1 + 0.01 * 4
    expected = [0.4 / (math.sqrt(v1) + 0.1), 0.56 / (math.sqrt(v2) + 0.1)]
    assert directions(Adaptive(adam, 0.9, 0.99, 0.1), [4.0, 2.0]) == pytest.approx(expected)


def test_yogi_moves_v_by_a_step_of_g_squared_towards_it() -> None:
    """Up from .01 by .01 * 16, then down from .17 by .01 * .01 (g = .1): Adam would go down by .01 (.17 - .01)."""
    expected = [0.4 / (math.sqrt(0.17) + 0.1), 0.37 / (math.sqrt(0.1699) + 0.1)]
    assert directions(Adaptive(yogi, 0.9, 0.99, 0.1), [4.0, 0.1]) == pytest.approx(expected)


def test_adagrad_never_forgets() -> None:
    expected = [0.4 / (math.sqrt(16.01) + 0.1), 0.56 / (math.sqrt(20.01) + 0.1)]
    assert directions(Adaptive(adagrad, 0.9, 0.99, 0.1), [4.0, 2.0]) == pytest.approx(expected)


def test_with_a_large_tau_the_adaptive_ones_are_momentum_without_the_correction_for_its_start() -> None:
    """Then v stays near tau^2, but Adam's, which decays."""
    gs = [1.0, -2.0, 0.5]
    plain = [d * (1 - BETA**t) for t, d in enumerate(directions(Momentum(BETA), gs), start=1)]
    for second_moment in (yogi, adagrad):
        scaled = [2e6 * d for d in directions(Adaptive(second_moment, BETA, BETA_2, 1e6), gs)]
        assert scaled == pytest.approx(plain, rel=1e-5)


# -- against Flower's strategies, on the same replies ---------------------------------------------------


def reply(x_i: np.ndarray, n: int) -> Message:
    content = RecordDict({"arrays": ArrayRecord({"x": Array(x_i)}), "metrics": MetricRecord({"num-examples": n})})
    return Message(content, dst_node_id=1, message_type="train")


def flower_path(strategy: FedAvg, x: np.ndarray, moves: np.ndarray, examples: list[int]) -> np.ndarray:
    """x after each round of a Flower strategy whose clients move by -moves[round, client]."""
    path = []
    for number, deltas in enumerate(moves, start=1):
        strategy.current_arrays = (
            {"x": x} if isinstance(strategy, (FedAdam, FedYogi, FedAdagrad)) else ArrayRecord({"x": Array(x)})
        )
        replies = [reply(x - delta, n) for delta, n in zip(deltas, examples, strict=True)]
        arrays, _ = strategy.aggregate_train(number, replies)
        assert arrays is not None
        x = arrays["x"].numpy()
        path.append(x)
    return np.array(path)


def own_path(
    optimizer: ServerOptimizer, x: np.ndarray, moves: np.ndarray, examples: list[int], eta_s: float
) -> np.ndarray:
    algorithm = FedPepTAO(NoCorrection(), optimizer, eta_s)
    state, path = algorithm.initial(("x",), torch.from_numpy(x)), []
    for deltas in moves:
        total = algorithm.begin(state)
        for client, (delta, n) in enumerate(zip(deltas, examples, strict=True)):
            algorithm.fold(state, total, Update(client, n, 1, torch.from_numpy(delta)))
        state = algorithm.step(state, total)
        path.append(state.x.numpy())
    return np.array(path)


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray, list[int]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=6), rng.normal(size=(8, 3, 6)), [10, 25, 5]


def test_heavy_ball_is_flowers_fedavgm(problem: tuple[np.ndarray, np.ndarray, list[int]]) -> None:
    x, moves, examples = problem
    theirs = flower_path(FedAvgM(server_learning_rate=0.7, server_momentum=BETA), x, moves, examples)
    np.testing.assert_allclose(own_path(HeavyBall(BETA), x, moves, examples, 0.7), theirs, atol=1e-6)


@pytest.mark.parametrize(("second_moment", "strategy"), [(yogi, FedYogi), (adagrad, FedAdagrad)])
def test_yogi_and_adagrad_are_flowers_once_its_v_starts_at_tau_squared(
    second_moment: SecondMoment,
    strategy: type[FedYogi] | type[FedAdagrad],
    problem: tuple[np.ndarray, np.ndarray, list[int]],
) -> None:
    """Flower starts v at 0, the paper at tau^2 or more."""
    x, moves, examples = problem
    numbers = {"beta_1": BETA, "beta_2": BETA_2} if strategy is FedYogi else {}
    theirs = strategy(eta=ETA_S, tau=TAU, **numbers)
    theirs.v_t = {"x": np.full(6, TAU**2)}
    beta = BETA if strategy is FedYogi else theirs.beta_1
    ours = own_path(Adaptive(second_moment, beta, BETA_2, TAU), x, moves, examples, ETA_S)
    np.testing.assert_allclose(ours, flower_path(theirs, x, moves, examples), atol=1e-6)


def test_adam_is_flowers_but_for_its_correction_of_the_start(problem: tuple[np.ndarray, np.ndarray, list[int]]) -> None:
    """Flower's FedAdam multiplies eta by sqrt(1 - beta_2^(t+1)) / (1 - beta_1^(t+1)), which the paper does not."""
    x, moves, examples = problem
    theirs = FedAdam(eta=ETA_S, beta_1=BETA, beta_2=BETA_2, tau=TAU)
    theirs.v_t = {"x": np.full(6, TAU**2)}
    path = flower_path(theirs, x, moves, examples)
    steps = np.diff(np.vstack([x, path]), axis=0)
    corrections = [math.sqrt(1 - BETA_2 ** (t + 1)) / (1 - BETA ** (t + 1)) for t in range(1, 9)]
    ours = np.diff(np.vstack([x, own_path(Adaptive(adam, BETA, BETA_2, TAU), x, moves, examples, ETA_S)]), axis=0)
    np.testing.assert_allclose(ours * np.array(corrections)[:, None], steps, atol=1e-6)
