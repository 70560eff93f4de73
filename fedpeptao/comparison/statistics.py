"""The statistics of the tables: look-ups along a run, mean and spread over seeds, intervals of paired differences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedpeptao.comparison.raw import Point

LEVEL = 0.95
FEWEST_SEEDS = 3
"""With fewer an interval over seeds says nothing: t is 12.7 at two."""
DRAWS = 10_000
NEGLIGIBLE = 1e-3
"""Of a budget: two runs that send the same differ by some bytes, since a number in a message's head may take one digit more."""


@dataclass(frozen=True)
class Interval:
    """A mean difference and the ends of its 95 % confidence interval.

    Attributes:
        over_seeds: False: over the clients of the runs, which says nothing of other seeds.
    """

    mean: float
    low: float
    high: float
    over_seeds: bool = True


@dataclass(frozen=True)
class Pair:
    """Two methods on the same clients of one run each: per client its examples, and how many each got right."""

    examples: Sequence[int]
    ours: Sequence[int]
    reference: Sequence[int]


def at_exactly(
    points: Sequence[Point],
    spent: Callable[[Point], float | None],
    figure: Callable[[Point], float | None],
    limit: float,
) -> float | None:
    """The figure where so much is spent on training: on the straight line between the evaluations before and after that.

    The last one's where less was spent in all. None before the first, but for what is negligible, or unmeasured. Evaluations are
    rounds apart, and a round costs one method more than another: the last evaluation within a limit would favour some of them.
    """
    read = [(spent(point), figure(point)) for point in points]
    known = [(cost, value) for cost, value in read if cost is not None and value is not None]
    if not known or known[0][0] > limit * (1 + NEGLIGIBLE):
        return None
    costs, values = zip(*known, strict=True)
    return float(np.interp(limit, costs, values))


def at_most_bytes(points: Sequence[Point], limit: float) -> Point | None:
    """The last evaluation with no more bytes of training sent, but for what is negligible; None before the first."""
    return next((point for point in reversed(points) if point.sent <= limit * (1 + NEGLIGIBLE)), None)


def at_most_rounds(points: Sequence[Point], limit: int) -> Point | None:
    """The last evaluation at or before a round; None before the first."""
    return next((point for point in reversed(points) if point.round <= limit), None)


def first_reaching(points: Sequence[Point], figure: Callable[[Point], float], target: float) -> Point | None:
    """The first evaluation whose figure is the target or more; None: never."""
    return next((point for point in points if figure(point) >= target), None)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation over seeds (n - 1); None of a single one."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def rise_and_swing(values: Sequence[float]) -> tuple[float, float] | None:
    """How far the straight line through evaluations of one run climbs from the first to the last, and how far they lie off it.

    The latter is the residuals' standard deviation (n - 2). None of fewer than three.
    """
    if len(values) < 3:
        return None
    places = range(len(values))
    slope, start = statistics.linear_regression(places, values)
    squares = sum((value - start - slope * place) ** 2 for place, value in zip(places, values, strict=True))
    return slope * places[-1], (squares / (len(values) - 2)) ** 0.5


def t_interval(differences: Sequence[float]) -> Interval:
    """Student's interval of the mean of paired differences, one per seed.

    Raises:
        ValueError: fewer than FEWEST_SEEDS.
    """
    if len(differences) < FEWEST_SEEDS:
        raise ValueError(f"{len(differences)} seeds are too few for an interval over seeds")
    from scipy.stats import t

    mean, spread = mean_and_spread(differences)
    assert spread is not None
    count = len(differences)
    half = float(t.ppf((1 + LEVEL) / 2, count - 1)) * spread / count**0.5
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(pairs: Sequence[Pair], draws: int = DRAWS, seed: int = 0) -> Interval:
    """Percentile interval of the difference of two pooled accuracies, clients drawn with replacement within each run.

    pairs: one per run; the difference is the mean over runs. A client's examples stay together: they are not independent.
    """
    rng, sums, means = np.random.default_rng(seed), np.zeros(draws), []
    for pair in pairs:
        examples = np.asarray(pair.examples, dtype=np.float64)
        gained = np.asarray(pair.ours, dtype=np.float64) - np.asarray(pair.reference, dtype=np.float64)
        drawn = rng.integers(len(examples), size=(draws, len(examples)))
        sums += gained[drawn].sum(axis=1) / examples[drawn].sum(axis=1)
        means.append(gained.sum() / examples.sum())
    low, high = np.quantile(sums / len(pairs), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.mean(means)), float(low), float(high), over_seeds=False)
