"""The list of wrong formulas fits the code, and docs/MUTATIONS.md fits the list (tests/mutations.py tries them)."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.mutation_list import PAGE, ROOT, Mutation, Outcome, load, page, row

MUTATIONS = load()


def rows_of_the_page() -> list[tuple[str, str]]:
    """(all columns but the last, the last)."""
    lines = [line for line in PAGE.read_text(encoding="utf8").splitlines() if line.startswith("| ")][1:]
    return [(before + " |", last.strip()) for before, _, last in (line[:-2].rpartition(" | ") for line in lines)]


def test_each_changes_one_place_of_a_file_that_still_parses() -> None:
    for mutation in MUTATIONS:
        mutated = ast.parse(mutation.apply(ROOT))  # each old text occurs once, or it raises
        source = ast.parse((ROOT / mutation.file).read_text(encoding="utf8"))
        assert ast.dump(mutated) != ast.dump(source), mutation


def test_its_tests_exist() -> None:
    assert all(mutation.tests for mutation in MUTATIONS)
    assert sorted({name for m in MUTATIONS for name in m.tests if not (ROOT / name.partition("::")[0]).is_file()}) == []


def test_none_is_listed_twice() -> None:
    assert [row for row, n in Counter(map(row, MUTATIONS)).items() if n > 1] == []
    assert [one for one, n in Counter((m.file, m.edits, m.tests) for m in MUTATIONS).items() if n > 1] == []


def test_an_old_text_that_is_not_there_exactly_once_is_refused() -> None:
    for old in ("no such formula", "def "):
        stale = Mutation("part", "strategies/drift.py", "in words", ((old, "new"),), ())
        with pytest.raises(ValueError, match=r"part, in words: strategies/drift\.py has"):
            stale.apply(ROOT)


def test_the_page_lists_exactly_these() -> None:
    """If not: python -m tests.mutations."""
    assert [before for before, _ in rows_of_the_page()] == [row(mutation) for mutation in MUTATIONS]


def test_an_outcome_is_of_one_file_and_its_tests(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "test_a.py").write_text("assert x\n")
    one = Mutation("part", "a.py", "in words", (("1", "2"),), ("test_a.py::test_b",))
    before = one.key(tmp_path)
    assert before == one.key(tmp_path)
    (tmp_path / "test_a.py").write_text("assert y\n")
    after = one.key(tmp_path)
    (tmp_path / "a.py").write_text("x = 1  # one\n")
    assert len({before, after, one.key(tmp_path)}) == 3


def test_the_page_names_tests_that_exist_and_no_survivor() -> None:
    for before, last in rows_of_the_page():
        file, _, name = last.removeprefix("**timed out** ").partition(" ")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf8"), before


def test_a_survivor_stands_out_on_the_page() -> None:
    one = Mutation("part", "a.py", "in words", (("x | y", ""), ("a\n    b", "c")), ("tests/a.py",))
    shown = page([one, one], [Outcome("survived", "", 1.0, ""), Outcome("caught", "tests/a.py::test_b", 59.0, "")])
    codes = "in words<br>`x \\| y` → nothing<br>`a ⏎ b` → `c`"
    assert "2 wrong formulas, 1 noticed, in 1 minutes" in shown
    assert shown.splitlines()[-2:] == [
        f"| part | `a.py` | {codes} | **survived**  |",
        f"| part | `a.py` | {codes} | tests/a.py test_b |",
    ]
