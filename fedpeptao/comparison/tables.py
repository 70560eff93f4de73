"""The tables of one task and skew, as Markdown. Figures are in percent, differences in points.

Floors and the ceiling stand in each table with their last evaluation, whatever they sent and when.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from fedpeptao.comparison.grid import Report
from fedpeptao.comparison.methods import Method
from fedpeptao.comparison.places import Figure, Place, difference, global_test, personalised, shared
from fedpeptao.comparison.raw import Point, Result
from fedpeptao.comparison.statistics import FEWEST_SEEDS, at_most, first_reaching, t_interval
from fedpeptao.comparison.table_text import MISSING, markdown, number, percent, points

SHARES = {"1/4": 0.25, "1/2": 0.5, "all": 1.0}
"""Of what the reference method spends."""
LAST = 5
"""Evaluations at the end of a run whose mean says more than its last one."""
COMMONEST = "each client's commonest label"
MEASURES: dict[str, Callable[[Point], float | None]] = {
    "rounds": lambda point: point.round,
    "MB": lambda point: point.sent / 1e6,
    "seconds, one after the other": lambda point: point.seconds,
    "seconds, side by side": lambda point: point.side_by_side,
}


def equal_rounds(place: Place, report: Report) -> str:
    """Each method after the grid's rounds, and paired differences to the reference."""
    head = [
        f"after {place.rounds} rounds",
        "personalised",
        "to reference",
        "shared model",
        "test set",
        "to reference",
        "MB",
    ]
    rows = [[COMMONEST, percent(place.commonest()), *[""] * 5]]
    for method in place.methods:
        name, sent = method.name, [point.sent / 1e6 for point in place.closing(method.name).values()]
        rows.append(
            [
                title(place, method),
                percent(place.figures(name, personalised)),
                _compared(place, name, report, personalised),
                percent(place.figures(name, shared)),
                percent(place.figures(name, global_test)),
                _compared(place, name, report, global_test),
                number(sent) if method.role == "method" else "",
            ]
        )
    return markdown(head, rows)


def last_evaluations(place: Place, report: Report) -> str:
    """Means over the last evaluations of each run, and how far those swing: the last round alone may be a lucky one."""
    head = [f"over the last {LAST} evaluations"]
    head += [f"{what}{column}" for what in ("personalised", "test set") for column in ("", " to reference", " swing")]
    reference = next(method for method in place.methods if method.name == report.reference)
    rows = [[COMMONEST, percent(place.commonest()), *[""] * 5]]
    for method in place.methods:
        cells = [title(place, method)]
        for figure in (personalised, global_test):
            own, theirs = (_lately(place, one, figure) for one in (method, reference))
            paired = {seed: row for seed, row in own.items() if seed in theirs}
            ahead = _ahead(paired, theirs) if method != reference else ""
            cells += [percent([_mean(row) for row in own.values()]), ahead, _swing(own)]
        rows.append(cells)
    return markdown(head, rows)


def equal_bytes(place: Place, report: Report) -> str:
    """The last evaluation within shares of the reference's bytes, seed by seed; their mean, compared with the reference's."""
    head = ["within the reference's bytes"]
    head += [f"{what} {share}" for what in ("personalised", "test set") for share in (*SHARES, "mean", "to reference")]
    budgets = {seed: point.sent for seed, point in place.closing(report.reference).items()}
    floor = percent(place.commonest())
    rows = [[COMMONEST, *[floor] * (len(SHARES) + 1), *[""] * (len(SHARES) + 3)]]
    reference = next(method for method in place.methods if method.name == report.reference)
    for method in place.methods:
        cells = [title(place, method)]
        for figure in (personalised, global_test):
            own = readings(place, method, budgets, figure)
            cells += [percent([row[column] for row in own.values()], "not yet") for column in range(len(SHARES))]
            cells.append(percent([_mean(row) for row in own.values()]))
            cells.append(_ahead(own, readings(place, reference, budgets, figure)) if method != reference else "")
        rows.append(cells)
    return markdown(head, rows)


