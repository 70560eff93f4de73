"""The one table of a small grid; that of the demo is as it is committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpeptao.comparison.grid import ComparisonGrid
from fedpeptao.comparison.grid_files import read_grid
from fedpeptao.comparison.places import load_places
from fedpeptao.comparison.side_by_side import table, write_table
from fedpeptao.errors import InputError
from tests.fedpeptao.comparison.made_up import METHODS, fill, point, write_yaml

MB = 1_000_000
DEMO = Path(__file__).parents[3] / "results" / "demo.yaml"


@pytest.fixture
def filled(tmp_path: Path) -> ComparisonGrid:
    """`ours` is cheap and ran 4 rounds, `all layers` sends twice as much and ran 6."""
    grid = read_grid(write_yaml(tmp_path / "demo.yaml", {"base": {}, "methods": METHODS, "seeds": [0, 1]}))
    for seed, more in ((0, 0.0), (1, 0.02)):
        fill(grid.cell("ours", "", None, seed), [point(2, 0.40 + more, 2 * MB), point(4, 0.60 + more, 4 * MB)])
        whole = [point(2, 0.30 + more, 4 * MB), point(4, 0.50 + more, 8 * MB), point(6, 0.70 + more, 12 * MB)]
        fill(grid.cell("all layers", "", None, seed), whole)
    return grid


def test_the_table_at_equal_rounds_and_at_equal_bytes(filled: ComparisonGrid) -> None:
    """4 rounds and 4 MB are what both reached; there `all layers` is at its round 4, and at its round 2."""
    (place,) = load_places(filled)
    assert table(place).splitlines() == [
        "| method | at | MB | round | personalised | shared model, clients' shards | shared model, test set |",
        "|---|---|---|---|---|---|---|",
        "| ours | 4 rounds | 4 | 4 | 0.610 (0.600, 0.620) | 0.510 (0.500, 0.520) | 0.410 (0.400, 0.420) |",
        "| all layers | 4 rounds | 8 | 4 | 0.510 (0.500, 0.520) | 0.410 (0.400, 0.420) | 0.310 (0.300, 0.320) |",
        "| ours | 4 MB | 4 | 4 | 0.610 (0.600, 0.620) | 0.510 (0.500, 0.520) | 0.410 (0.400, 0.420) |",
        "| all layers | 4 MB | 4 | 2 | 0.310 (0.300, 0.320) | 0.210 (0.200, 0.220) | 0.110 (0.100, 0.120) |",
    ]


def test_the_written_table_names_its_command_and_seeds(filled: ComparisonGrid) -> None:
    text = write_table(filled)
    assert (filled.folder / "TABLE.md").read_text(encoding="utf8") == text
    assert f"`fedpeptao compare {filled.path.parent.name}/demo.yaml`" in text
    assert "seeds [0, 1]" in text


def test_a_table_is_by_the_metric_of_its_runs(filled: ComparisonGrid) -> None:
    for cell in filled.cells():
        fill(cell, [point(2, 0.5, MB)], metric="f1")
    assert "Figures are F1." in write_table(filled)


def test_no_evaluation_within_what_the_other_spent_is_said(filled: ComparisonGrid) -> None:
    fill(filled.cell("all layers", "", None, 0), [point(6, 0.7, 12 * MB)])
    with pytest.raises(InputError, match=r"all layers has no evaluation so early\. Evaluate more often"):
        write_table(filled)


def test_a_grid_of_several_skews_needs_a_report(tmp_path: Path) -> None:
    grid = read_grid(write_yaml(tmp_path / "g.yaml", {"methods": METHODS, "skews": {0.1: [0], 0.3: [0]}}))
    with pytest.raises(InputError, match="several tasks or skews"):
        write_table(grid)


def test_the_demos_table_is_that_of_its_raw_figures() -> None:
    (place,) = load_places(read_grid(DEMO))
    assert table(place) in (DEMO.with_suffix("") / "TABLE.md").read_text(encoding="utf8")
