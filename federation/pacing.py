"""How many of its batches a client sees in a round (section 3 of docs/ALGORITHMS.md): both ends reckon with it.

q = min(1, t / (a T)) ,  t = 0 .. T-1            linear  p = b0 + (1 - b0) q
n_t = ceil(n p)                                  sqrt    p = sqrt(b0^2 + (1 - b0^2) q)
                                                 exp     p = b0^(1 - q)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_ROUNDING = 1e-6  # keeps n p = 6.0000000001 at 6


@dataclass(frozen=True)
class Pacing:
    """A curriculum's pace.

    Attributes:
        kind: "none" (all batches in every round), "linear", "sqrt" or "exp".
        start: b0, the share in the first round.
        full: a, the share of the rounds after which it is 1.
        rounds: T, warm-up included.
    """

    kind: str = "none"
    start: float = 1.0
    full: float = 1.0
    rounds: int = 1

    def share(self, server_round: int) -> float:
        """p in a round; rounds count from 1."""
        if self.kind == "none":
            return 1.0
        q, b0 = min(1.0, (server_round - 1) / (self.full * self.rounds)), self.start
        match self.kind:
            case "linear":
                return b0 + (1 - b0) * q
            case "sqrt":
                return math.sqrt(b0**2 + (1 - b0**2) * q)
            case "exp":
                return float(b0 ** (1 - q))
        raise ValueError(f"there is no pacing {self.kind!r}")

    def batches(self, count: int, server_round: int) -> int:
        """n_t of a client with so many batches: at least 1, at most all."""
        return min(count, max(1, math.ceil(count * self.share(server_round) - _ROUNDING)))

    def steps(self, all_steps: int, epochs: int, server_round: int) -> int:
        """K_i in a round, of a client that takes `all_steps` in so many epochs over all its batches."""
        return epochs * self.batches(all_steps // epochs, server_round)

    def is_whole_in(self, server_round: int) -> bool:
        """Whether a round sees everything, however many batches there are."""
        return self.share(server_round) >= 1 - 1e-9
