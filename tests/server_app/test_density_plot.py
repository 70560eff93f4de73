"""The picture of a spectrum: what its curves are, by hand, and that odd spectra can be drawn."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from server_app.canvas import BLUE, GREY, VERMILLION
from server_app.density_plot import density_figure
from server_app.plots import draw


def client(number: int, examples: int, **changes: Any) -> dict[str, Any]:
    return {
        "client": number,
        "examples": examples,
        "parameters": 400,
        "ratio": 0.2,
        "gaps_low": [2.0, 9.0],
        "gaps_high": [8.0, 9.5],
        "theta": [0.5, -1.0, 0.0, 8.5],
        "weight": [0.3, 0.1, 0.5, 0.1],
        "residual": [0.0] * 4,
        **changes,
    }


def figures(*clients: dict[str, Any], **changes: Any) -> dict[str, Any]:
    found = sum(bool(one["gaps_low"]) for one in clients)
    return {
        "estimator": "eigengap",
        "ratio": 0.51234,
        "found": found,
        "round": 3,
        "clients": list(clients),
        **changes,
    }


NO_GAP = client(2, 30, theta=[-2.0, 1.0], weight=[0.5, 0.5], residual=[0.0] * 2, gaps_low=[], gaps_high=[], ratio=1.0)
TWO = figures(client(1, 10), NO_GAP)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_the_density_is_all_clients_by_examples() -> None:
    (curve,) = [line for line in density_figure("", TWO).axes[0].lines if line.get_color() == BLUE]
    x, y = (np.asarray(values) for values in curve.get_data())
    assert np.trapezoid(y, x) == pytest.approx(1, abs=1e-6)
    for low, high, share in (
        (8, 9, 0.25 * 0.1),
        (-2.5, -1.5, 0.75 * 0.5),
        (0.75, 1.2, 0.75 * 0.5),
        (-1.2, -0.8, 0.025),
    ):
        part = (x > low) & (x < high)
        assert np.trapezoid(y[part], x[part]) == pytest.approx(share, rel=5e-3)
    assert y[(x > 3) & (x < 7)].max() < 1e-12


def test_the_scale_shows_a_single_eigenvalue_of_the_smallest_client() -> None:
    upper = density_figure("", TWO).axes[0]
    bottom, top = upper.get_ylim()
    (curve,) = [line for line in upper.lines if line.get_color() == BLUE]
    x, y = (np.asarray(values) for values in curve.get_data())
    one_of_400 = 0.1 / (1 / 400)  # eigenvalues that the peak at 8.5 stands for
    assert y[(x > 8) & (x < 9)].max() / one_of_400 == pytest.approx(3 * bottom, rel=1e-3)
    assert top > y.max()
    assert upper.get_yscale() == "log"


def test_each_clients_share_above_is_flat_over_its_gap_at_its_ratio() -> None:
    """Of client 1 the null space is left out: .5 of the weight."""
    lower = density_figure("", TWO).axes[1]
    first, second = [line for line in lower.lines if line.get_color() == GREY]
    (gap,) = [line for line in lower.lines if line.get_color() == VERMILLION]
    assert list(first.get_xdata()) == [8.5, 8.5, 0.5, -1.0]
    np.testing.assert_allclose(list(first.get_ydata())[1:], [0.2, 0.8, 1.0])
    assert list(second.get_xdata()) == [1.0, 1.0, -2.0]
    np.testing.assert_allclose(list(second.get_ydata())[1:], [0.5, 1.0])
    assert {line.get_drawstyle() for line in (first, second)} == {"steps-post"}
    assert (list(gap.get_xdata()), list(gap.get_ydata())) == ([2.0, 8.0], [0.2, 0.2])
    assert lower.get_yscale() == "log"


def test_it_says_what_was_found() -> None:
    figure = density_figure("a run", TWO)
    assert "a run\nr = 0.512 by eigengap (1 of 2 found a gap), after round 2" in texts(figure)
    assert "lowest gap, at the client's ratio" in texts(figure)
    assert [axes.get_ylabel() for axes in figure.axes] == ["Density", "Share of eigenvalues above"]
    assert figure.axes[1].get_xlabel() == "Eigenvalue"
    plain = texts(density_figure("a run", figures(NO_GAP, estimator="plateau")))
    assert "r = 0.512 by plateau (1 clients), after round 2" in plain
    assert "lowest gap" not in plain


@pytest.mark.parametrize(
    "odd",
    [
        {"theta": [0.0] * 4},
        {"theta": [3.0] * 4},
        {"theta": [-1e-30, 0.0, 0.0, 1e-30]},
        {"theta": [-1e30, 0.0, 0.0, 1e30]},
        {"theta": [5.0], "weight": [1.0], "residual": [0.0]},
    ],
)
def test_odd_spectra_are_drawn(odd: dict[str, Any], tmp_path: Path) -> None:
    figure = density_figure("", figures(client(1, 1, gaps_low=[], gaps_high=[], **odd)))
    figure.savefig(tmp_path / "picture.png")
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert 0 < low < high < np.inf


def test_nothing_lies_over_anything_or_outside() -> None:
    figure = density_figure("a line\nand another", TWO)
    figure.draw_without_rendering()
    (upper, lower), (legend,) = figure.axes, figure.legends
    title = next(text for text in figure.findobj(Text) if text.get_text() == upper.get_title(loc="left"))
    boxes = [p.get_window_extent() for p in (title, upper.texts[0], upper, lower, lower.xaxis.label, legend)]
    for above, below in pairwise(boxes):
        assert above.y0 >= below.y1
    for box in boxes:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_it_is_drawn_from_the_folder_where_a_ratio_was_estimated(tmp_path: Path, shown: list[str]) -> None:
    draw(tmp_path)
    assert not any("spectral_density" in line for line in shown)
    (tmp_path / "spectrum.json").write_text(json.dumps(TWO), encoding="utf8")
    assert tmp_path / "spectral_density.png" in draw(tmp_path)
    assert (tmp_path / "spectral_density.png").read_bytes().startswith(b"\x89PNG")
