"""What a row of a table reads from a method's runs: at equal rounds, at the end of a run, within equal bytes.

What floors and the ceiling give each client is read at their last evaluation, whenever that was.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from fedpeptao.comparison.grid import Report
from fedpeptao.comparison.methods import Method
from fedpeptao.comparison.places import Figure, Place, personalised
from fedpeptao.comparison.raw import Result
from fedpeptao.comparison.statistics import FEWEST_SEEDS, Interval, at_exactly, t_interval

SHARES = {"1/4": 0.25, "1/2": 0.5, "all": 1.0}
"""Of what the reference method spends."""
LAST = 5
"""Evaluations at the end of a run whose mean says more than its last one."""
Readings = dict[int, list[float | None]]
"""Seed -> what one row of a table reads from the run with that seed; None where there is none."""


def at_equal_rounds(place: Place, method: Method, report: Report, figure: Figure) -> Readings:
    """The figure after the grid's rounds."""
    return {seed: [figure(point)] for seed, point in place.closing(method.name).items()}


def lately(place: Place, method: Method, report: Report, figure: Figure) -> Readings:
    """The figure of its last evaluations within the grid's rounds.

    Of the ceiling the very last; so of a floor, but its shared model's figures, which are those of the rounds before its end.
    """
    runs = place.of(method.name)
    if method.role == "ceiling" or (method.role == "floor" and figure is personalised):
        return {seed: [figure(one.last)] for seed, one in runs.items()}
    within = {seed: [point for point in one.points if point.round <= place.rounds] for seed, one in runs.items()}
    return {seed: [figure(point) for point in several[-LAST:]] for seed, several in within.items()}


def within_bytes(place: Place, method: Method, report: Report, figure: Figure) -> Readings:
    """The figure at each share of the reference's bytes, training only, up and down."""
    budgets = {seed: point.sent for seed, point in place.closing(report.reference).items()}
    return within_shares(place, method, budgets, figure)


def within_shares(
    place: Place, method: Method, budgets: Mapping[int, float], figure: Figure, spent: Figure = lambda point: point.sent
) -> Readings:
    """The figure at each share of the seed's budget of what is spent, bytes by default; None before the first evaluation.

    Floors and the ceiling have but one evaluation, their last: they stand where all that they spent is within the share.
    """

    def within(run: Result, limit: float) -> float | None:
        return at_exactly(run.points if method.role == "method" else run.points[-1:], spent, figure, limit)

    runs = place.of(method.name)
    return {
        seed: [within(runs[seed], share * budget) for share in SHARES.values()]
        for seed, budget in budgets.items()
        if seed in runs
    }


def ahead(own: Readings, theirs: Readings) -> Interval | float | None:
    """Mean difference of two rows' means over the seeds that both have, with its t interval where those are enough."""
    pairs = [(mean_of(row), mean_of(theirs[seed])) for seed, row in own.items() if seed in theirs]
    differences = [one - other for one, other in pairs if one is not None and other is not None]
    if len(differences) >= FEWEST_SEEDS:
        return t_interval(differences)
    return statistics.fmean(differences) if differences else None


def mean_of(row: Sequence[float | None]) -> float | None:
    """None where one is missing."""
    there = [value for value in row if value is not None]
    return statistics.fmean(there) if len(there) == len(row) else None
