"""A federation on problems whose answer is known: real local updates, real fold and step, no model and no network.

f_i(x) = 1/2 (x - a_i)' A_i (x - a_i), with different A_i, a_i, n_i and K_i: with equal K_i wrong server formulas pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from client_app.local_update import SGD, Adam, DeviceOptimizer, Losses, Moments, Pull, SharedAdam, local_update
from client_app.state import ClientState, MemoryStore, StateStore
from federation.channels import Channel, Channels, make_channels
from federation.codec import Shape
from federation.settings import Scalar, Settings, defaults, parse
from models.layout import Entry, Layout
from strategies.build import build
from strategies.client_rows import MemoryRows
from strategies.fedpeptao import Algorithm, State, Update
from strategies.roster import Cohort
from strategies.selection import sample_clients


class Exact:
    """A codec that changes nothing: float64 travels."""

    def rounded(self, values: Tensor, rng: np.random.Generator) -> Tensor:
        """The same numbers."""
        return values

    def encode(self, values: Tensor) -> np.ndarray:
        """The same numbers."""
        return values.numpy()

    def form(self, shape: Shape) -> tuple[np.dtype, Shape]:
        """The same shape."""
        return np.dtype(np.float64), shape

    def decode(self, array: np.ndarray, shape: Shape) -> Tensor:
        """The same numbers."""
        return torch.from_numpy(array)


def layout_of(problem: Quadratics) -> Layout:
    """One parameter."""
    return Layout((Entry("x", None, tuple(problem.centres[0].shape)),))


def exact_channels(problem: Quadratics) -> Channels:
    """They change nothing."""
    return Channels(*(Channel(Exact(), layout_of(problem), (0, "", what)) for what in ("model", "control", "update")))


@dataclass(frozen=True)
class Quadratics:
    """A_i [N, R, R], a_i [N, R], n_i and K_i, float64."""

    curvature: Tensor
    centres: Tensor
    examples: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def shares(self) -> Tensor:
        """n_i / n, [N]."""
        n = torch.tensor(self.examples, dtype=torch.float64)
        return n / n.sum()

    def losses(self, client: int) -> Losses[int]:
        """f_i for a stack of rows; a batch is nothing but a turn."""

        def losses(rows: Tensor, batch: int) -> Tensor:
            away = rows - self.centres[client].to(rows.dtype)
            return 0.5 * ((away @ self.curvature[client].to(rows.dtype)) * away).sum(1)

        return losses

    def gradients(self, x: Tensor) -> Tensor:
        """Of each f_i at x, [N, R]."""
        return torch.einsum("nij,nj->ni", self.curvature, x - self.centres)

    def hessian(self) -> Tensor:
        """Of the n_i-weighted objective."""
        return torch.einsum("n,nij->ij", self.shares, self.curvature)

    def optimum(self) -> Tensor:
        """Where sum n_i A_i (x - a_i) = 0."""
        return self._balance(self.curvature, self.shares)

    def averaging_point(self, weights: Tensor, eta: float, divided: bool = False) -> Tensor:
        """Where sum weights_i (I - M_i)(x - a_i) = 0, M_i = (I - eta A_i)^K_i; divided: by K_i."""
        eye = torch.eye(self.centres.shape[1], dtype=torch.float64)
        moved = [
            (eye - torch.linalg.matrix_power(eye - eta * a, k)) / (k if divided else 1)
            for a, k in zip(self.curvature, self.steps, strict=True)
        ]
        return self._balance(torch.stack(moved), weights)

    def proximal_point(self, weights: Tensor, eta: float, mu: float) -> Tensor:
        """FedProx's: where sum weights_i Delta_i = 0, Delta_i = (I - (I - eta B_i)^K_i) B_i^-1 A_i (x - a_i), B_i = A_i + mu I.

        y = x_i - x starts at 0 and goes y <- y - eta (A_i (x - a_i) + B_i y). Towards mu = 0 it is averaging_point; towards
        mu = infinity with eta mu = 1 a round is one gradient step of 1/mu on every device, whatever its K_i: the optimum.
        """
        eye = torch.eye(self.centres.shape[1], dtype=torch.float64)
        B = self.curvature + mu * eye
        moved = [
            (eye - torch.linalg.matrix_power(eye - eta * b, k)) @ torch.linalg.solve(b, a)
            for b, a, k in zip(B, self.curvature, self.steps, strict=True)
        ]
        return self._balance(torch.stack(moved), weights)

    def median(self, weights: Tensor) -> Tensor:
        """Of the a_i on a line, by weight, [1]: where sum weights_i sign(x - a_i) changes its sign."""
        order = self.centres[:, 0].argsort()
        half = torch.searchsorted(weights[order].cumsum(0), weights.sum() / 2)
        return self.centres[order[half]]

    def step_shares(self) -> Tensor:
        """n_i K_i over their sum."""
        work = self.shares * torch.tensor(self.steps, dtype=torch.float64)
        return work / work.sum()

    def expected_weights(self, per_round: int) -> Tensor:
        """E[w_i] when `per_round` clients are drawn uniformly without replacement."""
        n = torch.tensor(self.examples, dtype=torch.float64)
        draws = list(combinations(range(len(n)), per_round))
        weights = torch.zeros_like(n)
        for drawn in map(list, draws):
            weights[drawn] += n[drawn] / n[drawn].sum() / len(draws)
        return weights

    def _balance(self, matrices: Tensor, weights: Tensor) -> Tensor:
        left = torch.einsum("n,nij->ij", weights, matrices)
        solution: Tensor = torch.linalg.solve(left, torch.einsum("n,nij,nj->i", weights, matrices, self.centres))
        return solution


def four_clients() -> Quadratics:
    """Two dimensions, curvatures between .4 and 2, far-apart centres, unequal n_i and K_i."""
    curvature = torch.tensor(
        [[[1.8, 0.3], [0.3, 0.5]], [[0.5, -0.2], [-0.2, 1.6]], [[1.0, 0.4], [0.4, 1.1]], [[0.6, 0.0], [0.0, 0.9]]],
        dtype=torch.float64,
    )
    centres = torch.tensor([[2.0, -1.0], [-1.5, 2.5], [0.5, -3.0], [-2.0, -0.5]], dtype=torch.float64)
    return Quadratics(curvature, centres, examples=(10, 25, 40, 75), steps=(6, 1, 3, 2))


def line(examples: tuple[int, ...], steps: tuple[int, ...]) -> Quadratics:
    """Five clients on a line, of very different curvature, with their optima at -3, -1, 0.5, 2, 7."""
    centres = torch.tensor([[-3.0], [-1.0], [0.5], [2.0], [7.0]], dtype=torch.float64)
    curvature = torch.tensor([3.0, 0.2, 0.5, 1.0, 4.0], dtype=torch.float64)[:, None, None]
    return Quadratics(curvature, centres, examples, steps)


def settings(**overrides: Scalar) -> Settings:
    """The defaults with SGD, a clip that never bites and plain averaging; then the overrides (underscores for hyphens)."""
    plain: dict[str, Scalar] = {
        "device-optimizer": "sgd",
        "learning-rate": 0.15,
        "clip-norm": 1e9,
        "drift-correction": "none",
        "server-momentum": 0.0,
    }
    return parse({**defaults(), **plain, **{key.replace("_", "-"): value for key, value in overrides.items()}})


def distance(a: Tensor, b: Tensor) -> float:
    """2-norm of the difference."""
    return float((a - b).norm())


def jitter(path: Tensor) -> float:
    """How far x [rounds, R] still moves in the last 50 rounds."""
    return float((path[-50:] - path[-1]).abs().max())


class Federation:
    """Rounds of a Quadratics problem; each device keeps its c_i and r_i in two phases, as a real one does.

    Args:
        exact: float64 travels; else what the settings say, from `precision` on.
        known: clients with which it begins; None: all.
    """

    def __init__(
        self,
        problem: Quadratics,
        setup: Settings,
        per_round: int | None = None,
        exact: bool = True,
        store: StateStore | None = None,
        seed: int = 0,
        known: Collection[int] | None = None,
    ) -> None:
        self.problem, self.settings = problem, setup
        self.channels = exact_channels(problem) if exact else make_channels(setup, layout_of(problem))
        self.clients = list(range(len(problem.examples))) if known is None else sorted(known)
        self.per_round = per_round or len(problem.examples)
        self.store = store or MemoryStore()
        self.rng = np.random.default_rng(seed)
        self.rows = MemoryRows()
        self.state: State = self.algorithm().initial(("x",), torch.zeros_like(problem.centres[0]))

    def join(self, client: int) -> None:
        """One more takes part from now on."""
        before = self.algorithm()
        self.clients = sorted([*self.clients, client])
        _, self.state = before.grow(self.state, self.cohort)

    @property
    def cohort(self) -> Cohort:
        """Of the clients that take part."""
        return Cohort.of(
            {client: (self.problem.examples[client], self.problem.steps[client]) for client in self.clients}
        )

    def round(self, asked: Sequence[int] | None = None, arrives: Callable[[int], bool] = lambda client: True) -> None:
        """One round; the replies of clients for which `arrives` is false are lost on their way back."""
        algorithm = self.algorithm()
        total = algorithm.begin(self.state)
        for client in sample_clients(self.clients, self.per_round, self.rng) if asked is None else asked:
            update = self.train(client)
            if arrives(client):
                algorithm.fold(self.state, total, update)
        self.state = algorithm.step(self.state, total)

    def run(self, rounds: int, eta: Callable[[int], float] | None = None, among: Collection[int] = ()) -> Tensor:
        """Many rounds; x after each, [rounds, R]. eta: a schedule of the device learning rate over 0 .. rounds - 1."""
        seen = []
        for number in range(rounds):
            if eta is not None:
                self.settings = replace(self.settings, local=replace(self.settings.local, learning_rate=eta(number)))
            self.round([client for client in self.clients if client in among] if among else None)
            seen.append(self.state.x)
        return torch.stack(seen)

    def train(self, client: int) -> Update:
        """A device's round: resume, train, keep what is pending, reply."""
        problem, eta, epoch = self.problem, self.settings.local.learning_rate, self.state.drift.epoch
        sent, c = self.state.round + 1, self.algorithm().downlink(self.state)
        x = self.channels.model.as_sent(self.state.x, sent)
        kept = self.store.resume(client, self.state.accepted.get(client, 0)) or ClientState(0, epoch, {})
        control = torch.zeros_like(x) if kept.control is None or kept.epoch != epoch else kept.control
        d = None
        if c is not None:
            c = self.channels.control.as_sent(c, sent)
            d = (c - control)[None]
        steps = problem.steps[client]
        blocks = [slice(0, len(x))]
        optimizer = self._optimizer(kept)
        pull = Pull(self.settings.local.proximal, len(x)) if self.settings.local.proximal else None
        result = local_update(x[None], range(steps), problem.losses(client), optimizer, d, blocks, pull)
        due = x - result.rows[0]
        if kept.residual is not None:
            due = due + kept.residual
        delta = self.channels.update.as_sent(due, client, sent)
        if c is not None:
            control = control + delta / (self.settings.local.step_sum(steps) * eta) - c
        residual = due - delta if self.settings.server.feeds_back else None
        pending = ClientState(sent, epoch, {}, control, residual=residual)
        if isinstance(optimizer, Adam) and not self.settings.local.restart_moments:
            assert optimizer.moments is not None
            stack = torch.cat([optimizer.moments.m, optimizer.moments.v])
            pending = replace(pending, moments=stack, steps=optimizer.moments.t[0])
        self.store.keep(client, pending)
        shared = self.settings.local.device_second_moment == "shared"
        moments = result.second_moments[0] if shared else None
        return Update(client, problem.examples[client], steps, delta, kept.round, moments)

    def control(self, client: int) -> Tensor:
        """c_i as the device would go on from it, [R] float64; zeros where it has none of this epoch."""
        kept = self.store.resume(client, self.state.accepted.get(client, 0))
        if kept is None or kept.control is None or kept.epoch != self.state.drift.epoch:
            return torch.zeros_like(self.state.x)
        return kept.control.to(torch.float64)

    def mean_control(self) -> Tensor:
        """sum (n_i/n) c_i over all devices that take part."""
        shares = self.problem.shares[self.clients]
        return torch.stack([self.control(client) for client in self.clients]).T @ (shares / shares.sum())

    def lose(self, client: int) -> None:
        """The device's disk dies: no round matches what is asked for here, so the store drops all it has."""
        self.store.resume(client, -1)

    def algorithm(self) -> Algorithm:
        """As the settings say now: a schedule changes them from round to round."""
        setup = replace(self.settings.federation, clients=len(self.clients), clients_per_round=self.per_round)
        return build(replace(self.settings, federation=setup), self.cohort, self.channels.control, lambda: self.rows)

    def _optimizer(self, kept: ClientState) -> DeviceOptimizer:
        local = self.settings.local
        moments = None if kept.moments is None else Moments((kept.steps,), *kept.moments[:, None])
        if local.device_optimizer == "sgd":
            return SGD(local.learning_rate, local.clip_norm, local.device_momentum)
        if local.device_second_moment == "shared" and self.state.vbar is not None:
            vbar = self.state.vbar.expand(self.state.x.shape)
            return SharedAdam(local.learning_rate, local.weight_decay, local.clip_norm, vbar, moments)
        return Adam(local.learning_rate, local.weight_decay, local.clip_norm, moments)
