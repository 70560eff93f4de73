"""Tables from raw files made by hand: every number in them is one that a reader can compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedpeptao.comparison.choice import choice
from fedpeptao.comparison.grid import ComparisonGrid, Report
from fedpeptao.comparison.overview import overview
from fedpeptao.comparison.page import write_page
from fedpeptao.comparison.pairs import pairs
from fedpeptao.comparison.places import Place, difference, global_test, load_places, personalised, shared
from fedpeptao.comparison.raw import FAILED
from fedpeptao.comparison.statistics import Interval
from fedpeptao.comparison.table_text import number, percent, points
from fedpeptao.comparison.tables import equal_bytes, equal_rounds, last_evaluations, to_target
from fedpeptao.errors import InputError
from tests.fedpeptao.comparison.made_up import MB, SHARED, fill, fill_seed, make, point


def rows(table: Callable[[Place, Report], str], grid: ComparisonGrid) -> dict[str, list[str]]:
    (place,) = load_places(grid)
    assert grid.report is not None
    return cells(table(place, grid.report))


def cells(table: str) -> dict[str, list[str]]:
    """The cells of each row by its first."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines if line[0] != "---"}


def test_equal_rounds(three: ComparisonGrid) -> None:
    """Ours ends at .90, .91, .92: .11 +- .01 ahead, t interval .11 +- 4.30265 x .01/sqrt(3) = .0248."""
    found = rows(equal_rounds, three)
    assert found["each client's commonest label"] == ["25.0 ± 0.0", "", "", "", "", ""]
    assert found["Ours"] == [
        *["91.0 ± 1.0", "+11.0 [+8.5, +13.5]", "81.0 ± 1.0", "71.0 ± 1.0", "+11.0 [+8.5, +13.5]", "20.0 ± 0.0"]
    ]
    assert found["Reference"] == ["80.0 ± 0.0", "", "70.0 ± 0.0", "60.0 ± 0.0", "", "40.0 ± 0.0"]
    assert found["Alone"][0] == "35.0 ± 0.0"
    assert (found["Alone"][-1], found["Pooled"][-1]) == ("", "")  # their bytes are no part of the comparison


def test_the_last_evaluations(three: ComparisonGrid) -> None:
    """Of .2, .4, .6, .8 the mean is .5; they rise by .6 on a straight line. Of seven evaluations the last five count.

    Those, .3 .5 .6 .7 .8, have a slope of .12: .34 .46 .58 .70 .82, off by .04 .04 .02 0 .02, sqrt(.004/3) = .0365.
    """
    found = rows(last_evaluations, three)
    assert found["Reference"] == ["50.0 ± 0.0", "", "+60.0", "0.0", "30.0 ± 0.0", "", "+60.0", "0.0"]
    assert found["Ours"][:4] == ["61.0 ± 1.0", "+11.0 [+8.5, +13.5]", "+60.0", "0.0"]
    assert found["Ours"][4:] == ["41.0 ± 1.0", "+11.0 [+8.5, +13.5]", "+60.0", "0.0"]
    assert found["Alone"][:4] == ["35.0 ± 0.0", "-15.0 [-15.0, -15.0]", "", ""]  # one evaluation does not swing
    assert found["each client's commonest label"] == ["25.0 ± 0.0", *[""] * 7]
    for seed in (0, 1, 2):
        fill(three.cell("alone", "t", 0.3, seed), [point(0, 0.2), point(1, 0.45)])
        fill(three.cell("ours", "t", 0.3, seed), [point(n, 0.1 * n, n * MB) for n in (1, 2, 3, 5, 6, 7, 8, 40)])
    assert rows(last_evaluations, three)["Ours"][:4] == ["58.0 ± 0.0", "+8.0 [+8.0, +8.0]", "+48.0", "3.7"]
    assert rows(last_evaluations, three)["Alone"][0] == "45.0 ± 0.0"  # a floor's local epochs come after all rounds
    assert rows(last_evaluations, three)["Alone"][4] == "-"
    for seed in (0, 1, 2):
        fill(
            three.cell("alone", "t", 0.3, seed),
            [*(point(n, 0.1 * n, n * MB) for n in (2, 4, 6, 8)), point(40, 0.9, 9 * MB)],
        )
    assert rows(last_evaluations, three)["Alone"][0] == "90.0 ± 0.0"
    assert rows(last_evaluations, three)["Alone"][4] == "30.0 ± 0.0"  # its shared model is that of the rounds
    fill(three.cell("ours", "t", 0.3, 0), [point(n, 0.5, n * MB) for n in (1, 2, 3)])
    assert rows(last_evaluations, three)["Ours"][2:4] == [
        "+32.0",
        "2.4",
    ]  # means over seeds: of 0, 48, 48 and 0, 3.7, 3.7
    three.cell("reference", "t", 0.3, 2).path.unlink()
    assert rows(last_evaluations, three)["Ours"][1] == "+4.0"  # of two seeds: 0 and 8


