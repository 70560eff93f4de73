"""A moving average of the shared parameters, beside any server: what it makes of a round is followed, and never fed back.

With few clients a round whose labels differ, x swings from round to round around where it goes; its average swings less, and is
what is evaluated and given out (Polyak and Juditsky 1992; in federated learning, over windows, IMA, arXiv 2305.07845). Training
goes on from x itself, bit by bit as without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from strategies.fedpeptao import Algorithm, State, Sum, Update
from strategies.roster import Cohort


@dataclass(frozen=True)
class Averaged:
    """Another algorithm, with the exponential moving average of its x in the state.

        a_t = sum_s d^(t-s) x_s / sum_s d^(t-s)          s = 1 .. t, the server updates so far

    so that a_1 = x_1, whatever the decay: initial values have no part in it.

    Attributes:
        inner: makes x.
        decay: d, above 0 and below 1; it averages about the last 1/(1 - d) updates.
    """

    inner: Algorithm
    decay: float

    def initial(self, names: tuple[str, ...], x: Tensor, after: State | None = None) -> State:
        """As without: there is no average before the first update."""
        return self.inner.initial(names, x, after)

    def downlink(self, state: State) -> Tensor | None:
        """c [R], if devices correct."""
        return self.inner.downlink(state)

    def begin(self, state: State) -> Sum:
        """An empty sum for one round."""
        return self.inner.begin(state)

    def holds(self, state: State, update: Update) -> bool:
        """As the other algorithm."""
        return self.inner.holds(state, update)

    def fold(self, state: State, total: Sum, update: Update) -> None:
        """Adds one reply to the round's sum, in place."""
        self.inner.fold(state, total, update)

    def step(self, state: State, total: Sum) -> State:
        """The state after the round, with its average; a round without an update leaves that as it is."""
        new = self.inner.step(state, total)
        if new.updates == state.updates:
            return new
        weight = (1 - self.decay) / (1 - self.decay**new.updates)  # of x_t in a_t
        old = new.x if state.average is None else state.average
        return replace(new, average=old + weight * (new.x - old))

    def grow(self, state: State, cohort: Cohort) -> tuple[Algorithm, State]:
        """With clients that joined: the average goes on."""
        inner, grown = self.inner.grow(state, cohort)
        return replace(self, inner=inner), grown
