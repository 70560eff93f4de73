"""The tables of one task and skew, as Markdown. Figures are in percent, differences in points.

Each has a row for every method that has been run. Floors and the ceiling are read at their last evaluation.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from fedpeptao.comparison.grid import Report
from fedpeptao.comparison.methods import Method
from fedpeptao.comparison.places import Figure, Place, difference, global_test, personalised, shared
from fedpeptao.comparison.raw import Point
from fedpeptao.comparison.readings import LAST, SHARES, Readings, ahead, lately, mean_of, within_bytes
from fedpeptao.comparison.statistics import first_reaching, rise_and_swing
from fedpeptao.comparison.table_text import MISSING, markdown, number, percent, points

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
    rows = [[COMMONEST, percent(_floors(place)), *[""] * 5]]
    for method in place.shown:
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
    """Means over the last evaluations of each run, how far they still rise, and how far they swing: the last is partly luck."""
    head = [f"over the last {LAST} evaluations"]
    columns = ("", " to reference", " rise", " swing")
    head += [f"{what}{column}" for what in ("personalised", "test set") for column in columns]
    reference = next(method for method in place.methods if method.name == report.reference)
    rows = [[COMMONEST, percent(_floors(place)), *[""] * 7]]
    for method in place.shown:
        cells = [title(place, method)]
        for figure in (personalised, global_test):
            own, theirs = (lately(place, one, report, figure) for one in (method, reference))
            compared = points(ahead(own, theirs)) if method != reference else ""
            cells += [percent([mean_of(row) for row in own.values()]), compared, *_course(own)]
        rows.append(cells)
    return markdown(head, rows)


def equal_bytes(place: Place, report: Report) -> str:
    """Figures at shares of the reference's bytes, seed by seed; their mean, compared with the reference's."""
    head = ["within the reference's bytes"]
    head += [f"{what} {share}" for what in ("personalised", "test set") for share in (*SHARES, "mean", "to reference")]
    floor = percent(_floors(place))
    rows = [[COMMONEST, *[floor] * (len(SHARES) + 1), *[""] * (len(SHARES) + 3)]]
    reference = next(method for method in place.methods if method.name == report.reference)
    for method in place.shown:
        cells = [title(place, method)]
        for figure in (personalised, global_test):
            own = within_bytes(place, method, report, figure)
            there = any(value is not None for value in place.figures(method.name, figure))
            never = "not yet" if there else "-"
            cells += [percent([row[column] for row in own.values()], never) for column in range(len(SHARES))]
            cells.append(percent([mean_of(row) for row in own.values()]))
            cells.append(
                points(ahead(own, within_bytes(place, reference, report, figure))) if method != reference else ""
            )
        rows.append(cells)
    return markdown(head, rows)


def to_target(place: Place, report: Report) -> str:
    """Rounds, bytes and seconds until the personalised figure first is the target."""
    closing = place.closing(report.reference)
    targets = {seed: report.target * point.personalised for seed, point in closing.items()}
    floors = {seed: floor for seed, floor in place.commonest().items() if seed in targets}
    rows = [_by_its_end(COMMONEST, floors, targets)]
    for method in place.shown:
        runs = {seed: one for seed, one in place.of(method.name).items() if seed in targets}
        if method.role != "method":
            final = {seed: one.last.personalised for seed, one in runs.items()}
            rows.append(_by_its_end(title(place, method), final, targets))
            continue
        reached = [first_reaching(one.points, _personalised, targets[seed]) for seed, one in runs.items()]
        rows.append([title(place, method), *(_until(reached, measure) for measure in MEASURES.values())])
    share = percent(list(targets.values()), MISSING) if targets else MISSING
    return markdown([f"to a personalised figure of {share}{_below(floors, targets)}", *MEASURES], rows)


def title(place: Place, method: Method) -> str:
    """What a row is called, with what it lacks."""
    gaps = place.gaps(method.name)
    return f"{method.title or method.name}{f' ({gaps})' if gaps else ''}"


def _floors(place: Place) -> list[float | None]:
    return list(place.commonest().values())


def _below(floors: Mapping[int, float | None], targets: Mapping[int, float]) -> str:
    """Said where commonest labels alone would reach the target: then it is no measure of what a model has learned."""
    there = [floor for floor in floors.values() if floor is not None]
    below = there and statistics.fmean(targets.values()) < statistics.fmean(there)
    return f", less than {COMMONEST} gives" if below else ""


def _course(rows: Readings) -> tuple[str, str]:
    """Rise and swing of each run's last evaluations, their means over seeds; nothing of single ones."""
    there = [rise_and_swing([value for value in row if value is not None]) for row in rows.values()]
    known = [course for course in there if course is not None]
    if not known:
        return "", ""
    rises, swings = zip(*known, strict=True)
    return points(statistics.fmean(rises)), percent([statistics.fmean(swings)])


def _compared(place: Place, method: str, report: Report, figure: Figure) -> str:
    return "" if method == report.reference else points(difference(place, method, report.reference, figure))


def _until(reached: Sequence[Point | None], measure: Callable[[Point], float | None]) -> str:
    """A measure where the target was reached, by seed; a dash where it was not taken."""
    values = {seed: measure(point) for seed, point in enumerate(reached) if point is not None}
    return "-" if None in values.values() else number([values.get(seed) for seed in range(len(reached))], "never")


def _by_its_end(name: str, final: Mapping[int, float | None], targets: Mapping[int, float]) -> list[str]:
    """A row of a floor or the ceiling, by seed: in how many it ends at the target or over it."""
    if not final:
        return [name, MISSING, "", "", ""]
    if None in final.values():
        return [name, "-", "", "", ""]
    reached = sum(one is not None and one >= targets[seed] for seed, one in final.items())
    said = (
        "reached by its end" if reached == len(final) else "never" if not reached else f"in {reached} of {len(final)}"
    )
    return [name, said, "", "", ""]


def _personalised(point: Point) -> float:
    return point.personalised
