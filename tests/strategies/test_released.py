"""The released arithmetic against a transcription in plain numpy (section 2.6 of docs/ALGORITHMS.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.quadratics import Federation, four_clients, settings
from federation.settings import Settings
from strategies.client_rows import MemoryRows
from strategies.fedpeptao import Update
from strategies.released import Released

ETA, ETA_S, CLIENTS, SAMPLED, SIZE = 0.04, 0.05, 7, 3, 5
Reply = tuple[int, int, int, np.ndarray]  # client, n_i, K_i, x_i


class Script:
    """Follows the released script's order of work; its arrays are shared and overwritten where `aliased`, as they were there."""

    def __init__(self, x: np.ndarray, aliased: bool, eta_s: float = ETA_S) -> None:
        self.w, self.aliased, self.lr = x.copy(), aliased, eta_s
        self.global_c, self.clients_c = np.zeros(SIZE), [np.zeros(SIZE) for _ in range(CLIENTS)]
        self.global_v, self.before = np.zeros(SIZE), None

    def round(self, replies: list[Reply]) -> None:
        original, weights = self.w.copy(), np.array([n for _, n, _, _ in replies], float)
        weights /= weights.sum()
        self.w = sum(weight * x_i for weight, (_, _, _, x_i) in zip(weights, replies, strict=True))
        delta, moved, total = original - self.w, np.zeros(SIZE), 0
        for client, _, steps, x_i in replies:
            new = self.clients_c[client] - self.global_c + (original - x_i) / (steps * ETA)
            moved += steps * (new - self.clients_c[client])
            total += steps
            self.clients_c[client] = new
        self.global_c = self.global_c + SAMPLED / CLIENTS * moved / total
        if self.before is None:
            self.before = delta
            return
        g, self.before = self.before - delta, delta
        self.lr = max(self.lr * 0.99, 0.0001)
        live, velocity, states, velocities = self.w.copy(), self.global_v.copy(), [], []
        for client, _, _, _ in replies:
            if not self.aliased:
                live, velocity = self.w.copy(), self.global_v.copy()
            velocity *= 0.9  # in place: the next client finds what this one left
            velocity += 0.1 * g + self.global_c - self.clients_c[client]
            live -= self.lr * velocity
            states.append(live.copy())
            velocities.append(velocity.copy())
        self.w = np.tensordot(weights, np.array(states), 1)
        self.global_v = np.tensordot(weights, np.array(velocities), 1)


@pytest.mark.parametrize("eta_s", [ETA_S, 1.05e-4])  # the second soon falls to its least value
@pytest.mark.parametrize("aliased", [False, True])
def test_it_equals_the_transcription_round_by_round(aliased: bool, eta_s: float) -> None:
    rng = np.random.default_rng(3)
    start = rng.normal(size=SIZE)
    script = Script(start, aliased, eta_s)
    algorithm = Released(ETA, eta_s, SAMPLED, CLIENTS, aliased, MemoryRows())
    state = algorithm.initial(("x",), torch.from_numpy(start))
    examples = rng.integers(5, 40, size=CLIENTS)
    for _ in range(12):
        replies: list[Reply] = []
        total = algorithm.begin(state)
        for client in rng.choice(CLIENTS, size=SAMPLED, replace=False).tolist():
            n, steps, x_i = int(examples[client]), int(rng.integers(1, 9)), script.w + rng.normal(size=SIZE)
            replies.append((client, n, steps, x_i))
            algorithm.fold(state, total, Update(client, n, steps, state.x - torch.from_numpy(x_i)))
        script.round(replies)
        state = algorithm.step(state, total)
        np.testing.assert_allclose(state.x.numpy(), script.w, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(state.moments["v"].numpy(), script.global_v, rtol=1e-11, atol=1e-12)
        assert state.drift.control is not None
        np.testing.assert_allclose(state.drift.control.numpy(), script.global_c, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("variant", ["released", "released-aliased"])
def test_its_numbers_come_from_the_settings(variant: str) -> None:
    """Three of four sampled."""
    setup = _settings(variant, learning_rate=0.04)
    made = Federation(four_clients(), setup, per_round=3).algorithm()
    assert isinstance(made, Released)
    assert (made.eta, made.eta_s, made.sample_rate) == (0.04, 0.05, 0.75)
    assert made.aliased is (variant == "released-aliased")


def test_the_two_variants_differ_from_the_second_round_on() -> None:
    ends = []
    for variant in ("released", "released-aliased"):
        federation = Federation(four_clients(), _settings(variant), per_round=2)
        ends.append(federation.run(2))
    assert torch.equal(ends[0][0], ends[1][0])
    assert not torch.allclose(ends[0][1], ends[1][1])


def test_the_first_round_is_plain_averaging() -> None:
    federation = Federation(four_clients(), _settings("released"))
    local = {"device_optimizer": "adam", "restart_moments": False, "learning_rate": 0.05}
    plain = Federation(four_clients(), settings(server_optimizer="none", **local))
    assert torch.allclose(federation.run(1), plain.run(1), atol=1e-14)


def test_a_device_that_never_corrects_lets_its_control_variate_grow_without_bound() -> None:
    """Sampled all the time, c_i+ = c_i - c + Delta_i/(K_i eta) with nothing to hold it at the device's gradient."""
    federation = Federation(four_clients(), _settings("released"), per_round=2)
    sizes = []
    for rounds in (50, 150, 400):
        federation.run(rounds - federation.state.round)
        rows = [federation.rows.read(client, federation.state.accepted[client]) for client in federation.clients]
        sizes.append(max(float(row.norm()) for row in rows if row is not None))
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[2] > 3 * sizes[0]


def test_a_round_without_a_reply_changes_nothing_but_its_number() -> None:
    """Nor does the round after it know: eta_s decays by updates."""
    federation = Federation(four_clients(), _settings("released-aliased"))
    federation.run(3)
    before, algorithm = federation.state, federation.algorithm()
    replies = [federation.train(client) for client in federation.clients]
    federation.round(arrives=lambda client: False)
    empty, ends = federation.state, []
    assert empty.round == before.round + 1
    assert empty.updates == before.updates
    assert torch.equal(empty.x, before.x)
    for state in (before, empty):
        total = algorithm.begin(state)
        for update in replies:
            algorithm.fold(state, total, update)
        ends.append(algorithm.step(state, total).x)
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], before.x)


def _settings(variant: str, learning_rate: float = 0.05) -> Settings:
    return settings(
        variant=variant,
        server_optimizer="none",
        device_optimizer="adam",
        restart_moments=False,
        learning_rate=learning_rate,
        server_learning_rate=0.05,
    )
