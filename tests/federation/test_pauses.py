"""Pauses of Flower's loops: short after something happened, never longer than Flower's."""

from __future__ import annotations

import inspect
import re
import time
from types import ModuleType, SimpleNamespace

import pytest
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.superexec import run_superexec
from flwr.superlink.grid import grpc_grid
from flwr.supernode import start_client_internal
from flwr.supernode.runtime import run_clientapp

from federation import pauses
from federation.pauses import SHORTEST_S, Pauses


class Clock:
    """Time passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 3))
        self.now += seconds


def test_a_pause_is_a_tenth_of_the_time_since_something_happened() -> None:
    clock = Clock()
    paced = Pauses(lambda: clock.now, clock.sleep)
    for now in (0.1, 0.1, 2.1, 10.1, 40.1, 1000.0):
        clock.now = now
        paced.sleep(3)
    assert clock.slept == [SHORTEST_S, SHORTEST_S, 0.2, 1.0, 3, 3]
    paced.anew()
    paced.sleep(3)
    clock.now += 5
    paced.sleep(0.5)  # it has begun another wait: for a reply
    paced.sleep(3)  # and then for another message
    assert clock.slept[-3:] == [SHORTEST_S] * 3


@pytest.mark.parametrize(
    ("module", "seconds"), [(start_client_internal, ["3", "0.5", "0.5"]), (run_superexec, ["1"])], ids=["node", "exec"]
)
def test_flowers_loops_sleep_as_is_believed(module: ModuleType, seconds: list[str]) -> None:
    """Its module's `time` is asked for nothing but sleep."""
    code = inspect.getsource(module)
    assert [part.partition(")")[0] for part in code.split("time.sleep(")[1:]] == seconds
    assert set(re.findall(r"\btime\.\w+", code)) == {"time.sleep"}
    assert module.time is time


@pytest.mark.parametrize(
    "module", [start_client_internal, run_clientapp, grpc_grid], ids=lambda module: module.__name__
)
def test_a_missing_part_is_looked_for_soon(module: ModuleType) -> None:
    copy = ModuleType("copy")
    vars(copy).update({name: found for name, found in vars(module).items() if name in pauses.PULLS})
    pauses.look_again_soon(copy)
    changed = [name for name in pauses.PULLS if hasattr(copy, name)]
    assert changed
    for name in changed:
        parameters = inspect.signature(getattr(copy, name)).parameters
        assert (parameters["initial_backoff"].default, parameters["backoff_cap"].default) == (SHORTEST_S, 10)
    assert inflatable_utils.pull_objects is grpc_grid.pull_objects, "only the copy was changed"


def test_a_module_of_another_flower_is_named() -> None:
    other = ModuleType("other")
    other.time = SimpleNamespace()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="other does not sleep"):
        pauses.put_into(other)
    with pytest.raises(AttributeError, match="other fetches no messages"):
        pauses.look_again_soon(other)
    other.time = time  # type: ignore[attr-defined]
    assert pauses.put_into(other) is other.time  # type: ignore[attr-defined]
