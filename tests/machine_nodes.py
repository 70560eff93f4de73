"""Faults of nodes and of what works on them: each killed, ended or stopped in the middle of a run."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import safe_open

from client_app.state import DIFFICULTY, FISHER, UPDATE_SHARE
from fedpeptao.processes import started_with
from tests.client_app.warm.stand_in import until
from tests.machine_stage import CLIENT, LIMIT_S, NODES, Stage
from tests.small_runs import Flat

CGROUPS = Path("/sys/fs/cgroup/memory")
LAUNCHER, GONE = "fedpeptao.deployment.launcher", "is gone in the middle of a message"
DEADLINE_S = 45.0
FIBECFED: dict[str, Any] = {
    **{"tuned": "lora", "lora_rank": 4, "score": "perturbation", "curriculum": "linear", "curriculum_full": 0.5},
    **{"update_share": "plateau", "curvature_steps": 8, "drift_correction": "none", "server_optimizer": "none"},
    "rounds": 3,
}
ENOUGH = 16
"""Rounds, while a node starts that joins."""


def nothing(stage: Stage) -> None:
    federation, flat = stage.federation, stage.flat()
    run = stage.begin(flat)
    stage.end_of(flat)
    assert stage.same_bits(flat)
    federation.wait(lambda: federation.status(run) == "finished:completed", "Flower's word for it")


# -- nodes ----------------------------------------------------------------------------------------------------


def node_killed(stage: Stage) -> None:
    """Of nodes that train on files of their own."""
    _killed_and_back(stage, stage.flat(partition="own", dataset="stdlib-docs"))


def fibecfed_node_killed(stage: Stage) -> None:
    """What it keeps of FibecFed beside matrices (difficulties, Fisher information, its own share) is on its disk."""
    _killed_and_back(stage, stage.flat(**FIBECFED))
    assert _kept_by(stage, "node0") == {DIFFICULTY, FISHER, UPDATE_SHARE}


def _killed_and_back(stage: Stage, flat: Flat) -> None:
    """The server believes the dead to be there for up to a minute, and lets nobody else in under its key."""
    federation = stage.federation
    stage.begin(flat)
    stage.until_training(flat, 2)
    stage.kill("node0")
    federation.wait(lambda: stage.nodes_started() and stage.status(flat) != "running", "node 0", LIMIT_S, 2.0)
    stage.end_of(flat)
    assert stage.same_bits(flat)
    second = stage.lines(flat)[1]
    assert (second["attempts"], second["left"], second["back"]) == (2, [0], [0])


def _kept_by(stage: Stage, node: str) -> set[str]:
    """Which of FibecFed's own parts are in its clients' states."""
    found: set[str] = set()
    for path in (stage.server.folder / node / "clients").rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names = list(file.keys())
        found |= {part for name in names for part in (DIFFICULTY, FISHER, UPDATE_SHARE) if part in name}
    return found


def node_ended(stage: Stage) -> None:
    assert stage.federation
    flat = stage.flat()
    stage.begin(flat)
    stage.until_training(flat, 2)
    stage.end_politely("node0")
    stage.start_node(0)
    stage.end_of(flat)
    assert stage.same_bits(flat)


def all_nodes_gone(stage: Stage) -> None:
    federation, flat = stage.federation, stage.flat(quorum_wait_s=15.0)
    run = stage.begin(flat)
    stage.until_training(flat, 2)
    for number in range(NODES):
        federation.processes[f"node{number}"].send_signal(signal.SIGTERM)
    gone = time.monotonic()
    stage.end_of(flat, 60, "failed")
    assert time.monotonic() - gone < 15 + 20
    said = federation.run_log(run)
    assert "round 2: 0 clients are there for a quorum of 2 after 15 s (quorum-wait-s); not there: 0, 1." in said
    assert "The run is kept as after round 1: flwr run . <federation> --stream --run-config" in said
    assert stage.federation.nodes_online() == NODES
    stage.go_on(flat)
    stage.end_of(flat)
    assert stage.same_bits(flat)


def node_joins(stage: Stage) -> None:
    assert stage.federation
    flat = stage.flat(clients=3, clients_per_round=3, rounds=ENOUGH)
    stage.begin(flat)
    stage.until_line(flat, 2)
    stage.third_node()
    stage.end_of(flat)
    stage.end_politely("node2")
    lines = stage.lines(flat)
    (joined,) = [line["round"] for line in lines if line.get("joined") == [2]]
    assert joined > 2
    assert [line["accepted"] for line in lines] == [2 + (line["round"] >= joined) for line in lines]


# -- a node's client processes ---------------------------------------------------------------------------------


def client_stopped(stage: Stage) -> None:
    """As a machine that is suspended; its answer comes when the round is over."""
    flat = stage.flat(round_timeout_s=DEADLINE_S, quorum=1, rounds=3)
    assert stage.federation
    stage.begin(flat)
    stage.until_training(flat, 2)
    client = stage.only("node0", CLIENT)
    client.suspend()
    stage.until_line(flat, 2)
    client.resume()
    stage.end_of(flat)
    lines = stage.lines(flat)
    assert [line["missing"] for line in lines] == [[], [0], []]
    assert [line["accepted"] for line in lines] == [2, 1, 2]
    assert sum(line["late"] for line in lines) == 1


def worker_killed(stage: Stage) -> None:
    """Where the model is: the message that it answers is lost, and another one is there for the next."""
    federation, flat = stage.federation, stage.flat()
    stage.begin(flat)
    stage.until_training(flat, 2)
    killed, before = stage.worker("node0"), federation.log("node0").count(GONE)
    killed.kill()
    stage.end_of(flat)
    _asked_again(stage, flat)
    assert federation.log("node0").count(GONE) == before + 1
    assert stage.worker("node0") != killed


def out_of_memory(stage: Stage) -> None:
    """Skipped without the first version's control groups: to kill it ourselves is another case."""
    groups = _memory_groups()
    assert stage.federation
    flat = stage.flat()
    stage.begin(flat)
    stage.until_training(flat, 2)
    with no_memory_more(stage.worker("node0"), groups) as killed:
        stage.server.wait(killed, "an end for want of memory", pause_s=0.02)
    stage.end_of(flat)
    _asked_again(stage, flat)


