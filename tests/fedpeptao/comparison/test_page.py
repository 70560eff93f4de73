"""The page of a grid: between its marks the figures and pictures, beside it a page of all its tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpeptao.comparison.grid import ComparisonGrid
from fedpeptao.comparison.page import write_page
from fedpeptao.errors import InputError
from tests.fedpeptao.comparison.made_up import MB, fill, make, point


def test_the_page_is_written_between_its_marks_and_draws_its_picture(three: ComparisonGrid) -> None:
    assert three.report is not None
    write_page(three, three.report)
    text = three.report.page.read_text(encoding="utf8")
    assert text.startswith("Before\n<!-- g -->\nMade by `fedpeptao compare")
    assert text.endswith("\n<!-- /g -->\nAfter\n")
    assert "12 runs, on a CPU; Python 3.11.7, torch 2.13.0." in text
    assert "**t, alpha 0.3.** Accuracy in percent, differences in points." in text
    assert "![t, alpha 0.3: figures by round and by traffic](images/compare-g-t-alpha0.3.svg)" in text
    picture = three.report.page.parent / "images" / "compare-g-t-alpha0.3.svg"
    drawn = picture.read_bytes()
    assert drawn.startswith(b"<?xml")
    tables = three.report.page.parent / "page" / "g.md"
    assert "12 runs, on a CPU" in tables.read_text(encoding="utf8")
    heads = (
        "after 20 rounds",
        "over the last 5 evaluations",
        "within the reference's bytes",
        "to a personalised figure of",
    )
    places = [tables.read_text(encoding="utf8").index(f"| {head}") for head in heads]
    assert places == sorted(places)
    write_page(three, three.report)
    assert three.report.page.read_text(encoding="utf8") == text
    assert picture.read_bytes() == drawn


def test_seconds_of_unlike_machines_are_said(three: ComparisonGrid) -> None:
    assert three.report is not None
    write_page(three, three.report)
    assert "types of CPU" not in three.report.page.read_text(encoding="utf8")
    fill(three.cell("ours", "t", 0.3, 0), [point(8, 0.9, 20 * MB)], cpu="another CPU")
    write_page(three, three.report)
    assert "Seconds are of 2 types of CPU" in three.report.page.read_text(encoding="utf8")


def test_seconds_that_were_taken_in_two_ways_are_said(three: ComparisonGrid) -> None:
    fill(three.cell("ours", "t", 0.3, 0), [point(8, 0.9, 20 * MB)], clock="processor")
    assert three.report is not None
    write_page(three, three.report)
    said = "Seconds are taken in two ways, and compare roughly at best."
    assert said in three.report.page.read_text(encoding="utf8")


def test_more_rows_than_colours_are_not_drawn(three: ComparisonGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    assert three.report is not None
    monkeypatch.setattr("fedpeptao.comparison.curves.COLOURS", ("red", "blue", "green"))
    write_page(three, three.report)
    assert "![" not in three.report.page.read_text(encoding="utf8")


def test_a_grid_that_names_its_pictures_has_one_of_each(tmp_path: Path) -> None:
    named = {"parts of ours": ["reference", "ours"], "floors": ["alone"]}
    report = {"page": "page.md", "reference": "reference", "target": 0.5, "pictures": named}
    grid = make(tmp_path, [0], report=report)
    for cell in grid.cells():
        fill(cell, [point(10, 0.6, 2 * MB), point(20, 0.8, 4 * MB)])
    assert grid.report is not None
    write_page(grid, grid.report)
    text = grid.report.page.read_text(encoding="utf8")
    path = "images/compare-g-t-alpha0.3-parts-of-ours.svg"
    assert f"![t, alpha 0.3: figures by round and by traffic, parts of ours]({path})" in text
    drawn = (tmp_path / path).read_text(encoding="utf8")
    assert "Ours" in drawn
    assert "Reference" in drawn
    assert "Alone" not in drawn
    assert text.count("![") == 1, "floors alone are no picture"
    assert [one.name for one in (tmp_path / "images").iterdir()] == ["compare-g-t-alpha0.3-parts-of-ours.svg"]


def test_a_page_without_a_place_for_the_grid_is_refused(three: ComparisonGrid) -> None:
    assert three.report is not None
    three.report.page.write_text("Nothing\n", encoding="utf8")
    with pytest.raises(InputError, match=r"it has no place for this grid's tables\. Write <!-- g --> and <!-- /g -->"):
        write_page(three, three.report)


def test_a_page_of_nothing_yet_says_so(tmp_path: Path) -> None:
    grid = make(tmp_path, [0])
    assert grid.report is not None
    write_page(grid, grid.report)
    text = grid.report.page.read_text(encoding="utf8")
    assert "Without a run of the reference so far, and so without tables: t, alpha 0.3." in text
    assert "![" not in text


def test_a_choice_by_seconds_of_unlike_machines_says_so(tmp_path: Path) -> None:
    report = {"page": "page.md", "reference": "reference", "target": 0.5, "choice": ["reference", "ours"]}
    grid = make(tmp_path, [0], report=report)
    cpus = {"reference": "a CPU", "ours": "a CPU", "alone": "another CPU"}
    said = "Seconds are of several types of CPU or taken in two ways, and compare roughly at best."
    assert grid.report is not None
    for name, cpu in cpus.items():
        fill(grid.cell(name, "t", 0.3, 0), [point(8, 0.8, 40 * MB)], cpu=cpu)
    write_page(grid, grid.report)
    text = grid.report.page.read_text(encoding="utf8")
    assert "**Which to choose when.** Bold: the best at a place, and what is less than 1 point below it.\n" in text
    assert "| t, alpha 0.3 | Reference |" in text
    fill(grid.cell("ours", "t", 0.3, 0), [point(8, 0.8, 40 * MB)], cpu="another CPU")
    write_page(grid, grid.report)
    text = grid.report.page.read_text(encoding="utf8")
    assert f"* {said}\n" in text
    assert "| t, alpha 0.3 * | Reference |" in text


def test_a_choice_of_methods_that_have_not_met_is_none(tmp_path: Path) -> None:
    report = {"page": "page.md", "reference": "reference", "target": 0.5, "choice": ["reference", "ours"]}
    grid = make(tmp_path, [0], report=report)
    fill(grid.cell("reference", "t", 0.3, 0), [point(8, 0.8, 40 * MB)])
    assert grid.report is not None
    write_page(grid, grid.report)
    assert "Which to choose when" not in grid.report.page.read_text(encoding="utf8")
