"""Which method to choose when: some of a grid's at all its places, within equal bytes and within equal seconds of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedpeptao.comparison.grid import Report
from fedpeptao.comparison.methods import Method
from fedpeptao.comparison.places import Figure, Place, global_test, personalised
from fedpeptao.comparison.readings import SHARES, mean_of, within_shares
from fedpeptao.comparison.table_text import markdown, number, percent
from fedpeptao.comparison.tables import title

SPENT: dict[str, tuple[str, Figure, float]] = {
    "bytes": ("MB", lambda point: point.sent, 1e6),
    "seconds": ("seconds", lambda point: point.seconds, 1.0),
}
"""What is to be equal, its column, what an evaluation had cost by then, and the column's unit; one client after the other."""
FIGURES: dict[str, Figure] = {"personalised": personalised, "test set": global_test}
LEVEL = 0.01
"""Less below the best at its place counts as level with it."""


def choice(places: Mapping[str, Place], report: Report) -> str:
    """A table of clients' own figures and one of the shared model's, within shares of what the reference spends.

    Bold is what is best at a place, or level with it; a row with fewer seeds than the reference is in no such comparison. Places
    where fewer than two of the methods have been run are left out; "" where that leaves none.

    places: by the heads of their rows.
    """
    met = {head: (place, [one for one in place.shown if one.name in report.choice]) for head, place in places.items()}
    met = {head: (place, methods) for head, (place, methods) in met.items() if len(methods) > 1}
    shares = [f"{share} of the {what}" for what in SPENT for share in SHARES]
    tables = []
    for name, figure in FIGURES.items() if met else ():
        rows = [row for head, (place, methods) in met.items() for row in _rows(head, place, methods, figure, report)]
        columns = [f"{name}, within the reference's", "", *shares, *(unit for unit, _, _ in SPENT.values())]
        tables.append(markdown(columns, rows))
    return "\n\n".join(tables)


def _rows(head: str, place: Place, methods: Sequence[Method], figure: Figure, report: Report) -> Iterator[list[str]]:
    """Of one place, whose head is said once."""
    readings = {method.name: _columns(place, method, figure, report) for method in methods}
    means = {name: [mean_of(column) if column else None for column in row] for name, row in readings.items()}
    whole = [name for name in means if place.of(name).keys() >= place.of(report.reference).keys()]
    best = [
        max((one for one in column if one is not None), default=None)
        for column in zip(*(means[name] for name in whole), strict=True)
    ]
    for method in methods:
        cells = [percent(column, "not yet") for column in readings[method.name]]
        if method.name in whole:
            cells = [
                f"**{cell}**" if top is not None and mean is not None and mean > top - LEVEL else cell
                for cell, mean, top in zip(cells, means[method.name], best, strict=True)
            ]
        yield [head if method is methods[0] else "", title(place, method), *cells, *_spent(place, method)]


def _columns(place: Place, method: Method, figure: Figure, report: Report) -> list[list[float | None]]:
    """By what is spent and share of it, then by seed; a seed is missing where the reference's was not measured."""
    columns = []
    for _, spent, _ in SPENT.values():
        costs = {seed: spent(point) for seed, point in place.closing(report.reference).items()}
        budgets = {seed: cost for seed, cost in costs.items() if cost is not None}
        own = within_shares(place, method, budgets, figure, spent)
        columns += [[row[column] for row in own.values()] for column in range(len(SHARES))]
    return columns


def _spent(place: Place, method: Method) -> Iterator[str]:
    """At equal rounds; a dash where it was not measured."""
    for _, spent, unit in SPENT.values():
        costs = [spent(point) for point in place.closing(method.name).values()]
        known = [cost / unit for cost in costs if cost is not None]
        yield number(known) if known and len(known) == len(costs) else "-"