def test_equal_bytes(three: ComparisonGrid) -> None:
    """Of 40 MB: within 10 the reference is at round 2 and ours at 4, within 20 at 4 and 8, within 40 at 8 and 8.

    The means: .4667 and .7767, one point more or less by seed, as in test_equal_rounds.
    """
    found = rows(equal_bytes, three)
    assert found["Reference"][:5] == ["20.0 ± 0.0", "40.0 ± 0.0", "80.0 ± 0.0", "46.7 ± 0.0", ""]
    assert found["Ours"][:5] == ["51.0 ± 1.0", "91.0 ± 1.0", "91.0 ± 1.0", "77.7 ± 1.0", "+31.0 [+28.5, +33.5]"]
    assert found["Ours"][5:] == ["31.0 ± 1.0", "71.0 ± 1.0", "71.0 ± 1.0", "57.7 ± 1.0", "+31.0 [+28.5, +33.5]"]
    assert found["Alone"][:4] == ["35.0 ± 0.0"] * 4
    assert found["Alone"][5:8] == ["-"] * 3  # nothing travelled: there is no shared model
    assert found["Pooled"][:4] == [
        "not yet",
        "not yet",
        "95.0 ± 0.0",
        "-",
    ]  # what is trained for all the bytes counts for all
    assert found["each client's commonest label"][:4] == ["25.0 ± 0.0"] * 4
    for seed in (0, 1, 2):
        fill(three.cell("alone", "t", 0.3, seed), [point(2, 0.2, MB), point(4, 0.45, 20 * MB)])
    assert rows(equal_bytes, three)["Alone"][:3] == [
        "not yet",
        "45.0 ± 0.0",
        "45.0 ± 0.0",
    ]  # nobody stopped it at round 2


