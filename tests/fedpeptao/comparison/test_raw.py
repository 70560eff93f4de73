"""Raw files: what is read is what was written; what counts as there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from federation.settings import defaults
from fedpeptao.comparison.grid import Cell
from fedpeptao.comparison.raw import found, read_raw, taken_over, write_raw
from fedpeptao.errors import InputError
from tests.fedpeptao.comparison.made_up import fill, point, result


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    settings = {**defaults(), "rounds": 2, "proximal": 0.0}
    return Cell("ours", "", None, 0, None, settings, tmp_path / "main" / "ours-seed0.jsonl")


def test_what_is_read_is_what_was_written(cell: Cell) -> None:
    written = result(cell, [point(2, 0.4, 300, seconds=1.5), point(4, 0.6, 900)])
    write_raw(cell.path, written)
    assert read_raw(cell.path) == written
    assert found(cell) == written
    assert len(cell.path.read_text(encoding="utf8").splitlines()) == 4
    assert written.last.round == 4


def test_a_cell_without_a_file_or_of_other_settings_is_not_there(cell: Cell) -> None:
    assert found(cell) is None
    fill(cell, [point(2, 0.4)])
    assert found(cell) is not None
    assert found(replace(cell, settings={**cell.settings, "rounds": 3})) is None


def test_a_cell_of_other_data_is_not_there(cell: Cell) -> None:
    fill(cell, [point(2, 0.4)], source="a")
    assert found(cell, "a") is not None
    assert found(cell, "b") is None
    assert found(cell, None) is not None  # out of reach: the tables need no data


def test_a_cell_of_code_that_makes_other_figures_is_not_there(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cell, [point(2, 0.4)])
    monkeypatch.setattr("fedpeptao.comparison.raw.FIGURES", 1000)
    assert found(cell) is None


@pytest.mark.parametrize(("value", "there"), [(0.0, True), (0.1, False)])
def test_a_setting_that_is_new_since_then_counts_where_it_is_not_at_its_default(
    cell: Cell, value: float, there: bool
) -> None:
    older = {key: setting for key, setting in cell.settings.items() if key != "proximal"}
    fill(replace(cell, settings=older), [point(2, 0.4)])
    assert (found(replace(cell, settings={**cell.settings, "proximal": value})) is not None) is there


@pytest.mark.parametrize(
    "text", ["", "{}\n{}\n", "no JSON\n", '{"cell": {}}\n{"evaluation": {"round": 1}}\n{"end": {}}\n']
)
def test_a_damaged_file_is_named(cell: Cell, text: str) -> None:
    cell.path.parent.mkdir()
    cell.path.write_text(text, encoding="utf8")
    with pytest.raises(ValueError, match=r"ours-seed0.jsonl is no raw file of a comparison"):
        read_raw(cell.path)
    with pytest.raises(InputError, match="Delete it, so that the cell runs again"):
        found(cell)


def test_the_same_cell_of_another_grid_is_copied(cell: Cell, tmp_path: Path) -> None:
    other = replace(cell, path=tmp_path / "rivals" / cell.path.name)
    assert taken_over(cell, "a") is None
    fill(replace(other, settings={**cell.settings, "rounds": 3}), [point(2, 0.3)], source="a")
    assert taken_over(cell, "a") is None
    fill(other, [point(2, 0.4)], source="a")
    assert taken_over(cell, "b") is None
    assert not cell.path.exists()
    assert taken_over(cell, "a") == other.path
    assert found(cell, "a") == read_raw(other.path)


def test_the_same_cell_under_another_name_is_copied_under_its_own(cell: Cell) -> None:
    other = replace(cell, method="theirs", path=cell.path.with_name("theirs-seed0.jsonl"))
    fill(other, [point(2, 0.4)], source="a")
    assert taken_over(cell, "a") == other.path
    there, copied = read_raw(other.path), read_raw(cell.path)
    assert (there.made["method"], copied.made["method"]) == ("theirs", "ours")
    assert replace(copied, made={**copied.made, "method": "theirs"}) == there


def test_other_files_beside_a_grid_are_none_of_its_cells(cell: Cell) -> None:
    stranger = cell.path.parent.parent / "a-run" / "metrics.jsonl"
    stranger.parent.mkdir(parents=True)
    stranger.write_text('{"round": 1}\n', encoding="utf8")
    assert taken_over(cell, "a") is None
    other = replace(cell, path=stranger.parent.parent / "z" / "theirs-seed0.jsonl")
    fill(other, [point(2, 0.4)], source="a")
    assert taken_over(cell, "a") == other.path


def test_a_setting_without_effect_makes_no_other_cell(cell: Cell) -> None:
    """beta, where the server keeps no momentum; and where it does."""
    plain = replace(cell, settings={**cell.settings, "server-optimizer": "none"})
    fill(plain, [point(2, 0.4)], source="a")
    assert found(replace(plain, settings={**plain.settings, "server-momentum": 0.1})) is not None
    fill(cell, [point(2, 0.4)], source="a")
    assert found(replace(cell, settings={**cell.settings, "server-momentum": 0.1})) is None
