"""What the server holds of its clients' conduct: norms of the last accepted updates, and refused replies by client.

A round judges by what was held when it began, so that the judgement of a reply does not depend on which others came before it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

WINDOW, ENOUGH = 64, 5


@dataclass(frozen=True)
class Standing:
    """It goes on from round to round, and with a run's checkpoint.

    Attributes:
        norms: 2-norms of the last accepted updates, of at most WINDOW, the latest last; empty where no limit is set.
        strikes: client -> its refused training replies since its last accepted one.
        refused: client -> its refused replies over the run.
    """

    norms: tuple[float, ...] = ()
    strikes: Mapping[int, int] = field(default_factory=dict)
    refused: Mapping[int, int] = field(default_factory=dict)

    def left_out(self, strikes: int) -> tuple[int, ...]:
        """Clients that are asked no more, ascending; strikes: refused replies in a row that make one, 0: never."""
        return tuple(sorted(client for client, count in self.strikes.items() if strikes and count >= strikes))

    def most(self, limit: float) -> float:
        """The largest norm that is accepted, limit times the median; infinite without a limit, or with too few norms."""
        typical = median(self.norms) if limit and len(self.norms) >= ENOUGH else 0.0
        return limit * typical or math.inf

    def after(self, accepted: Collection[int], refused: Iterable[int], norms: Sequence[float]) -> Standing:
        """After a round of training; norms: of the accepted updates, in the order of sampling."""
        refused = list(refused)
        strikes = {client: count for client, count in self.strikes.items() if client not in accepted}
        for client in refused:
            strikes[client] = strikes.get(client, 0) + 1
        return replace(self.counting(refused), norms=(*self.norms, *norms)[-WINDOW:], strikes=strikes)

    def counting(self, refused: Iterable[int]) -> Standing:
        """With these refused replies; a client is left out for its training alone."""
        return replace(self, refused=dict(Counter(self.refused) + Counter(refused)))

    def anew(self) -> Standing:
        """For other parameters, whose norms are of another size."""
        return replace(self, norms=())
