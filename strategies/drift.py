"""Corrections of client drift (section 2.5 of docs/ALGORITHMS.md; SCAFFOLD arXiv 1910.06378, FedVARP arXiv 2207.14130).

    none     g = sum w_i Delta_i
    server   g = eta ( u + sum w_i (Delta_i/eta - u_i) )
             u <- u + sum (n_i/n)(Delta_i/eta - u_i) ;  u_i <- Delta_i/eta
    device   g = sum w_i Delta_i ;  e_i = Delta_i/(a_i eta) - c ;  C <- C + sum n_i e_i ;  c = C/n
             and on the device c_i <- c_i + e_i: it corrects its steps by c - c_i (client_app/local_update.py)

w_i = n_i over the replies' examples; n: the examples of all known devices, each n_i frozen when it joined. With step-normalised,
Delta_i in g, u and u_i is scale_i Delta_i; that in e_i is not.
a_i: K_i, and with momentum on the device what its steps add up to. `server` keeps displacements per unit of learning rate, not
divided by K_i: divided, a term stays that never vanishes where the K_i differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from strategies.client_rows import ClientRows, kept_row

if TYPE_CHECKING:
    from strategies.fedpeptao import State, Sum, Update


@dataclass(frozen=True)
class DriftState:
    """What a correction keeps on the server; the u_i of `server` lie in its rows.

    Attributes:
        control: device: C = sum n_i c_i; server: u; released: c. [R] float64; None without correction.
        epoch: of the control variates; a client whose c_i is of an older one starts from 0.
        epoch_round: the round whose end began this epoch; only replies accepted later have a share in C.
        lost_examples: device: sum of n_i over clients that lost a c_i in this epoch.
    """

    control: Tensor | None = None
    epoch: int = 0
    epoch_round: int = 0
    lost_examples: int = 0


class Drift(Protocol):
    """A correction: what goes down, what a reply adds, what the sum means, and what is kept."""

    def initial(self, x: Tensor) -> DriftState:
        """Before the first round."""

    def downlink(self, state: State) -> Tensor | None:
        """c [R], if devices correct."""

    def holds(self, update: Update, scale: float) -> bool:
        """Whether what is kept of a reply is within float32; scale: of its displacement."""

    def fold(self, state: State, total: Sum, update: Update, scale: float) -> None:
        """Adds a reply, in place; scale: of its displacement."""

    def pseudo_gradient(self, state: State, total: Sum) -> Tensor:
        """The pseudo-gradient g, [R] float64."""

    def settle(self, state: State, total: Sum) -> DriftState:
        """After the round."""

    def grow(self, kept: DriftState, examples: int) -> tuple[Drift, DriftState]:
        """With clients that joined, n now being `examples`; what they have not sent yet counts as 0."""


@dataclass(frozen=True)
class NoCorrection:
    """Plain averaging of displacements."""

    def initial(self, x: Tensor) -> DriftState:
        """Nothing."""
        return DriftState()

    def downlink(self, state: State) -> Tensor | None:
        """Nothing."""
        return None

    def holds(self, update: Update, scale: float) -> bool:
        """Nothing is kept."""
        return True

    def fold(self, state: State, total: Sum, update: Update, scale: float) -> None:
        """Adds n_i Delta_i."""
        total.displacement.add_(update.delta, alpha=update.examples * scale)

    def pseudo_gradient(self, state: State, total: Sum) -> Tensor:
        """g = sum w_i Delta_i."""
        return total.displacement / total.examples

    def settle(self, state: State, total: Sum) -> DriftState:
        """Nothing changes."""
        return state.drift

    def grow(self, kept: DriftState, examples: int) -> tuple[Drift, DriftState]:
        """Nothing depends on n."""
        return self, kept


@dataclass(frozen=True)
class ServerCorrection:
    """Last displacements kept on the server; adds no traffic.

    Attributes:
        examples: n, of all clients.
        eta: the device learning rate.
        rows: u_i of each client ever sampled.
    """

    examples: int
    eta: float
    rows: ClientRows

    def initial(self, x: Tensor) -> DriftState:
        """u = 0, u_i = 0."""
        return DriftState(control=torch.zeros_like(x))

    def downlink(self, state: State) -> Tensor | None:
        """Nothing: devices know of no correction."""
        return None

    def holds(self, update: Update, scale: float) -> bool:
        """Whether Delta_i/eta is."""
        return _in_float32(update.delta, scale / self.eta)

    def fold(self, state: State, total: Sum, update: Update, scale: float) -> None:
        """Adds n_i (Delta_i/eta - u_i); u_i <- Delta_i/eta, as it is kept: u stays the mean of what the rows hold."""
        accepted = state.accepted.get(update.client, 0)
        old = kept_row(self.rows, update.client, accepted, state.drift.epoch_round)
        if old is not None:
            total.displacement.sub_(old, alpha=update.examples)
        del old  # memory holds one row, not two
        new = update.delta * (scale / self.eta)
        total.displacement.add_(new, alpha=update.examples)
        self.rows.write(update.client, state.round + 1, new, accepted)

    def pseudo_gradient(self, state: State, total: Sum) -> Tensor:
        """g = eta ( u + sum w_i (Delta_i/eta - u_i) ), with u from before this round."""
        return self.eta * (_control(state) + total.displacement / total.examples)

    def settle(self, state: State, total: Sum) -> DriftState:
        """u <- u + sum (n_i/n)(Delta_i/eta - u_i)."""
        return replace(state.drift, control=_control(state) + total.displacement / self.examples)

    def grow(self, kept: DriftState, examples: int) -> tuple[Drift, DriftState]:
        """u <- (n before / n) u, the mean over all known clients with u_j = 0 for those that joined."""
        assert kept.control is not None
        u = kept.control * (self.examples / examples)
        return replace(self, examples=examples), replace(kept, control=u)


@dataclass(frozen=True)
class DeviceCorrection:
    """Control variates on the devices; the server keeps C, their n_i-weighted sum, and sends c = C/n.

    Attributes:
        examples: n, of all clients.
        eta: the device learning rate.
        max_lost_share: share of n whose c_i may be lost before all start anew. A lost c_i stays in C for good, and the server
            cannot subtract it; a new epoch (C <- 0, all c_i <- 0) undoes it.
        as_sent: what arrives of a c sent in a round: both ends compute e_i with that.
        step_sum: K_i to a_i, on both ends alike.
    """

    examples: int
    eta: float
    max_lost_share: float = 0.0
    as_sent: Callable[[Tensor, int], Tensor] = lambda c, sent: c
    step_sum: Callable[[int], float] = lambda steps: steps

    def initial(self, x: Tensor) -> DriftState:
        """C = 0."""
        return DriftState(control=torch.zeros_like(x))

    def downlink(self, state: State) -> Tensor | None:
        """c = C/n."""
        return _control(state) / self.examples

    def holds(self, update: Update, scale: float) -> bool:
        """Whether Delta_i/(a_i eta) is: the device keeps it, and c goes down."""
        return _in_float32(update.delta, 1 / (self.step_sum(update.steps) * self.eta))

    def fold(self, state: State, total: Sum, update: Update, scale: float) -> None:
        """Adds n_i Delta_i, and n_i Delta_i/(a_i eta); counts replies with another c_i than the server knows of."""
        if total.control is None:
            total.control = torch.zeros_like(state.x)
        delta = update.delta.to(torch.float64)
        total.displacement.add_(delta, alpha=update.examples * scale)
        total.control.add_(delta, alpha=update.examples / (self.step_sum(update.steps) * self.eta))
        accepted = state.accepted.get(update.client, 0)
        if accepted > state.drift.epoch_round and update.control_round != accepted:
            total.lost_examples += update.examples

    def pseudo_gradient(self, state: State, total: Sum) -> Tensor:
        """g = sum w_i Delta_i: the devices' steps are corrected already."""
        return total.displacement / total.examples

    def settle(self, state: State, total: Sum) -> DriftState:
        """C <- C + sum n_i (Delta_i/(a_i eta) - c), or a new epoch with C = 0 when too much of it belongs to nobody any more."""
        lost = state.drift.lost_examples + total.lost_examples
        if lost > self.max_lost_share * self.examples:
            return DriftState(
                control=torch.zeros_like(state.x), epoch=state.drift.epoch + 1, epoch_round=state.round + 1
            )
        assert total.control is not None
        c = _control(state) / self.examples
        e = total.control - total.examples * self.as_sent(c, state.round + 1).to(c.dtype)
        return replace(state.drift, control=_control(state) + e, lost_examples=lost)

    def grow(self, kept: DriftState, examples: int) -> tuple[Drift, DriftState]:
        """C stays, a sum to which c_j = 0 adds nothing; c = C/n with the new n."""
        return replace(self, examples=examples), kept


def _in_float32(delta: Tensor, factor: float) -> bool:
    """Whether factor Delta_i is, in every number."""
    most = torch.linalg.vector_norm(delta, torch.inf)  # of all numbers, without a row beside them
    return float(most * factor) <= torch.finfo(torch.float32).max


def _control(state: State) -> Tensor:
    assert state.drift.control is not None
    return state.drift.control
