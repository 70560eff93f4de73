"""What the server makes of a pseudo-gradient: a direction to step against (section 2.5 of docs/ALGORITHMS.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Moments = Mapping[str, Tensor]


class ServerOptimizer(Protocol):
    """Two verbs; its moments live in the server's state."""

    def initial(self, x: Tensor) -> Moments:
        """Moments before the first update, each like x."""

    def direction(self, moments: Moments, g: Tensor, t: int) -> tuple[Tensor, Moments]:
        """The direction [R] for pseudo-gradient g [R] at server update t = 1, 2, .., and the new moments."""


@dataclass(frozen=True)
class Momentum:
    """m <- beta m + (1 - beta) g, corrected for its start at 0. With beta = 0 it is plain averaging."""

    beta: float

    def initial(self, x: Tensor) -> Moments:
        """m = 0."""
        return {"m": torch.zeros_like(x)}

    def direction(self, moments: Moments, g: Tensor, t: int) -> tuple[Tensor, Moments]:
        """m / (1 - beta^t)."""
        m = self.beta * moments["m"] + (1 - self.beta) * g
        return m / (1 - self.beta**t), {"m": m}
