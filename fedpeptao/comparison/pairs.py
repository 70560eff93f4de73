"""Two methods of a grid against each other: every difference with its interval, a column for each place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedpeptao.comparison.grid import Report
from fedpeptao.comparison.methods import Method
from fedpeptao.comparison.places import Figure, Place, difference, global_test, personalised
from fedpeptao.comparison.readings import LAST, SHARES, Readings, ahead, lately, within_bytes
from fedpeptao.comparison.statistics import Interval
from fedpeptao.comparison.table_text import markdown, points

Difference = Callable[[Place, Method, Method, Report], Interval | float | None]


def _at_the_end(figure: Figure) -> Difference:
    return lambda place, one, other, report: difference(place, one.name, other.name, figure)


def _lately(figure: Figure) -> Difference:
    return lambda place, one, other, report: ahead(
        lately(place, one, report, figure), lately(place, other, report, figure)
    )


def _within(shares: slice) -> Difference:
    """personalised: means over those shares of the reference's bytes."""

    def cut(place: Place, method: Method, report: Report) -> Readings:
        return {seed: row[shares] for seed, row in within_bytes(place, method, report, personalised).items()}

    return lambda place, one, other, report: ahead(cut(place, one, report), cut(place, other, report))


DIFFERENCES: dict[str, Difference] = {
    "personalised, at equal rounds": _at_the_end(personalised),
    f"personalised, over the last {LAST} evaluations": _lately(personalised),
    f"personalised, within {next(iter(SHARES))} of the reference's bytes": _within(slice(1)),
    "personalised, within equal bytes (mean of the shares)": _within(slice(None)),
    "test set, at equal rounds": _at_the_end(global_test),
    f"test set, over the last {LAST} evaluations": _lately(global_test),
}


def pairs(places: Mapping[str, Place], report: Report) -> list[str]:
    """A table for each pair that has met: the one less the other, in points, over the seeds that both have.

    places: by the heads of their columns; with the same methods.
    """
    methods = {method.name: method for method in next(iter(places.values())).methods}
    tables = []
    for one, other in ((methods[first], methods[second]) for first, second in report.pairs):
        met = {
            f"{head} ({_seeds(place, one, other)})": place
            for head, place in places.items()
            if _common(place, one, other)
        }
        rows = [
            [name, *(points(measure(place, one, other, report)) for place in met.values())]
            for name, measure in DIFFERENCES.items()
        ]
        if met:
            tables.append(markdown([f"{one.title or one.name} less {other.title or other.name}", *met], rows))
    return tables


def _common(place: Place, one: Method, other: Method) -> list[int]:
    return [seed for seed in place.of(one.name) if seed in place.of(other.name)]


def _seeds(place: Place, one: Method, other: Method) -> str:
    count = len(_common(place, one, other))
    return f"{count} seed{'' if count == 1 else 's'}"
