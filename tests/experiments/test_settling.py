"""The experiment of where each method settles: its figures are kept, are those of its lines, and agree with the equations."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import settling
from experiments.machine import RESULTS
from experiments.settling_lines import panels
from experiments.settling_plot import COLOURS, _apart, draw

PAGE = RESULTS.parent / "docs" / "METHODS.md"
SLOW = "device, never restarted"  # still on its way to its median when the learning rate has died out


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return json.loads((RESULTS / "settling" / "figures.json").read_text(encoding="utf8"))


def test_the_kept_figures_are_of_the_present_lines_and_points(kept: dict[str, Any]) -> None:
    assert [panel["title"] for panel in kept["panels"]] == [panel.title for panel in panels()]
    for measured, panel in zip(kept["panels"], panels(), strict=True):
        assert {name: point["x"] for name, point in measured["points"].items()} == {
            name: pytest.approx(x.tolist()) for name, x in panel.points.items()
        }
        for figures, one in zip(measured["lines"], panel.lines, strict=True):
            assert (figures["label"], figures["point"]) == (one.label, one.point)
            assert figures["settings"] == {key.replace("_", "-"): value for key, value in one.parts.items()}


def test_each_line_settles_where_its_equations_say(kept: dict[str, Any]) -> None:
    """At rest: at its point. Moving: its mean within three standard errors, and nearer than any other point."""
    for panel in kept["panels"]:
        for one in panel["lines"]:
            if not one["point"] or one["label"] == SLOW:
                continue
            to_points = {
                name: float(np.linalg.norm(np.subtract(one["x"], point["x"])))
                for name, point in panel["points"].items()
            }
            assert min(to_points, key=to_points.__getitem__) == one["point"], one["label"]
            assert one["distance_to_point"] == pytest.approx(to_points[one["point"]])
            assert one["distance_to_point"] < (1e-5 if one["at_rest"] else 3 * one["standard_error"]), one["label"]


def test_the_page_shows_the_kept_figures(kept: dict[str, Any]) -> None:
    shown = PAGE.read_text(encoding="utf8").split("<!-- settling -->")[1].split("<!-- /settling -->")[0]
    assert shown.strip() == f"```\n{settling.table(kept)}\n```"


def test_a_dotted_line_stands_at_each_predicted_distance(kept: dict[str, Any]) -> None:
    figure = draw(kept)
    axes = figure.subfigs[0].axes[0]
    dotted = {line.get_color(): line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"}
    points = kept["panels"][0]["points"]
    assert dotted == {
        COLOURS[0]: points["sampled Delta_i cancel"]["distance_to_optimum"],
        COLOURS[1]: points["all clients' Delta_i cancel"]["distance_to_optimum"],
    }
    assert len(figure.subfigs) == len(kept["panels"]) + 1  # control variates have a panel of their own
    assert [text.get_text() for text in axes.texts[1:]] == ["server", "none"]


def test_names_that_would_overlap_are_pushed_apart() -> None:
    wanted = [0.1, 0.11, 0.12, 0.5, 0.97, 1.0]
    places = _apart(wanted, 0.1)
    assert all(b - a >= 0.1 - 1e-12 for a, b in pairwise(places))
    assert max(places) <= 1
    assert places[1] == pytest.approx(0.11)
    assert places[3] == 0.5


def test_it_runs_and_leaves_figures_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = [replace(panel, rounds=10) for panel in panels()]
    monkeypatch.setattr(settling, "panels", lambda: short)
    folders = ["--results", str(tmp_path / "raw"), "--images", str(tmp_path / "images")]
    monkeypatch.setattr(sys, "argv", ["settling", "--seeds", "2", *folders])
    threads = torch.get_num_threads()
    try:
        settling.main()
    finally:
        torch.set_num_threads(threads)
    figures = json.loads((tmp_path / "raw" / "figures.json").read_text())
    assert figures["command"].startswith("python -m experiments.settling --seeds 2")
    assert (tmp_path / "images" / "settling.png").stat().st_size > 10_000
    for panel in figures["panels"]:
        assert panel["rounds"] == [0, 5, 10]
        for one in panel["lines"]:
            sampled = one["clients_per_round"] < (5 if panel["title"] == "Adam on the devices" else 4)
            assert [len(curve) for curve in one["distances"]] == [3] * (2 if sampled else 1)
            assert len(one["largest_controls"]) == (2 if panel["controls"] else 0)