def launcher_killed(stage: Stage) -> None:
    """The node ends, so that its init system starts both again."""
    federation, flat = stage.federation, stage.flat()
    stage.begin(flat)
    stage.until_training(flat, 2)
    for process in started_with(federation.home("node0")):
        if LAUNCHER in process.cmdline():
            process.kill()
    assert federation.processes["node0"].wait(timeout=60) == 0
    stage.start_node(0)
    stage.end_of(flat)
    _asked_again(stage, flat)


def _asked_again(stage: Stage, flat: Flat) -> None:
    assert stage.same_bits(flat)
    assert [line["attempts"] for line in stage.lines(flat)] == [1, 2]


@contextlib.contextmanager
def no_memory_more(process: psutil.Process, groups: Path) -> Iterator[Callable[[], bool]]:
    """In this block it gets no page beyond those that it has; gives what tells whether it was killed for it."""
    group = groups / f"fedpeptao-{process.pid}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text("4096")
        (group / "cgroup.procs").write_text(str(process.pid))
        yield lambda: "oom_kill 0" not in (group / "memory.oom_control").read_text()
    finally:
        until(lambda: _removed(group), "the end of its group")


def _removed(group: Path) -> bool:
    """A process takes a while to be gone from its group."""
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


def _memory_groups() -> Path:
    """This process's group, in the first version of control groups, where we may make others."""
    lines = [line.split(":") for line in Path("/proc/self/cgroup").read_text().splitlines()]
    found = [CGROUPS / path.lstrip("/") for _, controllers, path in lines if "memory" in controllers.split(",")]
    for path in found:
        if os.access(path, os.W_OK):
            return path
    pytest.skip("no control group of memory can be made here")
