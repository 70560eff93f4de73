"""Learning rates are chosen by the last personalised figure over all clients, and only among runs that are all there."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpeptao.comparison.grid import ComparisonGrid
from fedpeptao.comparison.grid_files import read_grid
from fedpeptao.comparison.page import rates_table, write_page
from fedpeptao.comparison.rates import best, candidate_figures, chosen_rates
from fedpeptao.comparison.raw import FAILED
from tests.fedpeptao.comparison.made_up import fill, point, write_yaml

RATES = [0.01, 0.02, 0.04]


@pytest.fixture
def tuning(tmp_path: Path) -> ComparisonGrid:
    """Two tasks, one seed."""
    methods = {name: {"title": name.upper(), "learning-rates": RATES} for name in ("a", "b")}
    write_yaml(tmp_path / "methods.yaml", {**methods, "fixed": {"settings": {}}})
    (tmp_path / "page.md").write_text("<!-- t --><!-- /t -->", encoding="utf8")
    content = {"methods": ["a", "b", "fixed"], "tasks": {"x": {}, "y": {}}, "seeds": [100]}
    return read_grid(
        write_yaml(tmp_path / "t.yaml", {**content, "learning-rates": "candidates", "report": {"page": "page.md"}})
    )


def put(grid: ComparisonGrid, method: str, figures: dict[float, tuple[float, float]]) -> None:
    """Last figures on both tasks; what came before them, and what the shared model did, is better at other rates."""
    for rate, both in figures.items():
        for task, figure in zip(("x", "y"), both, strict=True):
            points = [point(1, 0.99 - rate), point(2, figure, shared=1 - figure, global_test=1 - figure)]
            fill(grid.cell(method, task, None, 100, rate), points)


def test_the_rate_of_the_best_mean_of_last_figures_is_chosen(tuning: ComparisonGrid) -> None:
    put(tuning, "a", {0.01: (0.6, 0.4), 0.02: (0.3, 0.8), 0.04: (0.5, 0.5)})
    assert candidate_figures(tuning)["a"] == pytest.approx({0.01: 0.5, 0.02: 0.55, 0.04: 0.5})
    assert chosen_rates(tuning) == {"a": 0.02}  # nothing is known of b, and nothing is to choose of `fixed`


def test_nothing_is_chosen_while_a_candidate_is_missing(tuning: ComparisonGrid) -> None:
    put(tuning, "a", {0.01: (0.6, 0.4), 0.02: (0.3, 0.8)})
    assert chosen_rates(tuning) == {}
    put(tuning, "a", {0.04: (0.1, 0.1)})
    assert chosen_rates(tuning) == {"a": 0.02}


def test_a_run_that_could_not_go_on_is_never_chosen(tuning: ComparisonGrid) -> None:
    put(tuning, "a", {0.01: (0.2, 0.2), 0.02: (0.3, 0.8), 0.04: (0.5, 0.5)})
    fill(tuning.cell("a", "y", None, 100, 0.02), [], status=FAILED, why="diverged")
    assert chosen_rates(tuning) == {"a": 0.04}  # .25 against .15


def test_of_two_alike_the_smaller_rate_is_chosen() -> None:
    assert best({0.04: 0.5, 0.02: 0.5, 0.01: 0.4}) == 0.02


def test_the_table_of_candidates_marks_the_choice_and_says_where_it_is_an_end(tuning: ComparisonGrid) -> None:
    put(tuning, "a", {0.01: (0.6, 0.4), 0.02: (0.3, 0.8), 0.04: (0.5, 0.5)})
    put(tuning, "b", {0.01: (0.6, 0.6), 0.02: (0.3, 0.3)})
    assert rates_table(tuning).splitlines() == [
        "| personalised, all clients | 0.01 | 0.02 | 0.04 |  |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| A | 50.0 | **55.0** | 50.0 |  |",
        "| B | 60.0 | 30.0 | missing |  |",
    ]
    put(tuning, "b", {0.04: (0.1, 0.1)})
    assert rates_table(tuning).splitlines()[-1] == "| B | **60.0** | 30.0 | 10.0 | an end of the candidates |"
    assert tuning.report is not None
    write_page(tuning, tuning.report)
    text = tuning.report.page.read_text(encoding="utf8")
    assert rates_table(tuning) in text
    assert "12 runs, on a CPU" in text
