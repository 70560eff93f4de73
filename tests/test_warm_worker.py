"""Runs whose messages a node's worker answers: bit for bit those without one, whenever it is killed."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.app import Context, Message

from client_app.app import app
from client_app.warm.asking import WorkerError
from client_app.warm.owner import Owner
from federation.grids import ClientCall, InProcessGrid
from federation.logs import LOG
from federation.messages import TRAIN
from federation.settings import parse
from server_app.run import run
from tests.client_app.warm.stand_in import python_path, workers
from tests.small_runs import Flat, Ran, go

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("no_plots"),
    pytest.mark.skipif(sys.platform != "linux", reason="workers are of Linux"),
]
MakeFlat = Callable[..., Flat]


@pytest.fixture
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Here a worker goes with the tests' own process."""
    monkeypatch.setattr(Owner, "parent", staticmethod(lambda: Owner.of(os.getpid())))
    with python_path():
        yield tmp_path / "states"
    for left in workers(tmp_path / "states"):
        left.kill()


def go_with_workers(flat: Flat, states: Path, client_app: ClientCall = app) -> Ran:
    grid = InProcessGrid(client_app, flat, 2, {"state-dir": str(states), "worker": "auto"})
    summary = run(grid, parse(flat))
    return Ran(parse(flat), summary, Path(str(summary["paths"]["run_folder"])))


def lines(ran: Ran) -> list[dict[str, object]]:
    return ran.lines_without("seconds", "attempts", "cumulative_bytes", "bytes")


def test_a_run_is_the_same_and_its_worker_one(make_flat: MakeFlat, states: Path) -> None:
    served = set[int]()

    def watched(message: Message, context: Context) -> Message:
        reply = app(message, context)
        served.update(worker.pid for worker in workers(states))
        return reply

    told = make_flat(drift_correction="device", run_name="warm")
    warm = go_with_workers(told, states, watched)
    here = go({**told, "run-name": "here"})
    assert len(served) == 1
    assert warm.parameter_bytes == here.parameter_bytes
    assert warm.lines_without("seconds") == here.lines_without("seconds")
    assert list((states / "warm").rglob("*.safetensors"))


def test_killed_while_a_client_trains_the_round_is_asked_again_and_no_bit_is_lost(
    make_flat: MakeFlat, states: Path
) -> None:
    every = {"clients_per_round": 5, "quorum": 5, "quorum_wait_s": 120.0}  # so that the same clients are asked again
    told = make_flat(drift_correction="device", local_epochs=10, run_name="killed", **every)
    faults: list[str] = []

    def killing(message: Message, context: Context) -> Message:
        try:
            if message.metadata.message_type == TRAIN and message.metadata.group_id == "2" and not faults:
                with _killed_in_work(states, states / "killed" / LOG):
                    return app(message, context)
            return app(message, context)
        except WorkerError as error:
            faults.append(str(error))
            raise

    killed = go_with_workers(told, states, killing)
    here = go({**told, "run-name": "here"})
    assert len(faults) == 1
    assert "ended in the middle" in faults[0]
    assert killed.lines[-1]["attempts"] == 2
    assert killed.parameter_bytes == here.parameter_bytes
    assert lines(killed)[-1]["all_personalised_accuracy"] == lines(here)[-1]["all_personalised_accuracy"]


@contextmanager
def _killed_in_work(states: Path, log: Path) -> Iterator[None]:
    """The worker is killed between the lines with which it begins and ends the training asked for in this block.

    It is stopped before the log is read, so that it cannot end meanwhile; where no look falls between the lines, it lives on.
    """
    (worker,) = workers(states)
    before, over = _count(log, "training ends"), threading.Event()

    def kill() -> None:
        while not over.wait(0.002) and _count(log, "training ends") == before:
            worker.suspend()
            if _count(log, "training begins") > before == _count(log, "training ends"):
                worker.kill()
                return
            worker.resume()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def _count(log: Path, event: str) -> int:
    return log.read_text(encoding="utf8").count(f'"event": "{event}"')
