"""Where the page's plots put their marks: positions are computed back into figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server_app.report.clients import clients_section
from server_app.report.curves import curves_section
from server_app.report.facts import Run
from server_app.report.layers import LEVELS, MOST_CLIENTS, layers_section
from server_app.report.markup import Element
from server_app.report.plot import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Axis, Frame, axis, log_axis
from server_app.report.traffic import MOST_BARS, traffic_section


def run(history: list[dict[str, Any]] | None = None, **summary: Any) -> Run:
    return Run(Path("/runs/mine"), {}, {}, summary, history or [], {})


def plots(section: Element) -> dict[str, Element]:
    """The drawings by title."""
    found = {}
    for figure in section.iter("figure"):
        title = figure.find("h3")
        assert title is not None
        found[str(title.text)] = next(figure.iter("svg"))
    return found


def of_class(drawing: Element, class_: str) -> list[Element]:
    return [one for one in drawing.iter() if class_ in one.get("class", "").split()]


def tips(drawing: Element) -> list[str]:
    return [str(one.get("data-tip")) for one in drawing.iter() if one.get("data-tip")]


def numbers(path: Element) -> Iterator[float]:
    return map(float, re.findall(r"-?[\d.]+", str(path.get("d"))))


# -- axes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "options", "end", "texts"),
    [
        (0, 0.73, {}, 0.8, ["0.0", "0.2", "0.4", "0.6", "0.8"]),
        (0, 0.73, {"tight": True}, 0.73, ["0.0", "0.2", "0.4", "0.6"]),
        (0, 1.0, {}, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0, 3, {"whole": True}, 3, ["0", "1", "2", "3"]),
        (0, 1.1, {}, 1.25, ["0.00", "0.25", "0.50", "0.75", "1.00", "1.25"]),
        (0, 3.9e6, {"unit": 1e6}, 4e6, ["0", "1", "2", "3", "4"]),
        (0, 0, {}, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0, 117_000, {}, 125_000, ["0", "25,000", "50,000", "75,000", "100,000", "125,000"]),
    ],
)
def test_an_axis_ends_at_a_tick(low: float, high: float, options: dict[str, Any], end: float, texts: list[str]) -> None:
    found = axis("x", low, high, **options)
    assert found.high == pytest.approx(end)
    assert [text for _, text in found.ticks] == texts
    assert (found.share(low), found.share(end)) == (0, pytest.approx(1))


def test_a_logarithmic_axis_has_ticks_at_powers_of_ten() -> None:
    found = log_axis("x", 3e-4, 2.0)
    assert [text for _, text in found.ticks] == ["1e-3", "1e-2", "1e-1", "1"]
    assert found.share(3e-4) == 0
    assert found.share(2.0) == pytest.approx(1)
    assert found.share((3e-4 * 2.0) ** 0.5) == pytest.approx(0.5)
    assert found.share(0.0) == 0  # what lies below is drawn at the edge


def test_a_frame_puts_values_where_its_axes_say() -> None:
    frame = Frame("title", Axis("x", 0, 10, ()), Axis("y", 0, 2, ()))
    assert (frame.x(0), frame.x(10)) == (LEFT, WIDTH - RIGHT)
    assert frame.y(0) == HEIGHT - BOTTOM
    assert frame.y(0) > frame.y(1) > frame.y(2) > 0
    frame.bands([0, 4, 10], ["a", "b", "c"])
    bands = of_class(frame.element, "band")
    edges = [float(band.get("x", 0)) for band in bands]
    assert edges == [pytest.approx(frame.x(at), abs=0.01) for at in (0, 2, 7)]


# -- curves --------------------------------------------------------------------------------------------------


def line(number: int, **figures: Any) -> dict[str, Any]:
    return {"round": number, "cumulative_bytes": 2_000_000 * number, **figures}


LINES = [
    line(0, global_accuracy=0.1, global_loss=2.0),
    line(1, personalised_accuracy=0.2, train_loss=1.5),
    line(2, personalised_accuracy=0.4, global_accuracy=0.5, train_loss=1.0, all_personalised_accuracy=0.8),
]


def test_a_clients_figure_stands_at_the_state_that_it_belongs_to() -> None:
    drawing = plots(curves_section(run(LINES)))["Accuracy by round"]
    assert tips(drawing) == [
        "before training\npersonalised, round's clients: 0.200\nshared, test set: 0.100",
        "state after round 1\npersonalised, round's clients: 0.400",
        "state after round 2\nshared, test set: 0.500\npersonalised, all clients: 0.800",
    ]
    (path,) = [one for one in of_class(drawing, "thin") if str(one.get("d")).count(" ") == 2]
    x0, _, x1, _ = numbers(path)
    assert (x0, x1) == (LEFT, pytest.approx((LEFT + WIDTH - RIGHT) / 2))


def test_traffic_is_what_was_sent_up_to_that_state() -> None:
    drawing = plots(curves_section(run(LINES)))["Accuracy by traffic"]
    assert [tip.splitlines()[0] for tip in tips(drawing)] == ["0.0 MB", "2.0 MB", "4.0 MB"]


def test_a_figure_that_a_run_does_not_have_has_no_key_and_no_plot() -> None:
    drawing = plots(curves_section(run([line(1, train_loss=1.0)])))
    assert set(drawing) == {"Loss by round"}
    assert [one.text for one in of_class(drawing["Loss by round"], "key")] == ["while training"]


# -- layers --------------------------------------------------------------------------------------------------


def client(scores: list[float], examples: int) -> dict[str, Any]:
    return {"examples": examples, "labels": ["a"], "scores": scores}


def test_scores_are_bars_and_chosen_ones_are_blue() -> None:
    drawing = plots(layers_section(run(layer_scores=[8.0, 10.0, 9.0], layers=[1])))["Score of each layer"]
    bars = [one for one in of_class(drawing, "fill") if float(one.get("height", 0)) > 20]
    assert [bar.get("class") for bar in bars] == ["fill grey", "fill blue", "fill grey"]
    heights = [float(bar.get("height", 0)) for bar in bars]
    assert [height / heights[1] for height in heights] == [pytest.approx(share, abs=1e-3) for share in (0.8, 1, 0.9)]


def test_the_heat_map_orders_layers_as_each_client_would() -> None:
    found = run(
        layer_scores=[1.0, 2.0, 3.0],
        layers=[2],
        clients={"0": client([1.0, 3.0, 2.0], 50), "1": client([9.0, 1.0, 5.0], 10), "2": client([], 7)},
    )
    drawing = plots(layers_section(found))["Order of the layers, client by client"]
    assert drawing.get("viewBox") == "0 0 2 3"  # client 2 had too few examples for scores
    assert tips(drawing) == ["client 1, 10 examples\nits order: 0, 2, 1", "client 0, 50 examples\nits order: 1, 2, 0"]
    first, middle, last = (of_class(drawing, f"heat{level}")[0].get("d") for level in (0, 3, LEVELS - 1))
    assert first == "M0 2h1v1h-1zM1 1h1v1h-1z"  # rows from above: the highest layer is row 0
    assert middle == "M0 0h1v1h-1zM1 0h1v1h-1z"
    assert last == "M0 1h1v1h-1zM1 2h1v1h-1z"


def test_with_the_lowest_scores_chosen_the_order_is_turned() -> None:
    one = Run(Path("/a"), {"score-order": "lowest"}, {}, {"clients": {"0": client([1.0, 3.0], 9)}}, [], {})
    (drawing,) = plots(layers_section(one)).values()
    assert tips(drawing) == ["client 0, 9 examples\nits order: 0, 1"]


def test_many_clients_are_thinned_out() -> None:
    clients = {str(number): client([1.0, 2.0], number + 8) for number in range(3 * MOST_CLIENTS)}
    (drawing,) = plots(layers_section(run(clients=clients))).values()
    assert len(tips(drawing)) == MOST_CLIENTS


def test_layers_named_by_hand_are_said() -> None:
    text = "".join(layers_section(run(layers=[1, 3])).itertext())
    assert "Layers 1, 3 travel; they were named by hand" in text


def test_spectra_are_drawn_where_the_ratio_was_estimated() -> None:
    one = {
        "client": 3,
        "examples": 10,
        "parameters": 100,
        "theta": [-1e-6, 0.0, 2e-5],
        "weight": [0.3, 0.3, 0.4],
        "lipschitz": 1e-7,
        "gaps_low": [1e-6],
        "gaps_high": [1e-5],
        "ratio": 0.4,
    }
    spectrum = {"estimator": "eigengap", "ratio": 0.4, "round": 4, "found": 1, "clients": [one]}
    section = layers_section(Run(Path("/a"), {}, {}, {}, [], spectrum))
    drawings = plots(section)
    assert set(drawings) == {"Spectral density", "Share of eigenvalues above"}
    assert "eigenvalue (1e-5)" in "".join(drawings["Spectral density"].itertext())
    assert len(of_class(drawings["Share of eigenvalues above"], "orange")) == 2  # in the legend and on the curve
    text = "".join(section.itertext())
    assert "Ratio 0.4 by eigengap (1 of 1 clients found a gap), at the prompts after round 3." in text
    assert "1.00e-06 to 1.00e-05" in text


# -- clients -------------------------------------------------------------------------------------------------


def spread(counts: list[tuple[int, int, int]]) -> Run:
    """examples, right with its own prompts, right with the shared model."""
    return run(
        clients={str(number): {"examples": 10 * number + 10, "labels": ["a", "b"]} for number in range(len(counts))},
        final={
            "personalised_accuracy": 0.6,
            "per_client": {
                str(number): {"examples": n, "correct": own, "shared_correct": shared}
                for number, (n, own, shared) in enumerate(counts)
            },
        },
    )


def test_each_client_counts_once_in_the_distribution() -> None:
    section = clients_section(spread([(4, 4, 0), (4, 2, 2), (10, 1, 3), (5, 5, 5), (0, 0, 0), (4, 3, 1)]))
    drawing = plots(section)["Distribution"]
    found = dict(tip.split("\n", 1) for tip in tips(drawing))
    assert found["accuracy 0.9 to 1.0"] == "personalised: 2 clients\nshared model: 1 clients"  # 1.0 is in the last bin
    assert found["accuracy 0.0 to 0.1"] == "personalised: 0 clients\nshared model: 1 clients"
    assert sum(int(tip.split(": ")[1].split()[0]) for tip in found.values()) == 5  # without examples: in no plot
    text = "".join(section.itertext())
    assert "Of 5 clients, 2 are better off personalised, 2 the same, 1 worse" in text
    assert "0.670" in text  # the mean of 1, .5, .1, 1, .75


def test_clients_stand_at_their_size_and_accuracy() -> None:
    drawings = plots(clients_section(spread([(4, 4, 0), (4, 1, 1), (4, 1, 1)])))
    circles = of_class(drawings["Accuracy against size"], "dot")
    assert [tip.splitlines()[1] for tip in tips(drawings["Accuracy against size"])] == [
        "personalised: 1.000",
        "personalised: 0.250",
        "personalised: 0.250",
    ]
    xs = [float(circle.get("cx", 0)) for circle in circles]
    assert xs[2] - xs[1] == pytest.approx(xs[1] - xs[0], abs=0.02)
    assert float(circles[0].get("cy", 0)) < float(circles[1].get("cy", 0))
    together = of_class(drawings["What personalisation gives"], "dot")
    assert [circle.get("data-tip", "").splitlines()[-1] for circle in together] == ["clients 1, 2", "client 0"]
    assert float(together[0].get("r", 0)) > float(together[1].get("r", 0))


# -- traffic -------------------------------------------------------------------------------------------------


def sent(number: int, down: dict[str, int], up: dict[str, int]) -> dict[str, Any]:
    return line(
        number, down_bytes=sum(down.values()), up_bytes=sum(up.values()), down_detail=down, up_detail=up, clients=[1]
    )


def test_bars_stack_to_the_rounds_bytes_on_one_scale() -> None:
    lines = [line(0, down_detail=None), sent(1, {"prompts": 3000, "control": 1000}, {"prompts": 2000, "head": 50})]
    section = traffic_section(run(lines, bytes={"evaluation": 777}))
    heights = {}
    for title, drawing in plots(section).items():
        bars = [one for one in of_class(drawing, "fill") if float(one.get("width", 0)) > 20]
        heights[title[:2]] = [float(bar.get("height", 0)) for bar in bars]
    assert heights["Do"][0] / heights["Do"][1] == pytest.approx(3, rel=1e-3)
    assert heights["Up"][0] < heights["Do"][0]
    assert tips(plots(section)["Down: server to clients"]) == [
        "round 1: 4.0 kB\nprompts: 3.0 kB\ncontrol variate: 1.0 kB"
    ]
    text = " ".join(section.itertext())
    assert "777 B" in text
    assert "6.0 kB" in text  # all training


def test_a_long_run_has_means_over_rounds() -> None:
    lines = [sent(number, {"prompts": 1000 * number}, {}) for number in range(1, 2 * MOST_BARS + 2)]
    found = tips(plots(traffic_section(run(lines)))["Down: server to clients"])
    assert len(found) == -(-len(lines) // 3)
    assert found[0] == "rounds 1 to 3, mean: 2.0 kB\nprompts: 2.0 kB"
