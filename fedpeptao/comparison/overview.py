"""A grid's tasks and skews side by side: a table for each figure, a column for each place."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from fedpeptao.comparison.grid import Report
from fedpeptao.comparison.methods import Method
from fedpeptao.comparison.places import Figure, Place, global_test, personalised
from fedpeptao.comparison.readings import LAST, Readings, at_equal_rounds, lately, mean_of, within_bytes
from fedpeptao.comparison.table_text import markdown
from fedpeptao.comparison.tables import COMMONEST

Reading = Callable[[Place, Method, Report, Figure], Readings]
OVERVIEW: dict[str, tuple[Reading, Figure]] = {
    "personalised, at equal rounds": (at_equal_rounds, personalised),
    "personalised, within equal bytes (mean of the shares)": (within_bytes, personalised),
    "test set, at equal rounds": (at_equal_rounds, global_test),
    f"test set, over the last {LAST} evaluations": (lately, global_test),
}


def overview(places: Mapping[str, Place], report: Report) -> str:
    """Means over seeds; in brackets the mean paired difference to the reference, over the seeds that both have.

    The last table is of what was sent, and in brackets its share of the reference's.

    places: by the heads of their columns; with the same methods.
    """
    tables = [_table(head, read, figure, places, report) for head, (read, figure) in OVERVIEW.items()]
    return "\n\n".join([*tables, _sent(places, report)])


def _table(head: str, read: Reading, figure: Figure, places: Mapping[str, Place], report: Report) -> str:
    methods = next(iter(places.values())).methods
    reference = next(method for method in methods if method.name == report.reference)
    rows = []
    if figure is personalised:
        rows.append([COMMONEST, *(_mean(list(place.commonest().values())) for place in places.values())])
    for method in methods:
        cells = []
        for place in places.values():
            own, theirs = read(place, method, report, figure), read(place, reference, report, figure)
            cells.append(_cell(own, {} if method == reference else theirs, len(place.of(reference.name))))
        if any(cells):
            rows.append([method.title or method.name, *cells])
    return markdown([head, *places], rows)


def _sent(places: Mapping[str, Place], report: Report) -> str:
    """Megabytes of training up to the grid's rounds, of methods alone: floors and the ceiling count as free."""
    rows = []
    for method in next(iter(places.values())).methods:
        cells = []
        for place in places.values() if method.role == "method" else ():
            own, theirs = place.closing(method.name), place.closing(report.reference)
            shares = [point.sent / theirs[seed].sent for seed, point in own.items() if seed in theirs]
            sent = [point.sent / 1e6 for point in own.values()]
            cells.append(f"{statistics.fmean(sent):.0f} ({statistics.fmean(shares):.2f})" if shares else "")
        if any(cells):
            rows.append([method.title or method.name, *cells])
    return markdown(["MB sent, and its share of the reference's", *places], rows)


def _cell(own: Readings, theirs: Readings, seeds: int) -> str:
    """The figure, its difference, and how many seeds where the reference has more; "" where a reading is missing."""
    figures = {seed: mean_of(row) for seed, row in own.items()}
    mean = _mean(list(figures.values()))
    if not mean:
        return ""
    pairs = [(figure, mean_of(theirs[seed])) for seed, figure in figures.items() if seed in theirs]
    ahead = [one - other for one, other in pairs if one is not None and other is not None]
    text = f"{mean} ({100 * statistics.fmean(ahead):+.1f})" if ahead else mean
    return text if len(own) >= seeds else f"{text}, {len(own)} of {seeds} seeds"


def _mean(values: Sequence[float | None]) -> str:
    """In percent; "" where one is missing or there is none."""
    there = [value for value in values if value is not None]
    return f"{100 * statistics.fmean(there):.1f}" if there and len(there) == len(values) else ""
