"""`fedpeptao compare`: what is there is not run again, what fails is told, tables are written of what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedpeptao.cli import main
from fedpeptao.comparison.grid import Cell
from fedpeptao.comparison.grid_files import read_grid
from fedpeptao.comparison.sources import FOLDER, _file, content_sha256
from tests.fedpeptao.comparison.made_up import METHODS, fill, point, write_yaml

GRID: dict[str, Any] = {"methods": METHODS, "seeds": [0, 1], "base": {"dataset": "rows.jsonl"}}


class Runs:
    """In place of processes: which cells were asked for; all come to their end but those that are to fail."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.jobs = 0
        self.failing = ""

    def __call__(self, cells: Sequence[Cell], work: Any, jobs: int, tell: Any) -> list[Cell]:
        self.asked, self.jobs = [cell.path.stem for cell in cells], jobs
        failed = [cell for cell in cells if cell.path.stem == self.failing]
        for cell in cells:
            if cell not in failed:
                fill(cell, [point(2, 0.4, 100)], source=content_sha256(cell))
        return failed


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    found = Runs()
    monkeypatch.setattr("fedpeptao.comparison.runner.run_cells", found)
    return found


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n', encoding="utf8")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return str(write_yaml(tmp_path / "g.yaml", GRID))


def test_what_is_missing_is_run_once(grid: str, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", grid, "--jobs", "2"]) == 0
    assert runs.asked == ["ours-seed0", "all layers-seed0", "ours-seed1", "all layers-seed1"]
    assert runs.jobs == 2
    assert "| ours | 2 rounds |" in capsys.readouterr().out
    runs.asked = []
    assert main(["compare", grid]) == 0
    assert runs.asked == []


def test_a_cell_runs_again_where_its_settings_or_data_changed(grid: str, runs: Runs, tmp_path: Path) -> None:
    assert main(["compare", grid]) == 0
    write_yaml(Path(grid), {**GRID, "methods": {**METHODS, "ours": {"learning-rate": 0.02}}})
    assert main(["compare", grid]) == 0
    assert runs.asked == ["ours-seed0", "ours-seed1"]
    (tmp_path / "rows.jsonl").write_text('{"text": "another", "label": "b"}\n', encoding="utf8")

    _file.cache_clear()
    assert main(["compare", grid]) == 0
    assert len(runs.asked) == 4


def test_a_part_of_a_grid(grid: str, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", grid, "--only", "ours", "--seeds", "1"]) == 0
    assert runs.asked == ["ours-seed1"]
    assert "| method |" not in capsys.readouterr().out  # a table of half the cells would mislead
    assert main(["compare", grid, "--only", "our"]) == 2
    assert "--only = 'our': the grid has none of it. It has ours, all layers" in capsys.readouterr().err
    assert main(["compare", grid, "--seeds", "7"]) == 2
    assert "--seeds = 7: the grid has none of it. It has 0, 1" in capsys.readouterr().err
    assert main(["compare", grid, "--skews", "0.1"]) == 2
    assert "--skews = 0.1: the grid has none of it. Leave --skews out" in capsys.readouterr().err
    assert main(["compare", grid, "--jobs", "0"]) == 2


def test_one_skew_of_a_grid_with_the_cells_that_skew_does_nothing_to(grid: str, runs: Runs) -> None:
    rows = {"ours": {}, "central": {"settings": {"rounds": 3}, "skewed": False}}
    write_yaml(Path(grid).with_name("methods.yaml"), rows)
    write_yaml(Path(grid), {"methods": ["ours", "central"], "base": GRID["base"], "skews": {0.1: [0], 0.3: [0, 1]}})
    assert main(["compare", grid, "--skews", "0.3", "--seeds", "0"]) == 0
    assert sorted(runs.asked) == ["central-seed0", "ours-alpha0.3-seed0"]


def test_the_list_runs_nothing(grid: str, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", grid, "--only", "ours"])
    capsys.readouterr()
    runs.asked = []
    assert main(["compare", grid, "--list"]) == 0
    assert runs.asked == []
    assert capsys.readouterr().out.splitlines() == [
        *["there   ours-seed0", "to run  all layers-seed0", "there   ours-seed1", "to run  all layers-seed1"],
        "4 cells, 2 to run",
    ]


def test_tables_alone_run_nothing(grid: str, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", grid, "--tables"]) == 0
    assert "| method |" not in capsys.readouterr().out  # nothing is there
    main(["compare", grid])
    capsys.readouterr()
    runs.asked = []
    assert main(["compare", grid, "--tables"]) == 0
    assert runs.asked == []
    assert "| method |" in capsys.readouterr().out


def test_a_cell_that_failed_is_named_and_tried_again(grid: str, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    runs.failing = "ours-seed1"
    assert main(["compare", grid]) == 1
    assert "1 failed: ours-seed1" in capsys.readouterr().err
    runs.failing = ""
    assert main(["compare", grid]) == 0
    assert runs.asked == ["ours-seed1"]


def test_data_that_are_out_of_reach_are_named_before_any_cell_runs(
    grid: str, runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(FOLDER)
    assert main(["compare", grid]) == 2
    assert runs.asked == []
    assert "dataset = 'rows.jsonl'" in capsys.readouterr().err


def test_tables_need_no_data(grid: str, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["compare", grid]) == 0
    runs.asked = []
    monkeypatch.delenv(FOLDER)
    assert main(["compare", grid]) == 0
    assert runs.asked == []


def test_methods_without_a_learning_rate_wait_and_the_others_run(
    grid: str, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yaml(tmp_path / "methods.yaml", {"a": {"learning-rates": [0.1, 0.2]}, "b": {"settings": {"rounds": 3}}})
    shared = {"methods": ["a", "b"], "base": GRID["base"]}
    tuning = write_yaml(tmp_path / "t.yaml", {**shared, "seeds": [100], "learning-rates": "candidates"})
    main_grid = write_yaml(tmp_path / "m.yaml", {**shared, "seeds": [0], "learning-rates": "t.yaml"})
    assert main(["compare", str(main_grid)]) == 1
    assert runs.asked == ["b-seed0"]
    assert f"No learning rate is chosen yet for a. First: fedpeptao compare {tuning}" in capsys.readouterr().out
    assert main(["compare", str(tuning)]) == 0
    assert main(["compare", str(main_grid)]) == 0
    assert runs.asked == ["a-seed0"]


def test_a_cell_that_another_grid_has_is_taken_from_there(grid: str, runs: Runs, tmp_path: Path) -> None:
    assert main(["compare", grid]) == 0
    other = write_yaml(tmp_path / "h.yaml", {**GRID, "methods": {"ours": {}}})
    runs.asked = []
    assert main(["compare", str(other)]) == 0
    assert runs.asked == []
    both = [read_grid(Path(path)).cell("ours", "", None, 1).path for path in (grid, str(other))]
    assert both[0].read_bytes() == both[1].read_bytes()
