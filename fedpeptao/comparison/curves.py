"""A picture of one task and skew: the personalised figure by round and by traffic, mean and spread over seeds."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from federation.durable import make_folder, write_atomically
from federation.metrics import NAMES
from fedpeptao.comparison.places import Place
from fedpeptao.comparison.raw import Point
from fedpeptao.comparison.statistics import mean_and_spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#777777"
"""Readable on white and on black: the pages are read on either."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
MARKERS = "os^Dv*PX"
AXES: dict[str, Callable[[Point], float]] = {
    "Round": lambda point: point.round,
    "Traffic so far, up plus down (MB)": lambda point: point.sent / 1e6,
}


def draw(place: Place, path: Path) -> bool:
    """Writes an SVG, floors and ceiling as lines across.

    Returns:
        False where there is no run of a method yet, or more rows than colours: nobody could tell them apart.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = [method for method in place.methods if place.of(method.name)]
    if all(method.role != "method" for method in shown) or len(shown) > len(COLOURS):
        return False
    with (
        rc_context({"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK}),
        rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}),
    ):
        figure = Figure(figsize=(9, 4.6), layout=ConstrainedLayoutEngine())
        panels = figure.subplots(1, len(AXES), sharey=True)
        for panel, (label, x_of) in zip(panels, AXES.items(), strict=True):
            _fill(panel, place, x_of)
            panel.set_xlabel(label)
        panels[0].set_ylabel(f"Personalised {NAMES[place.metric]} (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        content = io.BytesIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    make_folder(path.parent)
    write_atomically(path, content.getvalue())
    return True


def _fill(panel: Axes, place: Place, x_of: Callable[[Point], float]) -> None:
    for number, method in enumerate(place.methods):
        runs = place.of(method.name)
        colour, label = COLOURS[number % len(COLOURS)], method.title or method.name
        if not runs:
            continue
        if method.role == "method":
            xs, means, spreads = zip(*_curve(place, method.name, x_of), strict=True)
            panel.plot(xs, means, color=colour, label=label, marker=MARKERS[number % len(MARKERS)], markersize=4)
            low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            panel.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        else:
            final, _ = mean_and_spread([100 * one.last.personalised for one in runs.values()])
            panel.axhline(final, color=colour, label=label, linestyle="--", linewidth=1)
    panel.tick_params(colors=INK)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color=INK, alpha=0.25, linewidth=0.6)


def _curve(place: Place, method: str, x_of: Callable[[Point], float]) -> Iterator[tuple[float, float, float]]:
    """(x, mean, spread over seeds) in percent, at each evaluation that all seeds have."""
    for points in zip(*(one.points for one in place.of(method).values()), strict=False):
        mean, spread = mean_and_spread([100 * point.personalised for point in points])
        yield mean_and_spread([x_of(point) for point in points])[0], mean, spread or 0.0
