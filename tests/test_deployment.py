"""Real processes on the loopback, with TLS on every API and node authentication: bit for bit the run in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from federation.settings import Scalar
from server_app.run_folder import read_history
from tests.deployed import Deployed
from tests.small_runs import SMALL, Flat, go

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_plots")]
LIMIT_S = 220
NODES = 2


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Deployed]:
    deployed = Deployed(tmp_path / "federation")
    deployed.make_server_keys()
    yield deployed
    deployed.end()


def join(federation: Deployed, nodes: int, told: Callable[[int], list[str]] = lambda number: []) -> None:
    """Makes, registers and starts nodes, until all are there."""
    for number in range(nodes):
        federation.make_node_keys(f"node{number}")
        federation.register(f"node{number}")
        federation.start_node(number, nodes, *told(number))
    federation.wait(lambda: federation.nodes_online() == nodes, "a node")


def figures(folder: Path) -> list[dict[str, object]]:
    """The lines but for time, and for bytes, which follow the number of nodes."""
    dropped = ("seconds", "bytes", "detail")
    return [{k: v for k, v in line.items() if not any(d in k for d in dropped)} for line in read_history(folder)]


def test_a_deployed_run_is_the_run_in_this_process(
    federation: Deployed, data_file: Path, make_flat: Callable[..., Flat], tmp_path: Path
) -> None:
    federation.start_server()
    join(federation, NODES)
    told: dict[str, Scalar] = {**SMALL, "dataset": str(data_file), "runs-dir": str(tmp_path), "run-name": "deployed"}
    listed = federation.run(told, LIMIT_S)
    assert listed["status"] == "finished:completed", federation.log("run") + federation.log("superexec")
    here = go(make_flat())
    assert (tmp_path / "deployed" / "parameters.safetensors").read_bytes() == here.parameter_bytes
    assert figures(tmp_path / "deployed") == figures(here.folder)
    states = federation.folder / "node0" / "clients" / "deployed"
    assert list(states.rglob("*.safetensors")), "each node keeps its clients' states in a folder of its own"
