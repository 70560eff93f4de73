"""Faults of what a deployed node runs beside Flower's processes: its worker, and who starts its client processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from federation.logs import LOG
from federation.settings import Scalar
from fedpeptao.processes import started_with
from server_app.run_folder import read_history
from tests.client_app.warm.stand_in import workers
from tests.deployed import Deployed
from tests.small_runs import SMALL, Flat, go

pytestmark = [pytest.mark.slow, pytest.mark.machines, pytest.mark.usefixtures("no_plots")]
NODES, LIMIT_S = 2, 180
AGAIN: dict[str, Scalar] = {**SMALL, "local-epochs": 5, "clients-per-round": 5, "quorum": 5, "quorum-wait-s": 120.0}


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Deployed]:
    deployed = Deployed(tmp_path / "federation")
    deployed.make_server_keys()
    deployed.start_server()
    for number in range(NODES):
        deployed.make_node_keys(f"node{number}")
        deployed.register(f"node{number}")
        deployed.start_node(number, NODES)
    deployed.wait(lambda: deployed.nodes_online() == NODES, "the nodes")
    yield deployed
    deployed.end()


def test_a_worker_killed_while_it_works_costs_a_repetition_and_no_bit(
    federation: Deployed, data_file: Path, make_flat: Callable[..., Flat], tmp_path: Path
) -> None:
    """Then who starts client processes is killed, and the node ends, so that its init system can start both."""
    told: dict[str, Scalar] = {**AGAIN, "dataset": str(data_file), "runs-dir": str(tmp_path), "run-name": "deployed"}
    states = federation.folder / "node0" / "clients"
    federation.start_run(told)
    federation.wait(
        lambda: _said(states / "deployed" / LOG, '"training begins"', '"round": 1'), "round 1", pause_s=0.01
    )
    (killed,) = workers(states)
    killed.kill()
    federation.wait(lambda: federation.status().startswith("finished"), "the run's end", LIMIT_S, pause_s=3.0)
    assert federation.status() == "finished:completed", federation.log("superexec")
    here = go(make_flat(**{key.replace("-", "_"): value for key, value in AGAIN.items()}))
    assert (tmp_path / "deployed" / "parameters.safetensors").read_bytes() == here.parameter_bytes
    (first,) = [line for line in read_history(tmp_path / "deployed") if line["round"] == 1]
    assert first["attempts"] == 2
    assert federation.log("node0").count("is gone in the middle of a message") == 1
    (another,) = workers(states)
    assert another.pid != killed.pid
    for process in started_with(federation.home("node0")):
        if "fedpeptao.deployment.launcher" in process.cmdline():
            process.kill()
    assert federation.processes["node0"].wait(timeout=40) == 0
    federation.wait(lambda: not workers(states), "the worker's end")
    federation.wait(lambda: federation.nodes_online() == NODES - 1, "the server to know")


def _said(log: Path, *parts: str) -> bool:
    lines = log.read_text(encoding="utf8").splitlines() if log.exists() else []
    return any(all(part in line for part in parts) for line in lines)
