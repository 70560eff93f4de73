"""What the server makes of a pseudo-gradient g: a direction, x <- x - eta_s direction (section 2.5 of docs/ALGORITHMS.md).

momentum      m <- beta m + (1 - beta) g ;  m / (1 - beta^t)                       beta = 0: plain averaging
heavy-ball    m <- beta m + g ;  m                                                 FedAvgM, arXiv 1909.06335
adaptive      m <- beta m + (1 - beta) g ;  m / (sqrt(v) + tau), v = tau^2 at first   FedOpt, arXiv 2003.00295, algorithm 2:
  adam        v <- beta_2 v + (1 - beta_2) g^2                                     which corrects neither m nor v for its start
  yogi        v <- v - (1 - beta_2) g^2 sign(v - g^2)
  adagrad     v <- v + g^2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """A running mean of pseudo-gradients, corrected for its start at 0. With beta = 0 it is plain averaging."""

    beta: float

    def initial(self, x: Tensor) -> Moments:
        """m = 0."""
        return {"m": torch.zeros_like(x)}

    def direction(self, moments: Moments, g: Tensor, t: int) -> tuple[Tensor, Moments]:
        """m / (1 - beta^t)."""
        m = self.beta * moments["m"] + (1 - self.beta) * g
        return m / (1 - self.beta**t), {"m": m}


@dataclass(frozen=True)
class HeavyBall:
    """A decaying sum of pseudo-gradients: at length its steps are 1/(1 - beta) times those of Momentum."""

    beta: float

    def initial(self, x: Tensor) -> Moments:
        """m = 0."""
        return {"m": torch.zeros_like(x)}

    def direction(self, moments: Moments, g: Tensor, t: int) -> tuple[Tensor, Moments]:
        """m."""
        m = self.beta * moments["m"] + g
        return m, {"m": m}


SecondMoment = Callable[[Tensor, Tensor, float], Tensor]  # (v, g^2, beta_2) -> the new v


@dataclass(frozen=True)
class Adaptive:
    """A step per parameter, by the size of its past pseudo-gradients.

    Attributes:
        second_moment: adam, yogi or adagrad.
        beta: of m.
        beta_2: of v.
        tau: the degree of adaptivity; small is more adaptive.
    """

    second_moment: SecondMoment
    beta: float
    beta_2: float
    tau: float

    def initial(self, x: Tensor) -> Moments:
        """m = 0, v = tau^2."""
        return {"m": torch.zeros_like(x), "v": torch.full_like(x, self.tau**2)}

    def direction(self, moments: Moments, g: Tensor, t: int) -> tuple[Tensor, Moments]:
        """m / (sqrt(v) + tau)."""
        m = self.beta * moments["m"] + (1 - self.beta) * g
        v = self.second_moment(moments["v"], g * g, self.beta_2)
        return m / (v.sqrt() + self.tau), {"m": m, "v": v}


def adam(v: Tensor, square: Tensor, beta_2: float) -> Tensor:
    """v <- beta_2 v + (1 - beta_2) g^2."""
    return beta_2 * v + (1 - beta_2) * square


def yogi(v: Tensor, square: Tensor, beta_2: float) -> Tensor:
    """v <- v - (1 - beta_2) g^2 sign(v - g^2)."""
    return v - (1 - beta_2) * square * torch.sign(v - square)


def adagrad(v: Tensor, square: Tensor, beta_2: float) -> Tensor:
    """v <- v + g^2; it never forgets, so beta_2 plays no part."""
    return v + square
