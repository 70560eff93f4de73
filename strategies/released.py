"""The server of the code released with FedPepTAO, for comparison only (section 2.6 of docs/ALGORITHMS.md).

    xbar = sum w_i x_i ;  D_t = x - xbar
    c_i+ = c_i - c + Delta_i/(K_i eta)                        with the old c, from round 1 on
    c+   = c + (sample rate) sum K_i (c_i+ - c_i) / sum K_i
    t = 1:  x <- xbar, v = 0.   Then:  eta_s <- max(.99 eta_s, 1e-4) before use ;  g = D_{t-1} - D_t
    v_i  = .9 v + .1 g + c+ - c_i+ ;  x <- sum w_i (xbar - eta_s v_i) ;  v <- sum w_i v_i

Aliased, as it really ran: one tensor is shared by all, so that in the order of sampling v_j = .9 v_{j-1} + .1 g + c+ - c_j+ and
x_j = x_{j-1} - eta_s v_j, from v_0 = v and x_0 = xbar; x <- sum w_j x_j, v <- sum w_j v_j. Devices never correct their steps,
so that c_i grows without bound, and Adam's moments are never reset there (restart-moments = false).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from strategies.client_rows import ClientRows, kept_row
from strategies.drift import DriftState
from strategies.fedpeptao import Algorithm, State, Sum, Update, acknowledged, count, go_on
from strategies.roster import Cohort

MOMENTUM, DECAY, LEAST_ETA_S = 0.9, 0.99, 1e-4


@dataclass(frozen=True)
class Released:
    """The released arithmetic behind the verbs of `strategies.fedpeptao.Algorithm`.

    Attributes:
        eta: the device learning rate.
        eta_s: the server learning rate before its first decay.
        sampled: clients that are sampled in a round.
        clients: N.
        aliased: with the shared tensor.
        rows: c_i of each client ever sampled.
    """

    eta: float
    eta_s: float
    sampled: int
    clients: int
    aliased: bool
    rows: ClientRows

    @property
    def sample_rate(self) -> float:
        """Share of the clients that are sampled in a round."""
        return min(self.sampled, self.clients) / self.clients

    def initial(self, names: tuple[str, ...], x: Tensor, after: State | None = None) -> State:
        """The state before the first round. x: [R], of any floating type."""
        x = x.to(torch.float64)
        moments = {"v": torch.zeros_like(x), "displacement": torch.zeros_like(x)}
        state = State(0, 0, names, x, moments, DriftState(control=torch.zeros_like(x)))
        return state if after is None else go_on(state, after)

    def downlink(self, state: State) -> Tensor | None:
        """Nothing: devices know of no correction."""
        return None

    def begin(self, state: State) -> Sum:
        """An empty sum for one round."""
        return Sum(displacement=torch.zeros_like(state.x), control=torch.zeros_like(state.x))

    def holds(self, state: State, update: Update) -> bool:
        """Whether c_i+ is within float32."""
        _, new = self._rows(state, update)
        return bool(torch.isfinite(new.to(torch.float32)).all())

    def fold(self, state: State, total: Sum, update: Update) -> None:
        """Adds n_i Delta_i and K_i (c_i+ - c_i); c_i <- c_i+."""
        assert total.control is not None
        old, new = self._rows(state, update)
        total.displacement.add_(update.delta, alpha=update.examples)
        total.control.add_(new, alpha=update.steps)
        if old is not None:
            total.control.sub_(old, alpha=update.steps)
        self.rows.write(update.client, state.round + 1, new, state.accepted.get(update.client, 0))
        count(total, update)

    def step(self, state: State, total: Sum) -> State:
        """The state after the round. A round without a reply changes nothing but its number."""
        if not total.replies:
            return replace(state, round=state.round + 1)
        assert total.control is not None
        assert state.drift.control is not None
        displacement = total.displacement / total.examples  # D_t
        c = state.drift.control + self.sample_rate * total.control / total.steps
        x, v = state.x - displacement, state.moments["v"]
        if state.updates:
            eta_s = max(DECAY**state.updates * self.eta_s, LEAST_ETA_S)
            x, v = self._average(state, total, x, state.moments["displacement"] - displacement, c, eta_s)
        return replace(
            state,
            round=state.round + 1,
            updates=state.updates + 1,
            x=x,
            moments={"v": v, "displacement": displacement},
            drift=replace(state.drift, control=c),
            accepted=acknowledged(state, total),
        )

    def grow(self, state: State, cohort: Cohort) -> tuple[Algorithm, State]:
        """c <- (N before / N) c: it is a plain mean, to which clients that joined bring c_j = 0."""
        assert state.drift.control is not None
        c = state.drift.control * (self.clients / cohort.clients)
        return replace(self, clients=cohort.clients), replace(state, drift=replace(state.drift, control=c))

    def _rows(self, state: State, update: Update) -> tuple[Tensor | None, Tensor]:
        """c_i, if there is one, and c_i+."""
        assert state.drift.control is not None
        accepted = state.accepted.get(update.client, 0)
        old = kept_row(self.rows, update.client, accepted, state.drift.epoch_round)
        change = update.delta.to(torch.float64) / (update.steps * self.eta) - state.drift.control
        return old, (change if old is None else old + change).to(update.delta.dtype)

    def _average(
        self, state: State, total: Sum, xbar: Tensor, g: Tensor, c: Tensor, eta_s: float
    ) -> tuple[Tensor, Tensor]:
        """sum w_i x_i and sum w_i v_i, client by client."""
        x_mean, v_mean = torch.zeros_like(xbar), torch.zeros_like(xbar)
        v_old, x_old = state.moments["v"], xbar
        for client, examples in total.replies:
            c_i = self.rows.read(client, state.round + 1)
            assert c_i is not None
            v_i = MOMENTUM * v_old + (1 - MOMENTUM) * g + c - c_i
            x_i = x_old - eta_s * v_i
            x_mean.add_(x_i, alpha=examples / total.examples)
            v_mean.add_(v_i, alpha=examples / total.examples)
            if self.aliased:
                v_old, x_old = v_i, x_i
        return x_mean, v_mean
