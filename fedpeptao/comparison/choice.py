"""Which method to choose when: some of a grid's in one table, within equal bytes and within equal seconds of training."""

from __future__ import annotations

from fedpeptao.comparison.grid import Report
from fedpeptao.comparison.methods import Method
from fedpeptao.comparison.places import Figure, Place, personalised
from fedpeptao.comparison.readings import SHARES, within_shares
from fedpeptao.comparison.table_text import MISSING, markdown, number, percent
from fedpeptao.comparison.tables import title

SPENT: dict[str, tuple[str, Figure]] = {
    "bytes": ("MB", lambda point: point.sent),
    "seconds": ("seconds", lambda point: point.seconds),
}
"""What is to be equal, its column, and what an evaluation had cost by then; seconds are of one client after the other."""


def choice(place: Place, report: Report) -> str:
    """The personalised figure within shares of what the reference spends, and what each method spends in all."""
    shares = [f"{share} of the {what}" for what in SPENT for share in SHARES]
    head = ["personalised, within the reference's", *shares, *(name for name, _ in SPENT.values())]
    rows = []
    for method in (one for one in place.shown if one.name in report.choice):
        cells = [title(place, method)]
        for _, spent in SPENT.values():
            cells += _within(place, method, report, spent)
        for what, (_, spent) in SPENT.items():
            cells.append(_total(place, method, spent, 1e6 if what == "bytes" else 1.0))
        rows.append(cells)
    return markdown(head, rows)


def _within(place: Place, method: Method, report: Report, spent: Figure) -> list[str]:
    costs = {seed: spent(point) for seed, point in place.closing(report.reference).items()}
    budgets = {seed: cost for seed, cost in costs.items() if cost is not None}
    own = within_shares(place, method, budgets, personalised, spent)
    return [
        percent([row[column] for row in own.values()], "not yet") if own else MISSING for column in range(len(SHARES))
    ]


def _total(place: Place, method: Method, spent: Figure, unit: float) -> str:
    """At equal rounds; a dash where it was not measured."""
    costs = [spent(point) for point in place.closing(method.name).values()]
    known = [cost / unit for cost in costs if cost is not None]
    return number(known) if known and len(known) == len(costs) else "-"