def to_target(place: Place, report: Report) -> str:
    """Rounds, bytes and seconds until the personalised figure first is the target."""
    closing = place.closing(report.reference)
    targets = {seed: report.target * point.personalised for seed, point in closing.items()}
    rows = [_by_its_end(COMMONEST, place.commonest(), list(targets.values()))]
    for method in place.methods:
        runs = {seed: one for seed, one in place.of(method.name).items() if seed in targets}
        if method.role != "method":
            final = [one.last.personalised for one in runs.values()]
            rows.append(_by_its_end(title(place, method), final, [targets[seed] for seed in runs]))
            continue
        reached = [first_reaching(one.points, _personalised, targets[seed]) for seed, one in runs.items()]
        rows.append([title(place, method), *(_until(reached, measure) for measure in MEASURES.values())])
    share = percent(list(targets.values()), MISSING) if targets else MISSING
    return markdown([f"to a personalised figure of {share}", *MEASURES], rows)


def title(place: Place, method: Method) -> str:
    """What a row is called, with what it lacks."""
    gaps = place.gaps(method.name)
    return f"{method.title or method.name}{f' ({gaps})' if gaps else ''}"


def readings(
    place: Place, method: Method, budgets: Mapping[int, float], figure: Figure, spent: Figure = lambda point: point.sent
) -> dict[int, list[float | None]]:
    """Seed -> the figure within each share of the seed's budget of what is spent, bytes by default; None before the first."""

    def within(run: Result, limit: float) -> float | None:
        point = run.last if method.role != "method" else at_most(run.points, spent, limit)
        return None if point is None else figure(point)

    runs = place.of(method.name)
    return {
        seed: [within(runs[seed], share * budget) for share in SHARES.values()]
        for seed, budget in budgets.items()
        if seed in runs
    }


def _lately(place: Place, method: Method, figure: Figure) -> dict[int, list[float | None]]:
    """Seed -> the figure of its last evaluations within the grid's rounds; of a floor or the ceiling the very last."""
    runs = place.of(method.name)
    if method.role != "method":
        return {seed: [figure(one.last)] for seed, one in runs.items()}
    within = {seed: [point for point in one.points if point.round <= place.rounds] for seed, one in runs.items()}
    return {seed: [figure(point) for point in several[-LAST:]] for seed, several in within.items()}


def _swing(rows: Mapping[int, Sequence[float | None]]) -> str:
    """Standard deviation along each run's last evaluations, its mean over seeds; nothing of single ones."""
    there = [[value for value in row if value is not None] for row in rows.values()]
    swings = [statistics.stdev(row) for row in there if len(row) > 1]
    return percent([statistics.fmean(swings)]) if swings else ""


def _compared(place: Place, method: str, report: Report, figure: Figure) -> str:
    return "" if method == report.reference else points(difference(place, method, report.reference, figure))


def _ahead(own: dict[int, list[float | None]], theirs: dict[int, list[float | None]]) -> str:
    """Mean over seeds of the difference of the shares' means, with its t interval where there are seeds enough."""
    ways = [(_mean(row), _mean(theirs[seed])) for seed, row in own.items()]
    found = [one - other for one, other in ways if one is not None and other is not None]
    if len(found) >= FEWEST_SEEDS:
        return points(t_interval(found))
    return points(statistics.fmean(found)) if found else ""


def _mean(row: Sequence[float | None]) -> float | None:
    """None where one is missing."""
    there = [value for value in row if value is not None]
    return statistics.fmean(there) if len(there) == len(row) else None


def _until(reached: Sequence[Point | None], measure: Callable[[Point], float | None]) -> str:
    """A measure where the target was reached, by seed; a dash where it was not taken."""
    values = {seed: measure(point) for seed, point in enumerate(reached) if point is not None}
    return "-" if None in values.values() else number([values.get(seed) for seed in range(len(reached))], "never")


def _by_its_end(name: str, final: Sequence[float | None], targets: Sequence[float]) -> list[str]:
    """A row of a floor or the ceiling: in how many seeds it ends at the target or over it."""
    if not final or not targets:
        return [name, MISSING, "", "", ""]
    if None in final:
        return [name, "-", "", "", ""]
    reached = sum(one is not None and one >= target for one, target in zip(final, targets, strict=False))
    said = (
        "reached by its end" if reached == len(final) else "never" if not reached else f"in {reached} of {len(final)}"
    )
    return [name, said, "", "", ""]


def _personalised(point: Point) -> float:
    return point.personalised