def test_places_side_by_side(tmp_path: Path) -> None:
    """A second place, where ours is 14 points ahead with one of three seeds, and nothing else but the reference is there."""
    grid = make(tmp_path, [0, 1, 2], tasks={"t": {}, "u": {}})
    for seed in (0, 1, 2):
        fill_seed(grid, seed, 0.01 * seed)
    assert grid.report is not None
    write_page(grid, grid.report)
    assert "| after 20 rounds |" in grid.report.page.read_text(encoding="utf8")  # one place has a reference: its table
    for seed in (0, 1, 2):
        fill(grid.cell("reference", "u", 0.3, seed), [point(n, 0.1 * n, n * 5 * MB) for n in (2, 4, 6, 8)])
    fill(grid.cell("ours", "u", 0.3, 1), [point(n, 0.1 * n + 0.14, n * 5 * MB // 2) for n in (2, 4, 6, 8)])
    tables = overview({place.task: place for place in load_places(grid)}, grid.report)
    first, within, test, late, sent = tables.split("\n\n")
    assert cells(first) == {
        "personalised, at equal rounds": ["t", "u"],
        "each client's commonest label": ["25.0", "25.0"],
        "Alone": ["35.0 (-45.0)", ""],
        "Reference": ["80.0", "80.0"],
        "Ours": ["91.0 (+11.0)", "94.0 (+14.0), 1 of 3 seeds"],
        "Pooled": ["95.0 (+15.0)", ""],
    }
    assert cells(within)["Ours"] == ["77.7 (+31.0)", "80.7 (+34.0), 1 of 3 seeds"]  # as in test_equal_bytes
    assert cells(test)["Ours"] == ["71.0 (+11.0)", "74.0 (+14.0), 1 of 3 seeds"]
    assert cells(late)["Reference"] == ["30.0", "30.0"]  # as in test_the_last_evaluations
    assert "each client's commonest label" not in cells(test)
    assert (cells(sent)["Reference"], cells(sent)["Ours"]) == (["40 (1.00)"] * 2, ["20 (0.50)"] * 2)
    assert not {"Alone", "Pooled"} & set(cells(sent))  # free
    write_page(grid, grid.report)
    text = grid.report.page.read_text(encoding="utf8")
    assert "| t, alpha 0.3 (3 seeds) | u, alpha 0.3 (3 seeds) |" in text
    assert text.index("| 91.0 (+11.0) |") < text.index("![t, alpha 0.3") < text.index("[All tables](page/g.md)")


def test_a_reading_that_one_seed_lacks_gives_no_mean_side_by_side(three: ComparisonGrid) -> None:
    """Within a quarter of the reference's bytes a run that begins with more has nothing."""
    fill(three.cell("ours", "t", 0.3, 1), [point(8, 0.9, 20 * MB)])
    (place,) = load_places(three)
    assert three.report is not None
    _, within, *_ = overview({"t": place}, three.report).split("\n\n")
    assert cells(within).get("Ours") is None


def choices(grid: ComparisonGrid) -> list[dict[str, list[str]]]:
    """The cells of each table by their method; of one place."""
    (place,) = load_places(grid)
    assert grid.report is not None
    tables = choice({"here": place}, grid.report).split("\n\n")
    return [{row[0]: [head, *row[1:]] for head, *row in rows_of(table)} for table in tables]


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


CHOICE = {"page": "page.md", "reference": "reference", "target": 0.5, "choice": ["reference", "ours"]}


def test_which_to_choose_when(tmp_path: Path) -> None:
    """Ours needs half the bytes and, from here on, twice the seconds.

    Of 80 s the reference is at round 2 within 20, at 4 within 40; ours has its first evaluation at 40 s and its second at 80.
    Its test set is 20 points below its clients' own, as the reference's is.
    """
    grid = make(tmp_path, [0], report=CHOICE)
    fill_seed(grid, 0)
    ours = [point(n, 0.1 * n + 0.1, n * 5 * MB // 2, seconds=20.0 * n, side_by_side=1.0) for n in (2, 4, 6, 8)]
    fill(grid.cell("ours", "t", 0.3, 0), ours)
    personal, shared_model = choices(grid)
    assert list(personal) == ["Reference", "Ours"]
    assert personal["Reference"] == [
        *["here", "20.0", "40.0", "80.0", "**20.0**", "**40.0**", "**80.0**", "40.0", "80.0"]
    ]
    assert personal["Ours"] == ["", "**50.0**", "**90.0**", "**90.0**", "not yet", "30.0", "50.0", "20.0", "160"]
    assert shared_model["Reference"][1:4] == ["0.0", "20.0", "60.0"]
    assert shared_model["Ours"][1:4] == ["**30.0**", "**70.0**", "**70.0**"]
    assert grid.report is not None
    write_page(grid, grid.report)
    assert "| personalised, within the reference's |" in grid.report.page.read_text(encoding="utf8")


@pytest.mark.parametrize(("behind", "level"), [(0.009, True), (0.011, False)])
def test_what_is_less_than_a_point_below_the_best_is_level_with_it(tmp_path: Path, behind: float, level: bool) -> None:
    grid = make(tmp_path, [0], report=CHOICE)
    fill_seed(grid, 0)
    fill(grid.cell("ours", "t", 0.3, 0), [point(8, 0.8 - behind, 40 * MB, seconds=80.0)])
    personal, _ = choices(grid)
    assert personal["Reference"][3] == "**80.0**"
    assert personal["Ours"][3].startswith("**") is level


def test_a_method_with_fewer_seeds_than_the_reference_is_not_held_against_it(tmp_path: Path) -> None:
    grid = make(tmp_path, [0, 1], report=CHOICE)
    for seed in (0, 1):
        fill_seed(grid, seed)
    assert choices(grid)[0]["Ours"][3].startswith("**90.0")
    grid.cell("ours", "t", 0.3, 1).path.unlink()
    personal, _ = choices(grid)
    assert personal["Ours (1 of 2 seeds)"][3] == "90.0"
    assert personal["Reference"][3] == "**80.0 ± 0.0**"


def test_places_where_no_two_have_met_are_left_out_of_the_choice(tmp_path: Path) -> None:
    grid = make(tmp_path, [0], report=CHOICE)
    fill(grid.cell("reference", "t", 0.3, 0), [point(8, 0.8, 40 * MB)])
    (there,) = load_places(grid)
    assert grid.report is not None
    assert choice({"here": there}, grid.report) == ""
    fill_seed(grid, 0)
    (met,) = load_places(grid)
    for table in choice({"there": there, "here": met}, grid.report).split("\n\n"):
        assert [head for head, *_ in rows_of(table)] == ["here", ""]


def test_seconds_that_nobody_measured_give_no_choice_by_them(tmp_path: Path) -> None:
    grid = make(tmp_path, [0], report=CHOICE)
    fill_seed(grid, 0)
    fill(grid.cell("ours", "t", 0.3, 0), [point(8, 0.9, 20 * MB)])
    assert choices(grid)[0]["Ours"][4:] == ["not yet", "not yet", "not yet", "20.0", "-"]
    fill(grid.cell("reference", "t", 0.3, 0), [point(8, 0.8, 40 * MB)])
    assert choices(grid)[0]["Ours"][4:7] == ["missing"] * 3


def test_an_evaluation_that_is_too_late_for_the_bytes_is_not_there_yet(tmp_path: Path) -> None:
    """Evaluated first at 15 MB, with 10 MB to spend: no mean of the three either. At 20 MB a third of the way to 30."""
    grid = make(tmp_path, [0])
    fill_seed(grid, 0)
    fill(grid.cell("ours", "t", 0.3, 0), [point(4, 0.5, 15 * MB), point(8, 0.9, 30 * MB)])
    assert rows(equal_bytes, grid)["Ours"][:5] == ["not yet", "63.3", "90.0", "-", ""]


def test_two_methods_against_each_other(tmp_path: Path) -> None:
    """Ours is .10, .11, .12 ahead by seed at rounds 2 to 8. At 10, 20, 40 of the reference's 40 MB it is at rounds 4, 8, 8,
    so .3, .5, .1 ahead in seed 0. With one seed, where it stops at .8: .3, .4 and 0 ahead; clients' counts are alike.
    """
    named = {
        "page": "page.md",
        "reference": "reference",
        "target": 0.5,
        "pairs": [["ours", "reference"], ["alone", "ours"]],
    }
    grid = make(tmp_path, [0, 1, 2], report=named, tasks={"t": {}, "u": {}, "v": {}})
    for seed in (0, 1, 2):
        fill_seed(grid, seed, 0.01 * seed)
    fill(grid.cell("reference", "u", 0.3, 1), [point(n, 0.1 * n, n * 5 * MB) for n in (2, 4, 6, 8)])
    fill(grid.cell("ours", "u", 0.3, 1), [point(n, min(0.1 * n + 0.1, 0.8), n * 5 * MB // 2) for n in (2, 4, 6, 8)])
    fill(grid.cell("ours", "v", 0.3, 2), [point(8, 0.9, 20 * MB)])
    assert grid.report is not None
    tables = pairs({place.task: place for place in load_places(grid)}, grid.report)
    assert len(tables) == 2
    found = cells(tables[0])
    assert found.pop("Ours less Reference") == [
        "t (3 seeds)",
        "u (1 seed)",
    ]  # and nothing of v, where they did not meet
    assert found == {
        "personalised, at equal rounds": ["+11.0 [+8.5, +13.5]", "+0.0 (+0.0, +0.0)"],
        "personalised, over the last 5 evaluations": ["+11.0 [+8.5, +13.5]", "+7.5"],
        "personalised, within 1/4 of the reference's bytes": ["+31.0 [+28.5, +33.5]", "+30.0"],
        "personalised, within equal bytes (mean of the shares)": ["+31.0 [+28.5, +33.5]", "+23.3"],
        "test set, at equal rounds": ["+11.0 [+8.5, +13.5]", "+0.0"],
        "test set, over the last 5 evaluations": ["+11.0 [+8.5, +13.5]", "+7.5"],
    }
    assert cells(tables[1])["personalised, at equal rounds"] == ["-56.0 [-58.5, -53.5]"]
    assert cells(tables[1])["test set, at equal rounds"] == [""]  # a floor that shares nothing
    write_page(grid, grid.report)
    assert "| Ours less Reference | t, alpha 0.3 (3 seeds) |" in grid.report.page.read_text(encoding="utf8")


def test_floors_are_held_against_the_targets_of_their_own_seeds(tmp_path: Path) -> None:
    """Seed 0, where the reference ends at .8, has a floor of .5, and seed 1, with .4, one of .1: half of .8 and no half of .4.

    The first method of the grid has run with seed 1 alone; seed 2, where the reference has not run, has no target.
    """
    grid = make(tmp_path, [0, 1, 2])
    for seed, last, floor in ((0, 0.8, 0.5), (1, 0.4, 0.1)):
        fill(grid.cell("reference", "t", 0.3, seed), [point(8, last, 40 * MB)], commonest_label=floor)
    fill(grid.cell("alone", "t", 0.3, 1), [point(0, 0.35)], commonest_label=0.1)
    fill(grid.cell("alone", "t", 0.3, 2), [point(0, 0.99)], commonest_label=0.9)
    (place,) = load_places(grid)
    assert list(place.commonest().items()) == [(0, 0.5), (1, 0.1), (2, 0.9)]
    found = rows(to_target, grid)
    assert found["each client's commonest label"][0] == "in 1 of 2"
    assert found["Alone (2 of 3 seeds)"][0] == "reached by its end"
    assert (
        next(iter(found)) == "to a personalised figure of 30.0 ± 14.1"
    )  # the floors' mean is as much, with seed 2 more


def test_to_a_target(three: ComparisonGrid) -> None:
    """Half of .8 is .4: the reference has it at round 4, ours (.3, .5 and more) at round 4, with 10 MB."""
    found = rows(to_target, three)
    assert next(iter(found)) == "to a personalised figure of 40.0 ± 0.0"  # over the 25.0 of commonest labels
    assert found["Reference"] == ["4.0 ± 0.0", "20.0 ± 0.0", "40.0 ± 0.0", "4.0 ± 0.0"]
    assert found["Ours"] == ["4.0 ± 0.0", "10.0 ± 0.0", "40.0 ± 0.0", "4.0 ± 0.0"]
    assert found["Alone"][0] == "never"
    assert found["Pooled"][0] == "reached by its end"
    assert found["each client's commonest label"][0] == "never"


def test_a_target_that_commonest_labels_reach_is_said(tmp_path: Path) -> None:
    grid = make(tmp_path, [0], report={"page": "page.md", "reference": "reference", "target": 0.3})
    fill_seed(grid, 0)
    assert (
        next(iter(rows(to_target, grid)))
        == "to a personalised figure of 24.0, less than each client's commonest label gives"
    )


def test_seconds_of_which_the_whole_alone_is_known_are_spread_evenly(tmp_path: Path) -> None:
    """80 s in 8 rounds by the clock, 70 of them in the first two: 40 s at round 4; by processor time what was measured."""
    grid = make(tmp_path, [0])
    fill_seed(grid, 0)
    uneven = [point(n, 0.1 * n, n * MB, seconds=s, side_by_side=s / 8) for n, s in ((2, 70.0), (4, 72.0), (8, 80.0))]
    fill(grid.cell("ours", "t", 0.3, 0), uneven)
    assert rows(to_target, grid)["Ours"] == ["4.0", "4.0", "40.0", "5.0"]
    fill(grid.cell("ours", "t", 0.3, 0), uneven, clock="processor")
    assert rows(to_target, grid)["Ours"] == ["4.0", "4.0", "72.0", "9.0"]


def test_a_target_that_one_seed_never_reaches_is_said(tmp_path: Path) -> None:
    grid = make(tmp_path, [0, 1])
    fill_seed(grid, 0)
    fill_seed(grid, 1)
    fill(grid.cell("ours", "t", 0.3, 1), [point(8, 0.39, 20 * MB)])
    assert rows(to_target, grid)["Ours"][:2] == ["4.0 (never in 1 of 2)", "10.0 (never in 1 of 2)"]
    fill(grid.cell("ours", "t", 0.3, 0), [point(8, 0.39, 20 * MB)])
    assert rows(to_target, grid)["Ours"] == ["never"] * 4


def test_seconds_that_nobody_measured_are_a_dash(tmp_path: Path) -> None:
    grid = make(tmp_path, [0])
    fill_seed(grid, 0)
    fill(grid.cell("ours", "t", 0.3, 0), [point(8, 0.9, 20 * MB)])
    assert rows(to_target, grid)["Ours"] == ["8.0", "20.0", "-", "-"]


def test_seeds_that_are_missing_or_failed_are_named(three: ComparisonGrid) -> None:
    three.cell("ours", "t", 0.3, 1).path.unlink()
    fill(three.cell("pooled", "t", 0.3, 2), [], status=FAILED, why="diverged")
    for seed in (0, 1, 2):
        three.cell("alone", "t", 0.3, seed).path.unlink()
    for table in (equal_rounds, last_evaluations, equal_bytes, to_target):
        found = rows(table, three)
        assert "Ours (2 of 3 seeds)" in found
        assert "Pooled (2 of 3 seeds, 1 could not go on)" in found
        assert not [name for name in found if name.startswith("Alone")]
    assert rows(equal_rounds, three)["Ours (2 of 3 seeds)"][0] == "91.0 ± 1.4"  # .90 and .92
    assert three.report is not None
    write_page(three, three.report)
    assert "Not run here: Alone." in three.report.page.read_text(encoding="utf8")


def test_differences_are_seed_by_seed(tmp_path: Path) -> None:
    """The reference has seeds 0 and 1, ours 1 and 2: seed 1 alone is compared."""
    grid = make(tmp_path, [0, 1, 2])
    for seed in (0, 1, 2):
        fill_seed(grid, seed, 0.05 * seed)
    grid.cell("reference", "t", 0.3, 2).path.unlink()
    grid.cell("ours", "t", 0.3, 0).path.unlink()
    (place,) = load_places(grid)
    assert difference(place, "ours", "reference", global_test) == pytest.approx(0.15)
    grid.cell("ours", "t", 0.3, 1).path.unlink()
    (place,) = load_places(grid)
    assert difference(place, "ours", "reference", global_test) is None


def test_with_fewer_seeds_the_interval_is_over_clients_where_they_are_the_same(tmp_path: Path) -> None:
    """10 and 30 examples, ahead by 4 and 0: 10 points; the draws reach from 0 to 40."""
    grid = make(tmp_path, [0])
    fill_seed(grid, 0)
    for method, own in (("ours", [9, 15]), ("reference", [5, 15])):
        figure = sum(own) / 40
        counts = {"examples": [10, 30], "personalised": own, "shared": own}
        fill(grid.cell(method, "t", 0.3, 0), [point(8, figure, MB, shared=figure)], clients=counts)
    (place,) = load_places(grid)
    found = difference(place, "ours", "reference", personalised)
    assert isinstance(found, Interval)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.0, 0.4))
    assert isinstance(difference(place, "ours", "reference", shared), Interval)
    assert isinstance(difference(place, "ours", "reference", global_test), float)  # no client holds the test set
    assert isinstance(difference(place, "pooled", "reference", personalised), float)  # one client is not a hundred


def test_a_method_may_run_on_for_equal_bytes(tmp_path: Path) -> None:
    """The grid has 8 rounds, and ours went on to 16: at equal rounds it stands with its 8th, within 40 MB with its 16th."""
    grid = make(tmp_path, [0], base={"rounds": 8})
    fill_seed(grid, 0)
    fill(grid.cell("ours", "t", 0.3, 0), [point(8, 0.85, 20 * MB), point(16, 0.95, 40 * MB)])
    ours = rows(equal_rounds, grid)["Ours"]
    assert (ours[0], ours[1], ours[-1]) == ("85.0", "+5.0", "20.0")  # no interval: clients' counts are of round 16
    assert rows(equal_bytes, grid)["Ours"][:3] == ["not yet", "85.0", "95.0"]
    assert rows(to_target, grid)["Ours"][:2] == ["8.0", "20.0"]


def test_figures_that_are_no_accuracies_have_no_interval_over_clients_and_no_floor(tmp_path: Path) -> None:
    grid = make(tmp_path, [0])
    for method in SHARED:
        fill(grid.cell(method, "t", 0.3, 0), [point(8, 0.3, MB)], metric="matthews")
    (place,) = load_places(grid)
    assert isinstance(difference(place, "ours", "reference", personalised), float)
    assert rows(equal_rounds, grid)["each client's commonest label"][0] == "-"
    assert rows(to_target, grid)["each client's commonest label"][0] == "-"
    fill(grid.cell("ours", "t", 0.3, 0), [point(8, 0.3, MB)])
    with pytest.raises(InputError, match="judged by accuracy and by matthews"):
        rows(equal_rounds, grid)


def test_how_numbers_are_said() -> None:
    assert percent([0.5, None, 0.7], "not yet") == "60.0 ± 14.1 (not yet in 1 of 3)"
    assert (percent([]), percent([None]), percent([0.123])) == ("missing", "-", "12.3")
    assert (number([1234.4]), number([12.34])) == ("1,234", "12.3")
    assert (points(-0.0123), points(None), points(Interval(0.01, -0.02, 0.04))) == ("-1.2", "", "+1.0 [-2.0, +4.0]")
    assert points(Interval(0.01, -0.02, 0.04, over_seeds=False)) == "+1.0 (-2.0, +4.0)"
