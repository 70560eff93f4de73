"""FibecFed with real processes, TLS and node authentication: bit for bit the run in this process, whoever is killed.

What a client keeps of it beside LoRA on the layers outside S (difficulties, Fisher information, its own share) is on its node's
disk, and a killed node or server costs no bit of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from client_app.state import DIFFICULTY, FISHER, UPDATE_SHARE
from federation.settings import Scalar
from fedpeptao.processes import started_with
from server_app.run_folder import read_history
from tests.deployed import Deployed
from tests.small_runs import SMALL, Flat, go
from tests.test_deployment import LIMIT_S, NODES, federation, figures, join

__all__ = ["federation"]
pytestmark = [pytest.mark.slow, pytest.mark.machines, pytest.mark.usefixtures("no_plots")]
FIBECFED: dict[str, Any] = {
    **{"tuned": "lora", "lora_rank": 4, "score": "perturbation", "curriculum": "linear", "curriculum_full": 0.5},
    **{"update_share": "plateau", "curvature_steps": 8, "drift_correction": "none", "server_optimizer": "none"},
    **{"clients": NODES, "clients_per_round": NODES, "rounds": 3, "batch_size": 4},
}


@pytest.fixture
def told(data_file: Path, tmp_path: Path) -> dict[str, Scalar]:
    given = {key.replace("_", "-"): value for key, value in FIBECFED.items()}
    return {**SMALL, **given, "dataset": str(data_file), "runs-dir": str(tmp_path), "run-name": "deployed"}


@pytest.fixture
def here(make_flat: Callable[..., Flat]) -> Iterator[Any]:
    return go(make_flat(**FIBECFED))


def names_kept(federation: Deployed) -> set[str]:
    """Of what all clients of all nodes hold by name, without the names of matrices."""
    found: set[str] = set()
    for number in range(NODES):
        for path in (federation.folder / f"node{number}" / "clients").rglob("*.safetensors"):
            with safe_open(path, "pt") as file:
                names = list(file.keys())
            found |= {part for name in names for part in (DIFFICULTY, FISHER, UPDATE_SHARE) if part in name}
    return found


def kill(federation: Deployed, name: str, which: str = "") -> None:
    """SIGKILL for all processes of a service, or those with this in their command lines."""
    found = [process for process in started_with(federation.home(name)) if which in " ".join(process.cmdline())]
    assert found, f"{name} has no process with {which!r}"
    for process in found:
        process.kill()


def test_a_killed_node_costs_no_bit(federation: Deployed, told: dict[str, Scalar], here: Any, tmp_path: Path) -> None:
    """In round 2; the round waits for its quorum, the node comes back and goes on from its accepted states."""
    federation.start_server()
    join(federation, NODES)
    federation.start_run({**told, "quorum": NODES, "quorum-wait-s": 180.0})
    federation.wait(lambda: federation.log("node0").count("Start `flwr-clientapp`") == 3, "round 2", LIMIT_S)
    kill(federation, "node0")
    federation.processes["node0"].wait()

    def back() -> bool:
        """Again and again: the server believes the dead to be there for up to a minute."""
        if federation.processes["node0"].poll() is not None:
            federation.start_node(0, NODES)
        return federation.status().startswith("finished")

    federation.wait(back, "the run's end", LIMIT_S, pause_s=3.0)
    assert federation.status() == "finished:completed", federation.log("superexec")
    assert (tmp_path / "deployed" / "parameters.safetensors").read_bytes() == here.parameter_bytes
    assert names_kept(federation) == {DIFFICULTY, FISHER, UPDATE_SHARE}


def test_a_killed_server_goes_on_to_the_same_bits(
    federation: Deployed, told: dict[str, Scalar], here: Any, tmp_path: Path
) -> None:
    federation.start_server()
    join(federation, NODES)
    folder = tmp_path / "deployed"
    federation.start_run(told)
    federation.wait(lambda: folder.exists() and len(read_history(folder)) >= 2, "round 1", LIMIT_S)
    kill(federation, "superexec", "flwr-serverapp")
    federation.wait(lambda: federation.status().startswith("finished"), "the dead run's end", LIMIT_S, pause_s=3.0)
    assert federation.status() != "finished:completed"
    began = time.monotonic()
    assert federation.run({**told, "resume": str(folder)}, LIMIT_S) == "finished:completed", federation.log("superexec")
    assert time.monotonic() - began < LIMIT_S
    assert (folder / "parameters.safetensors").read_bytes() == here.parameter_bytes
    assert figures(folder) == figures(here.folder)
    assert names_kept(federation) == {DIFFICULTY, FISHER, UPDATE_SHARE}
