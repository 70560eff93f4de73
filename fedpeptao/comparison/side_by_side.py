"""The one table of a grid without a report: methods at equal rounds and at equal bytes, with every seed's figure."""

from __future__ import annotations

import statistics

from federation.durable import write_atomically
from federation.metrics import ACCURACY, NAMES
from fedpeptao.comparison.grid import ComparisonGrid
from fedpeptao.comparison.places import Figure, Place, global_test, load_places, personalised, shared
from fedpeptao.comparison.raw import Point
from fedpeptao.comparison.statistics import at_most_bytes, at_most_rounds
from fedpeptao.errors import InputError

MEASURES: dict[str, Figure] = {
    "personalised": personalised,
    "shared model, clients' shards": shared,
    "shared model, test set": global_test,
}


def write_table(grid: ComparisonGrid) -> str:
    """TABLE.md beside the cells, with the command that made it.

    Raises:
        InputError: its cells cannot stand in one table.
    """
    made = f"Made by `fedpeptao compare {grid.path.parent.name}/{grid.path.name}` from the raw figures in this folder."
    place, *others = load_places(grid)
    if others:
        problem = "it has several tasks or skews, which one table does not hold"
        raise InputError("grid", str(grid.path), problem, "Give it a report, as results/compare/main.yaml has")
    figures = "" if place.metric == ACCURACY else f" Figures are {NAMES[place.metric]}."
    text = f"{made}\nMean over seeds {list(place.seeds)}, and each seed's figure.{figures}\n\n{table(place)}\n"
    write_atomically(grid.folder / "TABLE.md", text.encode())
    return text


def table(place: Place) -> str:
    """Markdown: each measure at the last evaluation within the rounds, or the bytes, that all methods reached with that seed."""
    runs = {method.name: place.of(method.name) for method in place.methods}
    rounds = {seed: min(one[seed].last.round for one in runs.values()) for seed in place.seeds}
    sent = {seed: min(one[seed].last.sent for one in runs.values()) for seed in place.seeds}
    lines = [
        f"| method | at | MB | round | {' | '.join(MEASURES)} |",
        "|---" * (4 + len(MEASURES)) + "|",
    ]
    for name, one in runs.items():
        found = [at_most_rounds(one[seed].points, rounds[seed]) for seed in place.seeds]
        lines.append(_row(name, f"{min(rounds.values())} rounds", found))
    for name, one in runs.items():
        found = [at_most_bytes(one[seed].points, sent[seed]) for seed in place.seeds]
        lines.append(_row(name, f"{min(sent.values()) / 1e6:.0f} MB", found))
    return "\n".join(lines)


def _row(method: str, where: str, found: list[Point | None]) -> str:
    points = [point for point in found if point is not None]
    if len(points) < len(found):
        mend = "Evaluate more often, or give the cheapest method more rounds"
        raise InputError("evaluate-every", where, f"{method} has no evaluation so early", mend)
    spent = statistics.mean(point.sent for point in points) / 1e6
    rounds = ", ".join(sorted({str(point.round) for point in points}))
    cells = [_spread([figure(point) for point in points]) for figure in MEASURES.values()]
    return f"| {method} | {where} | {spent:.0f} | {rounds} | {' | '.join(cells)} |"


def _spread(figures: list[float | None]) -> str:
    there = [figure for figure in figures if figure is not None]
    if len(there) < len(figures):
        return "-"
    return f"{statistics.mean(there):.3f} ({', '.join(f'{figure:.3f}' for figure in there)})"
