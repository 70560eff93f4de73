"""The picture of `experiments.settling`, drawn from its raw figures alone.

Thin: a seed of sampling. Thick: their median. Dotted: the distance to the optimum of the point at which the equations say that
a line settles. Diamond: of where it did. Where some lines reach the optimum and others do not, the axis is broken: distances
that one would care about above, what tends to 0 below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from server_app.canvas import BLUE, DPI, GREEN, GRID, VERMILLION

ORANGE, PURPLE, BLACK = "#E69F00", "#CC79A7", "#000000"  # the rest of Okabe and Ito's that shows on white
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK)
INK = "#444444"
TITLE = (
    "Where each method settles: quadratics whose optimum is known, clients with unequal numbers of examples and steps"
)
DOTTED = (0, (1, 1.5))
FLOOR, BREAK = 1e-16, 0.1

Ends = Sequence[tuple[float, str, str]]  # y, name, colour


def draw(figures: Mapping[str, Any]) -> Figure:
    """Panels in two columns; figures: as in results/settling/figures.json."""
    wanted = [(panel, key) for panel in figures["panels"] for key in ("distances", "largest_controls")]
    wanted = [(panel, key) for panel, key in wanted if key == "distances" or panel["controls"]]
    rows = -(-len(wanted) // 2)
    figure = Figure(figsize=(14, 4.3 * rows + 1), dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=0.04, hspace=0))
    figure.suptitle(TITLE, x=0.005, ha="left", fontsize=14)
    places = figure.subfigures(rows, 2, wspace=0.03, hspace=0.05, squeeze=False)
    for place, (panel, key), letter in zip(places.flat, wanted, "abcdefgh", strict=False):
        title = panel["title"] if key == "distances" else "Largest control variate of a client, in the same runs"
        axes = _axes(place, panel, key)
        axes[0].set_title(f"{letter}  {title}", loc="left", fontsize=13, fontweight="bold", pad=22)
        axes[0].annotate(
            panel["about"], (0, 1), (0, 7), "axes fraction", textcoords="offset points", fontsize=10, color=INK
        )
        for one in axes:
            _curves(one, panel, key)
        _names(axes, _ends(panel, key), settles=not panel["controls"])
    figure.legend(handles=_key(figures["seeds"]), loc="outside lower center", ncols=4, fontsize=11, frameon=False)
    return figure


def _axes(place: SubFigure, panel: Mapping[str, Any], key: str) -> list[Axes]:
    """One, or two of a broken axis, the upper first; limits and ticks are set."""
    values = [one["distance_to_optimum"] for one in panel["lines"]]
    broken = key == "distances" and min(values) < 1e-3 * BREAK and max(values) > BREAK
    axes: list[Axes] = list(place.subplots(1 + broken, 1, sharex=True, squeeze=False)[:, 0])
    for one in axes:
        one.set_xlim(0, panel["rounds"][-1])
        one.grid(color=GRID, linewidth=0.8)
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=10)
    axes[-1].set_xlabel("Round", fontsize=11)
    if key == "largest_controls":
        axes[0].set_ylabel(r"$\|c_i\|$", fontsize=12)
        axes[0].set_ylim(0, 1.05 * max(max(map(max, one[key])) for one in panel["lines"]))
        return axes
    place.supylabel("Distance to the optimum", fontsize=11)
    for one in axes:
        one.set_yscale("log")
    if broken:
        _break(*axes)
    return axes


def _break(upper: Axes, lower: Axes) -> None:
    upper.set_ylim(BREAK, 5)
    upper.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5]))
    upper.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    upper.yaxis.set_minor_locator(NullLocator())
    lower.set_ylim(FLOOR, BREAK)
    lower.yaxis.set_major_locator(LogLocator(numticks=5))
    lower.yaxis.set_minor_locator(NullLocator())
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(axis="x", length=0)
    for axes, y in ((upper, 0), (lower, 1)):  # the slanted marks of a broken axis
        axes.plot(
            [0], [y], marker=[(-1, -0.6), (1, 0.6)], markersize=9, color="k", clip_on=False, transform=axes.transAxes
        )


def _curves(axes: Axes, panel: Mapping[str, Any], key: str) -> None:
    for one, colour in zip(panel["lines"], COLOURS, strict=False):
        curves = np.maximum(np.array(one[key]), FLOOR)
        for curve in curves:
            axes.plot(panel["rounds"], curve, color=colour, linewidth=0.6, alpha=0.35)
        if one["at_rest"] or not one["point"]:
            axes.plot(panel["rounds"], np.median(curves, axis=0), color=colour, linewidth=1.8)
        predicted = panel["points"].get(one["point"], {}).get("distance_to_optimum", 0)
        if key == "distances" and predicted:
            axes.axhline(predicted, color=colour, linewidth=1.6, linestyle=DOTTED, zorder=4)


def _ends(panel: Mapping[str, Any], key: str) -> Ends:
    """What stands at the right edge: where a line settled, or where it is then if it has no point to settle at."""
    named = []
    for one, colour in zip(panel["lines"], COLOURS, strict=False):
        settled = key == "distances" and one["point"]
        last = float(np.median([curve[-1] for curve in one[key]]))
        named.append((one["distance_to_optimum"] if settled else last, _maths(one["label"]), colour))
    return named


def _maths(label: str) -> str:
    return label.replace("eta_s", r"$\eta_s$")


def _names(axes: Sequence[Axes], ends: Ends, settles: bool) -> None:
    """Diamonds, and names beside them in their colours, pushed apart where they would overlap."""
    for one in axes:
        low, high = one.get_ylim()
        below = one is axes[-1]
        here = [end for end in ends if (end[0] <= high or one is axes[0]) and (end[0] > low or below)]
        gap = 0.07 * len(axes)
        to_fraction = one.transData + one.transAxes.inverted()
        placed = sorted((float(to_fraction.transform((1, max(y, low)))[1]), name, colour) for y, name, colour in here)
        for at, (y, name, colour) in zip(_apart([y for y, _, _ in placed], gap), placed, strict=True):
            if settles:
                one.plot([1], [y], "D", color=colour, markersize=6, clip_on=False, transform=one.transAxes, zorder=5)
            one.text(1.03, at, name, transform=one.transAxes, color=colour, fontsize=10.5, va="center")


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places at least `gap` apart, those that would overlap centred on what they want, none above 1."""
    groups: list[tuple[float, int]] = []  # middle, how many
    for y in wanted:
        groups.append((y, 1))
        while len(groups) > 1 and _low(groups[-1], gap) < _low(groups[-2], gap) + groups[-2][1] * gap:
            (y_1, n_1), (y_2, n_2) = groups.pop(), groups.pop()
            groups.append(((y_1 * n_1 + y_2 * n_2) / (n_1 + n_2), n_1 + n_2))
    lows = [min(_low(group, gap), 1 - (group[1] - 1) * gap) for group in groups]
    return [low + i * gap for low, (_, n) in zip(lows, groups, strict=True) for i in range(n)]


def _low(group: tuple[float, int], gap: float) -> float:
    return group[0] - (group[1] - 1) * gap / 2


def _key(seeds: int) -> list[Line2D]:
    return [
        Line2D([], [], color=INK, linewidth=0.6, alpha=0.6, label=f"a seed of sampling ({seeds})"),
        Line2D([], [], color=INK, linewidth=1.8, label="their median, unless jitter is all there is"),
        Line2D([], [], color=INK, linewidth=1.6, linestyle=DOTTED, label="predicted, if not the optimum"),
        Line2D([], [], color=INK, marker="D", linestyle="none", label="measured: end, or mean of jitter"),
    ]
