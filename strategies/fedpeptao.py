"""FedPepTAO's server (EMNLP 2023, arXiv 2310.15080), as sections 2.4 and 2.5 of docs/ALGORITHMS.md define it.

One round is `fold` for each reply, in the order in which clients were sampled, then `step`:

    Delta_i = x - x_i                                        what device i sends, on the selected layers and the head
    scale_i = 1, or Kbar/K_i with step-normalised            Kbar = sum (n_i/n) K_i (FedNova, arXiv 2007.07481)
    w_i     = n_i / sum of n_j over the replies
    g       = sum w_i scale_i Delta_i                        corrected for client drift: strategies/drift.py
    m       <- beta m + (1 - beta) g                         or another optimiser: strategies/server_optimizers.py
    x       <- x - eta_s m / (1 - beta^t)                    t counts server updates
    vbar    <- .9 vbar + .1 sum w_i s_i                      shared second moments, one number per block (2.4)

State goes in, state comes out. Sums run in float64 and in the order of sampling, so their bits depend on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from strategies.drift import Drift, DriftState
from strategies.roster import Cohort
from strategies.server_optimizers import ServerOptimizer

VBAR_DECAY = 0.9


@dataclass(frozen=True)
class Update:
    """One client's reply, decoded.

    Attributes:
        client: its identity.
        examples: n_i.
        steps: K_i, the optimiser steps it took.
        delta: Delta_i = x - x_i over the shared parameters, [R].
        control_round: the round of the control variate it used; 0 if it had none.
        second_moments: s_i, the mean squared gradient per block, [blocks]; None unless they are shared.
    """

    client: int
    examples: int
    steps: int
    delta: Tensor
    control_round: int = 0
    second_moments: Tensor | None = None


@dataclass(frozen=True)
class State:
    """All that the server carries from round to round, but for the rows of `strategies/client_rows.py` beside it.

    Attributes:
        round: the last round that ended; 0 before the first.
        updates: t, the server updates so far (a round without a reply is none).
        names: the parameters that travel, in the order of x.
        x: the shared parameters, [R] float64.
        moments: the server optimiser's own, each [R] float64.
        drift: what the drift correction keeps.
        vbar: shared second moments, [blocks] float64; None before the first update, or if they are not shared.
        accepted: client -> the last round in which its reply was accepted.
        average: of x over the updates so far (strategies/averaging.py), [R] float64; None where none is kept.
    """

    round: int
    updates: int
    names: tuple[str, ...]
    x: Tensor
    moments: Mapping[str, Tensor]
    drift: DriftState
    vbar: Tensor | None = None
    accepted: Mapping[int, int] = field(default_factory=dict)
    average: Tensor | None = None

    @property
    def model(self) -> Tensor:
        """What is evaluated and given out, [R] float64: the average where one is kept, else x."""
        return self.x if self.average is None else self.average


@dataclass
class Sum:
    """What a round adds up, reply by reply; its size does not grow with the number of replies (but for a few numbers each)."""

    displacement: Tensor  # sum n_i scale_i Delta_i, or what the drift correction makes of it
    control: Tensor | None = (
        None  # of the control variates: device sum n_i Delta_i/(a_i eta); released sum K_i (c_i+ - c_i)
    )
    second_moments: Tensor | None = None  # sum n_i s_i
    examples: int = 0  # sum n_i
    steps: int = 0  # sum K_i
    lost_examples: int = 0  # of clients that had lost their control variate
    replies: list[tuple[int, int]] = field(default_factory=list)  # (client, n_i) in the order of folding


class Algorithm(Protocol):
    """A server: where it starts, what goes down beside x, what a reply adds, and what a round makes of the state."""

    def initial(self, names: tuple[str, ...], x: Tensor, after: State | None = None) -> State:
        """The state before the first round; after: the last state of the warm-up rounds, whose count goes on."""

    def downlink(self, state: State) -> Tensor | None:
        """c [R], if devices correct."""

    def begin(self, state: State) -> Sum:
        """An empty sum for one round."""

    def holds(self, state: State, update: Update) -> bool:
        """Whether what the algorithm keeps of a reply is within float32; of others nothing may be folded."""

    def fold(self, state: State, total: Sum, update: Update) -> None:
        """Adds one reply to the round's sum, in place."""

    def step(self, state: State, total: Sum) -> State:
        """The state after the round."""

    def grow(self, state: State, cohort: Cohort) -> tuple[Algorithm, State]:
        """With clients that joined between two rounds: for N, n and Kbar of all that are known now."""


