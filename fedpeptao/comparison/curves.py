"""A picture of one task and skew: figures by round and by traffic, mean and spread over seeds."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from federation.durable import make_folder, write_atomically
from federation.metrics import NAMES
from fedpeptao.comparison.methods import Method
from fedpeptao.comparison.places import Figure, Place, global_test, personalised
from fedpeptao.comparison.raw import Point
from fedpeptao.comparison.statistics import mean_and_spread
from fedpeptao.comparison.tables import COMMONEST, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#777777"
"""Readable on white and on black: the pages are read on either."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
MARKERS = "os^Dv*PX"
SHORT = 45
"""Characters of a label of which three stand side by side."""
PANELS: tuple[tuple[str, Callable[[Point], float], str, Figure], ...] = (
    ("Round", lambda point: point.round, "Personalised", personalised),
    ("Traffic so far, up plus down (MB)", lambda point: point.sent / 1e6, "Personalised", personalised),
    ("Traffic so far, up plus down (MB)", lambda point: point.sent / 1e6, "Test set", global_test),
)
"""What each shows: the label of its x, x of an evaluation, whose figure, and that figure."""


def draw(place: Place, methods: Sequence[Method], path: Path) -> bool:
    """Writes an SVG of those methods' runs here, floors, ceiling and commonest labels as lines across.

    Returns:
        False where there is no run of a method yet, or more rows than colours: nobody could tell them apart. A picture of before
        goes then.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = [method for method in methods if place.of(method.name)]
    if all(method.role != "method" for method in shown) or len(shown) > len(COLOURS):
        path.unlink(missing_ok=True)
        return False
    with (
        rc_context({"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK}),
        rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}),
    ):
        canvas = Canvas(figsize=(12, 4.8), layout=ConstrainedLayoutEngine())
        panels = canvas.subplots(1, len(PANELS))
        for panel, (label, x_of, whose, figure) in zip(panels, PANELS, strict=True):
            _fill(panel, place, shown, x_of, figure)
            panel.set_xlabel(label)
            panel.set_title(f"{whose}, {NAMES[place.metric]} (%)", color=INK, fontsize=10)
        handles, labels = panels[0].get_legend_handles_labels()
        columns = 3 if max(map(len, labels)) <= SHORT else 2
        canvas.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
        content = io.BytesIO()
        canvas.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    make_folder(path.parent)
    write_atomically(path, content.getvalue())
    return True


def _fill(panel: Axes, place: Place, methods: Sequence[Method], x_of: Callable[[Point], float], figure: Figure) -> None:
    for number, method in enumerate(methods):
        runs = place.of(method.name)
        colour, label = COLOURS[number], title(place, method)
        if method.role == "method":
            xs, means, spreads = zip(*_curve(place, method.name, x_of, figure), strict=True)
            panel.plot(xs, means, color=colour, label=label, marker=MARKERS[number], markersize=4)
            low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            panel.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        elif figure is personalised or method.role == "ceiling":  # a floor's shared model is another row's, or none
            _across(panel, [figure(one.last) for one in runs.values()], colour, label, "--")
    if figure is personalised:
        _across(panel, list(place.commonest().values()), INK, COMMONEST, ":")
    panel.tick_params(colors=INK)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color=INK, alpha=0.25, linewidth=0.6)


def _across(panel: Axes, values: Sequence[float | None], colour: str, label: str, style: str) -> None:
    """A line at their mean; none where one is missing."""
    there = [100 * value for value in values if value is not None]
    if there and len(there) == len(values):
        panel.axhline(mean_and_spread(there)[0], color=colour, label=label, linestyle=style, linewidth=1)


def _curve(
    place: Place, method: str, x_of: Callable[[Point], float], figure: Figure
) -> Iterator[tuple[float, float, float]]:
    """(x, mean, spread over seeds) in percent, at each evaluation that all seeds have; nan where one has no such figure."""
    for points in zip(*(one.points for one in place.of(method).values()), strict=False):
        values = [nan if value is None else 100 * value for value in map(figure, points)]
        mean, spread = mean_and_spread(values)
        yield mean_and_spread([x_of(point) for point in points])[0], mean, spread or 0.0
