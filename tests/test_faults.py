"""Every row of docs/FAULTS.md holds, and the page is made of the rows that are played."""

from __future__ import annotations

import json

import pytest

from experiments.machine import RESULTS
from tests.fault_stage import Stage
from tests.fault_table import Fault
from tests.faults import FAULTS, PAGE, page, play


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_the_table_says_of_it_holds(fault: Fault[Stage]) -> None:
    play(fault)


def test_the_page_is_made_of_what_is_played() -> None:
    made = json.loads((RESULTS / "faults.json").read_text(encoding="utf8"))
    assert [row["fault"] for row in made["faults"]] == [fault.name for fault in FAULTS]
    assert PAGE.read_text(encoding="utf8") == page(made["faults"], made)
