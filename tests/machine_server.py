"""Faults of the server's processes, and of how runs are asked for."""

from __future__ import annotations

import time

from fedpeptao.deployment.roles import SuperLink, environment
from tests.machine_nodes import FIBECFED
from tests.machine_stage import SERVER_APP, Stage
from tests.small_runs import Flat


def server_app_killed(stage: Stage) -> None:
    _killed_and_resumed(stage, stage.flat())


def fibecfed_server_app_killed(stage: Stage) -> None:
    _killed_and_resumed(stage, stage.flat(**FIBECFED))


def _killed_and_resumed(stage: Stage, flat: Flat) -> None:
    federation = stage.federation
    run = stage.begin(flat)
    stage.until_training(flat, 2)
    stage.only("superexec", SERVER_APP).kill()
    stage.go_on(flat)
    stage.end_of(flat)
    assert stage.same_bits(flat)
    federation.wait(lambda: federation.status(run) == "finished:failed", "Flower's word for it", 120, 3.0)


def super_exec_killed(stage: Stage) -> None:
    """Alone: what it started is left behind."""
    federation, flat = stage.federation, stage.flat()
    stage.begin(flat)
    stage.until_training(flat, 2)
    federation.processes["superexec"].kill()
    federation.processes["superexec"].wait()
    stage.start_again("superexec")
    federation.wait(lambda: not stage.has("superexec", SERVER_APP), "the ServerApp's end", 120)
    stage.go_on(flat)
    stage.end_of(flat)
    assert stage.same_bits(flat)


def super_link_killed(stage: Stage) -> None:
    """Its database has all that the run needs."""
    federation, flat = stage.federation, stage.flat()
    run = stage.begin(flat)
    stage.until_training(flat, 2)
    stage.kill("superlink")
    stage.start_again("superlink")
    stage.end_of(flat)
    assert stage.same_bits(flat)
    federation.wait(lambda: federation.status(run) == "finished:completed", "Flower's word for it")


def super_link_killed_with_what_it_started(stage: Stage) -> None:
    """Flower's other isolation: the SuperLink starts the ServerApp itself, and takes it along."""
    federation, flat = stage.federation, stage.flat()
    for name in ("superexec", "superlink"):
        stage.end_politely(name)
    start_in_one(stage)
    federation.wait(lambda: stage.nodes_started(), "the nodes", 120, 2.0)
    run = stage.begin(flat)
    stage.until_training(flat, 2)
    stage.kill("superlink")
    start_in_one(stage)
    federation.wait(lambda: stage.nodes_started(), "the nodes", 120, 2.0)
    federation.wait(lambda: federation.status(run) == "finished:failed", "Flower's word for it", pause_s=3.0)
    stage.go_on(flat)
    stage.end_of(flat)
    stage.kill("superlink")
    assert stage.same_bits(flat)


def start_in_one(stage: Stage) -> None:
    """The SuperLink as `fedpeptao start` never starts it."""
    server = stage.server
    addresses = {name: server.address(name) for name in ("fleet", "control", "appio")}
    role = SuperLink(keys=server.keys("server"), state=server.folder / "superlink", **addresses)
    command = ["subprocess" if part == "process" else part for part in role.command()]
    server.start_command("superlink", command, environment(role.state))


# -- runs ---------------------------------------------------------------------------------------------------------


def two_runs(stage: Stage) -> None:
    assert stage.federation
    flats = [stage.flat(), stage.flat()]
    for flat in flats:
        stage.begin(flat)
    for flat in flats:
        stage.end_of(flat)
        assert stage.same_bits(flat)


def pending(stage: Stage) -> None:
    federation, flat = stage.federation, stage.flat(rounds=1)
    stage.end_politely("superexec")
    run = stage.begin(flat)
    time.sleep(5.0)
    assert federation.status(run) == "pending", federation.status(run)
    assert not stage.run(flat).exists()
    stage.start_again("superexec")
    stage.end_of(flat)
    assert stage.same_bits(flat)
