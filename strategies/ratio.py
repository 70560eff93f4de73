"""How many layers travel: the share r of large eigenvalues of a device's loss (section 2.2 of docs/ALGORITHMS.md).

    eigengap   R: |theta_j| > 1e-6 max|theta| and omega_j > 1e-6 / size, omega renormalised over it
               covered = union over R of [theta_j - rho_j, theta_j + rho_j]
               gap: (a, b) between covered intervals, a > 0, b - a > max(4 Lip, .05 max|theta|)
               r_i = sum of omega_j above the lowest gap
    Lip        max over a < b of ||H(delta_b - delta_a) - (g_b - g_a)|| / ||delta_b - delta_a||
    plateau    r(t) = 1 - integral of the broadened density up to t ;  r_i: where it stops falling from t = 0 on
    mean       r = sum (n_i/n) r_i

`plateau` is the released code's, for comparison: it sees its own kernel. Eigenvalues that are all 0 give .491; with one in a
million of them at 5, at 10 or at 100 they give .55, .61 or .82.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from strategies.spectrum import Floats, Spectrum, broadened

NULL = 1e-6  # of max|theta|: what is not above it counts as the null space
FAINT = 1e-6  # of an eigenvalue's mean weight: a Ritz value on its way from one cluster to the next, at no eigenvalue
NARROW = 0.05  # of max|theta|: a gap is wider

POINTS, MARGIN = 10_000, 0.01  # of plateau's grid
VARIANCE = 1e-5  # of its kernel, for a grid no wider than 1
FIRST_STEP = 0.1
FLAT = 0.005


@dataclass(frozen=True)
class Estimate:
    """A device's share.

    Attributes:
        ratio: r_i.
        gaps: every gap (a, b) found, lowest first; r_i is the share above the first. `plateau` looks for none.
        found: whether the estimator found what it looks for; an eigengap that did not says r_i = 1.
    """

    ratio: float
    gaps: tuple[tuple[float, float], ...]
    found: bool


def eigengap(spectrum: Spectrum, lipschitz: float) -> Estimate:
    """The share of the spectrum above its lowest gap.

    How the definition is read: max|theta| is over the Ritz values themselves. What is outside R neither covers nor counts, so
    that no gap begins or ends at the null space. Intervals that touch or overlap are one. A gap lies between two covered
    intervals, a where one ends and b where the next begins: nothing below the lowest or above the highest is a gap. As a > 0,
    neither is the way from negative eigenvalues to positive ones. All comparisons are strict. Where every theta is 0, R is
    empty, and there is no gap.

    Args:
        spectrum: of the Hessian of the device's loss.
        lipschitz: Lip.

    Raises:
        ValueError: a number is not finite.
    """
    if not math.isfinite(lipschitz + sum(float(a.sum()) for a in (spectrum.theta, spectrum.weight, spectrum.residual))):
        raise ValueError("the spectrum or its Lipschitz estimate is not finite")
    largest = float(np.abs(spectrum.theta).max())
    R = (np.abs(spectrum.theta) > NULL * largest) & (spectrum.weight > FAINT / spectrum.size)
    theta, omega, rho = spectrum.theta[R], spectrum.weight[R], spectrum.residual[R]
    narrow = max(4 * lipschitz, NARROW * largest)
    gaps = tuple((a, b) for a, b in _uncovered(theta - rho, theta + rho) if a > 0 and b - a > narrow)
    if not gaps:
        return Estimate(1.0, (), found=False)
    a, _ = gaps[0]
    return Estimate(float(omega[theta > a].sum() / omega.sum()), gaps, found=True)


def _uncovered(low: Floats, high: Floats) -> list[tuple[float, float]]:
    """What lies between the intervals [low_j, high_j], ascending."""
    order = np.argsort(low)
    ends, begins = np.maximum.accumulate(high[order])[:-1], low[order][1:]
    return [(float(a), float(b)) for a, b in zip(ends, begins, strict=True) if a < b]


def lipschitz(displacements: Tensor, gradients: Tensor, products: Tensor) -> float:
    """Lip: how far the gradient is from linear between any two of the points that were visited; a lower bound, in float64.

    Pairs at the same point are left out; where all are, nothing moved, and it is 0.

    Args:
        displacements: delta_s from the point where H was taken, [s + 1, R], delta_0 = 0.
        gradients: g_s there, [s + 1, R].
        products: H delta_s, [s + 1, R].

    Raises:
        ValueError: the shapes differ, or a number is not finite.
    """
    if not displacements.shape == gradients.shape == products.shape:
        raise ValueError(f"shapes {[tuple(t.shape) for t in (displacements, gradients, products)]} have to be equal")
    if not all(bool(torch.isfinite(t).all()) for t in (displacements, gradients, products)):
        raise ValueError("a displacement, gradient or Hessian-vector product is not finite")
    largest = 0.0
    for a, b in combinations(range(len(displacements)), 2):
        delta, g, H_delta = (
            t[b].to(torch.float64) - t[a].to(torch.float64) for t in (displacements, gradients, products)
        )
        if delta.any():
            largest = max(largest, float((H_delta - g).norm() / delta.norm()))
    return largest


def plateau(theta: Floats, weight: Floats) -> float:
    """r_i as the released code finds it, from the Ritz values and weights [m] of one probe.

    r is read at t = 0, step, 2 step, .. until its last three changes are each below .005; where it falls below r(0)/2 before
    that, the step is halved and the walk begins again. It ends: r changes at points of the grid only, so that once three steps
    are shorter than the way from 0 to the next of them, the first four values are equal. Near 0 where all theta are negative.
    (There the released code need not end: rounding can make its r(0) negative. Here r >= 0.)

    Raises:
        ValueError: a number is not finite, or no weight is left.
    """
    grid = np.linspace(theta.min() - MARGIN, theta.max() + MARGIN, POINTS)
    density = broadened(theta, weight, grid, VARIANCE * max(1.0, grid[-1] - grid[0]))
    total = density.sum() * (grid[1] - grid[0])
    if not 0 < total < math.inf:
        raise ValueError("the spectrum is not finite, or has no weight")
    r = np.maximum(0.0, 1.0 - np.cumsum(density[:-1] / total * np.diff(grid)))
    r = np.concatenate([[1.0], r])  # r[i]: the first i cells lie below t
    step = FIRST_STEP
    while (found := _first_plateau(grid, r, step)) is None:
        step /= 2
    return found


def _first_plateau(grid: Floats, r: Floats, step: float) -> float | None:
    """r where it stops falling, or None if it falls below r(0)/2 before."""
    values: list[float] = []
    t = 0.0
    while True:
        values.append(float(r[np.searchsorted(grid[1:], t, side="right")]))
        if values[-1] < values[0] / 2:
            return None
        if len(values) >= 4 and np.abs(np.diff(values[-4:])).max() < FLAT:
            return values[-1]
        t += step


def weighted_ratio(pairs: Iterable[tuple[int, float]]) -> float:
    """r = sum (n_i/n) r_i of pairs (n_i, r_i), n over the devices that answered; the same bits in any order.

    Raises:
        ValueError: nobody answered.
    """
    answered = list(pairs)
    n = sum(n_i for n_i, _ in answered)
    if n <= 0:
        raise ValueError("no device answered with a ratio")
    return math.fsum(n_i * r_i for n_i, r_i in answered) / n
