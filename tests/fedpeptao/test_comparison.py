"""The comparison's table from raw figures made by hand; cells that are there are not run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.settings import Scalar
from fedpeptao import comparison
from fedpeptao.errors import InputError
from server_app.run_folder import read_history
from tests.small_runs import SMALL

METHODS: dict[str, Any] = {"ours": {}, "all layers": {"layers": "all", "drift-correction": "none"}}


def write_grid(path: Path, base: dict[str, Scalar] | None = None, methods: dict[str, Any] = METHODS) -> Path:
    content = {"base": base or {}, "methods": methods, "seeds": [0, 1]}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf8")
    return path


def fill(folder: Path, rounds: list[tuple[int, int, float | None]]) -> None:
    """Raw figures of one cell: (round, bytes so far, personalised accuracy or None where nothing was evaluated)."""
    folder.mkdir(parents=True)
    lines = []
    for number, size, accuracy in rounds:
        shared = None if accuracy is None else accuracy - 0.1
        figures = {"round": number, "cumulative_bytes": size, "all_personalised_accuracy": accuracy}
        lines.append(
            {**figures, "all_shared_accuracy": shared, "global_accuracy": None if shared is None else shared - 0.1}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf8")


@pytest.fixture
def filled(tmp_path: Path) -> comparison.ComparisonGrid:
    """`ours` is cheap and ran 4 rounds, `all layers` sends twice as much and ran 6."""
    grid = comparison.read_grid(write_grid(tmp_path / "demo.yaml"))
    for seed, more in ((0, 0.0), (1, 0.02)):
        ours = [(0, 0, None), (2, 2_000_000, 0.40 + more), (3, 3_000_000, None), (4, 4_000_000, 0.60 + more)]
        whole = [(2, 4_000_000, 0.30 + more), (4, 8_000_000, 0.50 + more), (6, 12_000_000, 0.70 + more)]
        fill(grid.cell("ours", seed), ours)
        fill(grid.cell("all layers", seed), whole)
    return grid


def test_the_table_at_equal_rounds_and_at_equal_bytes(filled: comparison.ComparisonGrid) -> None:
    """4 rounds and 4 MB are what both reached; there `all layers` is at its round 4, and at its round 2."""
    assert comparison.table(filled).splitlines() == [
        "| method | at | MB | round | personalised | shared model, clients' shards | shared model, test set |",
        "|---|---|---|---|---|---|---|",
        "| ours | 4 rounds | 4 | 4 | 0.610 (0.600, 0.620) | 0.510 (0.500, 0.520) | 0.410 (0.400, 0.420) |",
        "| all layers | 4 rounds | 8 | 4 | 0.510 (0.500, 0.520) | 0.410 (0.400, 0.420) | 0.310 (0.300, 0.320) |",
        "| ours | 4 MB | 4 | 4 | 0.610 (0.600, 0.620) | 0.510 (0.500, 0.520) | 0.410 (0.400, 0.420) |",
        "| all layers | 4 MB | 4 | 2 | 0.310 (0.300, 0.320) | 0.210 (0.200, 0.220) | 0.110 (0.100, 0.120) |",
    ]


def test_the_written_table_names_its_command_and_seeds(filled: comparison.ComparisonGrid) -> None:
    text = comparison.write_table(filled)
    assert (filled.path.with_suffix("") / "TABLE.md").read_text(encoding="utf8") == text
    assert f"`fedpeptao compare {filled.path.parent.name}/demo.yaml`" in text
    assert "seeds [0, 1]" in text
    assert comparison.table(filled) in text


@pytest.mark.usefixtures("no_plots")
def test_cells_are_run_once_and_again_where_their_settings_changed(
    tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base: dict[str, Scalar] = {**SMALL, "dataset": str(data_file), "rounds": 2, "evaluate-every": 1}
    grid = comparison.read_grid(write_grid(tmp_path / "g.yaml", base))
    comparison.run_cells(grid, [0])
    cells = [grid.cell(method, 0) for method in METHODS]
    for cell, method in zip(cells, METHODS, strict=True):
        assert {path.name for path in cell.iterdir()} == {
            "metrics.jsonl",
            "summary.json",
            "settings.json",
            "facts.json",
        }
        assert read_history(cell)[-1]["round"] == 2
        assert json.loads((cell / "settings.json").read_text(encoding="utf8")) == grid.settings(method, 0)
    assert not grid.cell("ours", 1).exists()

    ran: list[Path] = []
    real = comparison._run_cell
    monkeypatch.setattr(comparison, "_run_cell", lambda flat, folder: (ran.append(folder), real(flat, folder))[1])
    comparison.run_cells(grid, [0])
    assert ran == []
    assert capsys.readouterr().out.splitlines()[-2:] == [f"{cell} is there" for cell in cells]

    methods = {**METHODS, "ours": {"learning-rate": 0.02}}
    changed = comparison.read_grid(write_grid(tmp_path / "g.yaml", base, methods))
    comparison.run_cells(changed, [0, 1])
    assert ran == [changed.cell("ours", 0), changed.cell("ours", 1), changed.cell("all layers", 1)]
    settings = json.loads((changed.cell("ours", 0) / "settings.json").read_text(encoding="utf8"))
    assert settings["learning-rate"] == 0.02
    assert "| ours | 2 rounds |" in comparison.write_table(changed)


def test_a_cell_that_was_cut_short_counts_as_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures without the settings they were made with."""
    grid = comparison.read_grid(write_grid(tmp_path / "g.yaml"))
    fill(grid.cell("ours", 0), [(1, 10, 0.5)])
    ran: list[Path] = []
    monkeypatch.setattr(comparison, "_run_cell", lambda flat, folder: ran.append(folder))
    comparison.run_cells(grid, [0])
    assert grid.cell("ours", 0) in ran


