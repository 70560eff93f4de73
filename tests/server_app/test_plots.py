from __future__ import annotations

import json
import logging
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from server_app import plots
from server_app.plots import draw, points

SETTINGS = {
    "dataset": "stdlib-docs",
    "model": "/models/of mine/mini_$lm$",
    "clients": 100,
    "clients-per-round": 10,
    "partition": "label-skew",
    "alpha": 0.3,
    "seed": 5,
    "unselected-prompts": "local",
}
LINES: list[dict[str, Any]] = [
    {"round": 0, "global_accuracy": 0.1, "global_loss": 2.5, "cumulative_bytes": 0},
    {
        "round": 1,
        "train_loss": 2.0,
        "personalised_accuracy": 0.2,
        "personalised_loss": 2.2,
        "global_accuracy": None,
        "cumulative_bytes": 4_000_000,
    },
    {
        "round": 2,
        "train_loss": 1.5,
        "personalised_accuracy": 0.4,
        "personalised_loss": 1.8,
        "global_accuracy": 0.5,
        "global_loss": 1.7,
        "all_personalised_accuracy": 0.55,
        "all_shared_accuracy": 0.45,
        "cumulative_bytes": 8_000_000,
    },
]
SUMMARY = {"status": "completed", "layers": [1, 2], "layer_scores": [9.0, 12.0, 15.0]}
ALL = ["accuracy_by_round.png", "accuracy_by_bytes.png", "loss.png", "layer_scores.png"]


def run(
    folder: Path,
    lines: list[dict[str, Any]],
    summary: dict[str, Any] | None,
    settings: dict[str, Any] = SETTINGS,
) -> Path:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "settings.json").write_text(json.dumps(settings))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Those drawn by `draw`, in its order."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        drawn.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


def curves(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    lines = figure.axes[0].lines
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}  # type: ignore[arg-type]


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text)).replace("\N{NO-BREAK SPACE}", " ")


def test_a_run_gives_four_pictures_of_150_dots_per_inch(tmp_path: Path) -> None:
    paths = draw(run(tmp_path, LINES, SUMMARY))
    assert paths == [tmp_path / name for name in ALL]
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        per_metre, _, unit = struct.unpack(">IIB", content[content.index(b"pHYs") + 4 :][:9])
        assert (round(per_metre * 0.0254), unit) == (150, 1)


def test_curves_stand_at_the_state_they_belong_to(tmp_path: Path, figures: list[Figure]) -> None:
    draw(run(tmp_path, LINES, SUMMARY))
    assert curves(figures[0]) == {
        "personalised, each round's clients": ([0, 1], [0.2, 0.4]),
        "shared model, test set": ([0, 2], [0.1, 0.5]),
        "personalised, all clients": ([2], [0.55]),
        "shared model, all clients": ([2], [0.45]),
    }
    assert curves(figures[1])["personalised, each round's clients"] == ([0, 4], [0.2, 0.4])
    assert curves(figures[1])["shared model, test set"] == ([0, 8], [0.1, 0.5])
    assert curves(figures[2]) == {
        "personalised, each round's clients": ([0, 1], [2.2, 1.8]),
        "training": ([1, 2], [2.0, 1.5]),
        "shared model, test set": ([0, 2], [2.5, 1.7]),
    }


def test_without_a_line_for_round_0_training_starts_at_no_traffic() -> None:
    assert points(LINES[1:], "personalised_accuracy", by_traffic=True) == ([0, 4], [0.2, 0.4])


def test_titles_say_which_run_and_axes_which_unit(tmp_path: Path, figures: list[Figure]) -> None:
    draw(run(tmp_path, LINES, SUMMARY))
    for figure in figures:
        assert "stdlib-docs | mini_$lm$ | 100 clients, 10 a round | alpha 0.3 | seed 5" in texts(figure)
    assert not any(figure.axes[0].texts[0].get_parse_math() for figure in figures)  # a $ in a name is a $
    labels = [(figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) for figure in figures]
    assert labels == [
        ("Round", "Accuracy"),
        ("Traffic so far, up plus down, all clients (MB)", "Accuracy"),
        ("Round", "Cross-entropy (nats)"),
        ("Layer (0 is the lowest)", "Score"),
    ]


