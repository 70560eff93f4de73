"""Every row of docs/MACHINE_FAULTS.md holds, and the page is made of the rows that are played."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.fault_table import Fault
from tests.machine_faults import ALL, AT_THE_DOOR, IN_A_RUN, OVER_A_LINK, PAGE, RAW, page
from tests.machine_network import far_stage
from tests.machine_stage import Stage, near_stage


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with near_stage(tmp_path_factory.mktemp("machines") / "near") as stage:
        yield stage


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    try:
        with far_stage(tmp_path_factory.mktemp("machines") / "far") as stage:
            yield stage
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")


def named(fault: Fault[Stage]) -> str:
    return fault.name


@pytest.mark.slow
@pytest.mark.parametrize("fault", AT_THE_DOOR, ids=named)
def test_nobody_comes_in_who_should_not(fault: Fault[Stage], near: Stage) -> None:
    fault.strike(near)


@pytest.mark.slow
@pytest.mark.machines
@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("fault", IN_A_RUN, ids=named)
def test_a_run_comes_through_or_says_why_not(fault: Fault[Stage], near: Stage) -> None:
    fault.strike(near)


@pytest.mark.slow
@pytest.mark.machines
@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("fault", OVER_A_LINK, ids=named)
def test_a_poor_line_costs_time_alone(fault: Fault[Stage], far: Stage) -> None:
    fault.strike(far)


def test_the_page_is_made_of_what_is_played() -> None:
    made = json.loads(RAW.read_text(encoding="utf8"))
    names, known = [row["fault"] for row in made["faults"]], {fault.name: fault for fault in ALL}
    assert names == [name for name in known if name in names]
    for row in made["faults"]:
        assert (row["happens"], row["lost"]) == (known[row["fault"]].happens, known[row["fault"]].lost)
    assert PAGE.read_text(encoding="utf8") == page(made["faults"], made)