@dataclass(frozen=True)
class FedPepTAO:
    """The server's half of the method, put together from parts.

    Attributes:
        drift: the correction of client drift.
        optimizer: turns the pseudo-gradient g into a direction.
        eta_s: server learning rate; at most 1 is the safe range.
        mean_steps: Kbar, if displacements are step-normalised.
    """

    drift: Drift
    optimizer: ServerOptimizer
    eta_s: float
    mean_steps: float | None = None

    def initial(self, names: tuple[str, ...], x: Tensor, after: State | None = None) -> State:
        """The state before the first round. x: [R], of any floating type.

        After warm-up rounds moments and control variates start anew (those of devices too: a new epoch).
        """
        x = x.to(torch.float64)
        state = State(0, 0, names, x, self.optimizer.initial(x), self.drift.initial(x))
        return state if after is None else go_on(state, after)

    def downlink(self, state: State) -> Tensor | None:
        """c [R], if devices correct."""
        return self.drift.downlink(state)

    def begin(self, state: State) -> Sum:
        """An empty sum for one round."""
        return Sum(displacement=torch.zeros_like(state.x))

    def holds(self, state: State, update: Update) -> bool:
        """Whether what the drift correction keeps of a reply is within float32."""
        return self.drift.holds(update, self._scale(update))

    def fold(self, state: State, total: Sum, update: Update) -> None:
        """Adds one reply to the round's sum, in place."""
        self.drift.fold(state, total, update, self._scale(update))
        if update.second_moments is not None:
            s = update.second_moments.to(torch.float64) * update.examples
            total.second_moments = s if total.second_moments is None else total.second_moments + s
        count(total, update)

    def step(self, state: State, total: Sum) -> State:
        """The state after the round. A round without a reply changes nothing but its number."""
        if not total.replies:
            return replace(state, round=state.round + 1)
        t = state.updates + 1
        g = self.drift.pseudo_gradient(state, total)
        direction, moments = self.optimizer.direction(state.moments, g, t)
        return replace(
            state,
            round=state.round + 1,
            updates=t,
            x=state.x - self.eta_s * direction,
            moments=moments,
            drift=self.drift.settle(state, total),
            vbar=_shared_second_moments(state.vbar, total),
            accepted=acknowledged(state, total),
        )

    def grow(self, state: State, cohort: Cohort) -> tuple[Algorithm, State]:
        """With clients that joined: x, moments and vbar go on; what the correction keeps stays a mean over all."""
        drift, kept = self.drift.grow(state.drift, cohort.examples)
        mean_steps = None if self.mean_steps is None else cohort.mean_steps
        return replace(self, drift=drift, mean_steps=mean_steps), replace(state, drift=kept)

    def _scale(self, update: Update) -> float:
        """scale_i."""
        return 1.0 if self.mean_steps is None else self.mean_steps / update.steps


def go_on(state: State, after: State) -> State:
    """A first state whose rounds go on where the warm-up rounds ended; control variates of that time count as none."""
    drift = replace(state.drift, epoch=after.drift.epoch + 1, epoch_round=after.round)
    return replace(state, round=after.round, accepted=after.accepted, drift=drift)


def count(total: Sum, update: Update) -> None:
    """Notes whose reply was folded."""
    total.examples += update.examples
    total.steps += update.steps
    total.replies.append((update.client, update.examples))


def acknowledged(state: State, total: Sum) -> Mapping[int, int]:
    """Client -> the last round in which its reply was accepted, after this round."""
    return {**state.accepted, **{client: state.round + 1 for client, _ in total.replies}}


def _shared_second_moments(vbar: Tensor | None, total: Sum) -> Tensor | None:
    """vbar <- .9 vbar + .1 sum w_i s_i; in the first round there is no old value (2.4)."""
    if total.second_moments is None:
        return vbar
    s = total.second_moments / total.examples
    return s if vbar is None else VBAR_DECAY * vbar + (1 - VBAR_DECAY) * s