@pytest.mark.parametrize(("value", "kept"), [(0.0, True), (0.1, False)])
def test_a_setting_that_is_new_since_then_counts_where_it_is_not_at_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, kept: bool
) -> None:
    grid = comparison.read_grid(write_grid(tmp_path / "g.yaml", {"proximal": value}, {"ours": {}}))
    fill(grid.cell("ours", 0), [(1, 10, 0.5)])
    older = {key: setting for key, setting in grid.settings("ours", 0).items() if key != "proximal"}
    (grid.cell("ours", 0) / "settings.json").write_text(json.dumps(older), encoding="utf8")
    ran: list[Path] = []
    monkeypatch.setattr(comparison, "_run_cell", lambda flat, folder: ran.append(folder))
    comparison.run_cells(grid, [0])
    assert (ran == []) is kept


@pytest.mark.parametrize(
    "text", ["", "base: 1", "base: {}\nmethods: {}", "[1, 2]", "base: {a", "base: {}\nmethods: 3\nseeds: [0]"]
)
def test_a_grid_that_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(text, encoding="utf8")
    with pytest.raises(InputError) as caught:
        comparison.read_grid(path)
    assert (caught.value.key, caught.value.value) == ("grid", str(path))
    assert "results/demo.yaml" in caught.value.mend


def test_a_wrong_setting_in_a_grid_is_found_before_any_cell_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"layer = 3: there is no such setting\. Did you mean layers"):
        comparison.read_grid(write_grid(tmp_path / "g.yaml", methods={**METHODS, "typo": {"layer": 3}}))


def test_a_missing_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        comparison.read_grid(tmp_path / "absent.yaml")


def test_the_grid_that_comes_along_can_be_used() -> None:
    grid = comparison.read_grid(Path(__file__).parents[2] / "results" / "demo.yaml")
    assert len(grid.methods) >= 2
    assert len(grid.seeds) >= 2


def test_a_table_is_by_the_metric_of_its_runs(tmp_path: Path) -> None:
    grid = comparison.read_grid(write_grid(tmp_path / "demo.yaml", methods={"ours": {}}))
    for seed in (0, 1):
        cell = grid.cell("ours", seed)
        fill(cell, [(2, 1_000_000, 0.5)])
        (line,) = read_history(cell)
        line |= {"all_personalised_f1": 0.125, "all_shared_f1": 0.25, "global_f1": 0.375}
        (cell / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf8")
        (cell / "summary.json").write_text('{"metric": "f1"}', encoding="utf8")
    assert "| 0.125 (0.125, 0.125) | 0.250 (0.250, 0.250) | 0.375 (0.375, 0.375) |" in comparison.table(grid)
    assert "Figures are F1." in comparison.write_table(grid)
    (cell / "summary.json").write_text("{}", encoding="utf8")
    with pytest.raises(InputError, match="judged by accuracy and by f1"):
        comparison.table(grid)