@pytest.mark.parametrize("model", ["tiny", "owner/" + "a-very-long-name-" * 6])
def test_nothing_lies_over_anything_or_outside(tmp_path: Path, figures: list[Figure], model: str) -> None:
    draw(run(tmp_path, LINES, {**SUMMARY, "status": "interrupted"}, {**SETTINGS, "model": model}))
    assert len(figures) == 4
    for figure in figures:
        (axes,), (legend,) = figure.axes, figure.legends
        about = axes.texts[0]
        title = next(text for text in figure.findobj(Text) if text.get_text() == axes.get_title(loc="left"))
        boxes = [part.get_window_extent() for part in (title, about, axes, axes.xaxis.label, legend)]
        for above, below in pairwise(boxes):
            assert above.y0 >= below.y1
        for box in boxes:
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y0 >= 0
            assert box.y1 <= figure.bbox.y1


def test_chosen_layers_have_the_colour_of_the_legend(tmp_path: Path, figures: list[Figure]) -> None:
    draw(run(tmp_path, LINES, SUMMARY))
    figure = figures[3]
    bars = figure.axes[0].patches
    chosen, other = (patch.get_facecolor() for patch in figure.legends[0].get_patches())
    assert chosen != other
    assert [bar.get_facecolor() for bar in bars] == [other, chosen, chosen]
    assert [bar.get_height() for bar in bars] == [9.0, 12.0, 15.0]  # type: ignore[attr-defined]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "chosen: prompts travel",
        "not chosen: prompts stay on the client",
    ]


def test_layers_given_by_hand_have_no_scores(tmp_path: Path, figures: list[Figure]) -> None:
    draw(run(tmp_path, LINES, {**SUMMARY, "layer_scores": None}, {**SETTINGS, "unselected-prompts": "none"}))
    assert "no scores: layers given by hand" in texts(figures[3])
    assert "not chosen: without prompts" in texts(figures[3])


def test_an_interrupted_run_of_one_round_has_all_pictures_and_says_so(tmp_path: Path, figures: list[Figure]) -> None:
    assert len(draw(run(tmp_path, LINES[:2], {**SUMMARY, "status": "interrupted"}))) == 4
    assert "interrupted after round 1" in texts(figures[0])


def test_a_killed_run_is_drawn_without_summary(
    tmp_path: Path, figures: list[Figure], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "flwr"):
        paths = draw(run(tmp_path, LINES, None))
    assert [path.name for path in paths] == ALL[:3]
    assert "cut short after round 2" in texts(figures[0])
    assert "no layer_scores.png" in caplog.text
    assert "no loss.png" not in caplog.text


def test_a_run_without_rounds_says_what_is_not_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flwr"):
        paths = draw(run(tmp_path, [], {**SUMMARY, "status": "failed"}))
    assert [path.name for path in paths] == ALL[3:]
    assert [name for name in ALL if f"no {name}" in caplog.text] == ALL[:3]


def test_an_iid_run_has_no_alpha(tmp_path: Path, figures: list[Figure]) -> None:
    draw(run(tmp_path, LINES, SUMMARY, {**SETTINGS, "partition": "iid"}))
    assert "| iid |" in texts(figures[0])
    assert "alpha" not in texts(figures[0])


def test_matplotlibs_state_is_left_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    draw(run(tmp_path, LINES, SUMMARY))
    assert dict(mpl.rcParams) == before
    assert not hasattr(plots, "pyplot")


def test_curves_of_another_metric_show_what_is_below_zero(tmp_path: Path, figures: list[Figure]) -> None:
    lines = [{**line, "global_matthews": at} for line, at in zip(LINES, (-0.4, None, 0.3), strict=True)]
    draw(run(tmp_path, lines, {**SUMMARY, "metric": "matthews"}))
    for figure in figures[:2]:
        (axes,) = figure.axes
        assert axes.get_ylabel() == "Matthews"
        assert axes.get_ylim()[0] < -0.4
        assert [list(map(float, line.get_ydata())) for line in axes.lines] == [[-0.4, 0.3]]  # type: ignore[arg-type]
    titles = [text.get_text() for text in figures[0].findobj(Text)]
    assert "Matthews by round" in titles  # type: ignore[comparison-overlap]
