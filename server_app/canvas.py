"""What a run's pictures have in common: size, title, a line on the run, colours, and a legend that hides nothing.

Figures are made without pyplot, so that no state of matplotlib is touched. Colours are those of Okabe and Ito, which
colour-blind readers can tell apart; marker shapes say the same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

DPI = 150
BLUE, SKY, GREEN, VERMILLION, GREY = "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#C4C4C4"
GRID = "#E6E6E6"


def canvas(title: str, about: str, panels: int = 1, height: float = 5.2) -> tuple[Figure, list[Axes]]:
    """A figure of panels one above the other over the same x; height: inches."""
    figure = Figure(figsize=(8, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    axes: list[Axes] = list(figure.subplots(panels, squeeze=False, sharex=True)[:, 0])
    room = 12 + 14 * (about.count("\n") + 1)  # points, for the lines of `about` between title and axes
    axes[0].set_title(title, loc="left", fontsize=15, fontweight="bold", pad=room)
    axes[0].annotate(
        about,
        (0, 1),
        xytext=(0, 9),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        fontsize=10.5,
        color="#444444",
        parse_math=False,
    )
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=11)
    return figure, axes


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Under the axes, where it hides nothing."""
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3 if len(labels) == 3 else 2, fontsize=11, frameon=False
    )
