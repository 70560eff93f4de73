"""A worker of its own process: started once, one per version and run, alive as long as its owner; what its death does."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client_app.warm import asking
from client_app.warm.asking import FOLDER, WorkerError, ask, socket_path
from client_app.warm.owner import Owner
from tests.client_app.warm import stand_in
from tests.client_app.warm.stand_in import context, make_application, message, node, pid_of, until, workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are of Linux")


@pytest.fixture
def states(tmp_path: Path) -> Iterator[Path]:
    with stand_in.python_path():
        yield tmp_path / "states"
    for left in workers(tmp_path / "states"):
        left.kill()


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_application(tmp_path_factory.mktemp("application"))


@pytest.fixture
def me() -> Owner:
    return Owner.of(os.getpid())


def test_two_messages_at_once_start_one_worker_which_stays(states: Path, application: Path, me: Owner) -> None:
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda do: ask(message(do), context(), node(states), me, application), ["a", "b"]))
    pids = {pid_of(reply) for reply in replies}
    with pytest.raises(WorkerError, match=r"^ValueError: that cannot be$"):
        ask(message("raise"), context(), node(states), me, application)
    assert pids == {pid_of(ask(message("c"), context(), node(states), me, application))}
    assert pids.isdisjoint({os.getpid()})
    assert [one.pid for one in workers(states)] == list(pids)
    (socket_file,) = (states / FOLDER).glob("*.sock")
    assert stat.S_IMODE((states / FOLDER).stat().st_mode) == 0o700
    assert stat.S_IMODE(socket_file.stat().st_mode) == 0o600


def test_another_run_version_or_life_of_the_node_has_a_worker_of_its_own(tmp_path: Path, me: Owner) -> None:
    other = Owner(me.pid, me.started + 1)
    asked = [(1, me, "one"), (2, me, "one"), (1, other, "one"), (1, me, "two")]
    paths = {socket_path(tmp_path, run, owner, Path(version)) for run, owner, version in asked}
    assert len(paths) == len(asked)
    assert socket_path(tmp_path, 1, me, Path("one")) in paths


def test_sockets_of_nodes_that_were_killed_are_cleared_away(states: Path, application: Path, me: Owner) -> None:
    of_another_run, of_another_life = (
        socket_path(states, 2, me, application),
        socket_path(states, 1, Owner(me.pid, me.started + 1), application),
    )
    ask(message("a"), context(), node(states), me, application)
    own = socket_path(states, 1, me, application)
    for left in (own, of_another_run, of_another_life):
        left.touch()
    for worker in workers(states):  # as if by the kernel
        worker.kill()
        worker.wait()
    ask(message("a"), context(), node(states), me, application)
    assert set((states / FOLDER).glob("*.sock")) == {own, of_another_run}


def test_killed_in_the_middle_it_is_an_error_and_the_next_message_has_another(
    states: Path, application: Path, me: Owner, tmp_path: Path
) -> None:
    def killed() -> None:
        until((tmp_path / "mark").exists, "the work")
        workers(states)[0].kill()

    killer = threading.Thread(target=killed)
    killer.start()
    with pytest.raises(WorkerError, match="ended in the middle"):
        ask(message("wait", mark=str(tmp_path / "mark")), context(), node(states), me, application)
    killer.join()
    second = pid_of(ask(message("a"), context(), node(states), me, application))
    os.kill(second, signal.SIGKILL)  # between two messages nobody notices
    os.waitpid(second, 0)
    assert pid_of(ask(message("a"), context(), node(states), me, application)) == workers(states)[0].pid != second


def test_it_ends_with_its_owner_even_while_it_works(states: Path, application: Path, tmp_path: Path) -> None:
    owner = subprocess.Popen(["sleep", "60"])
    told = message("wait", mark=str(tmp_path / "mark")), context(), node(states), Owner.of(owner.pid), application
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, *told)
        until((tmp_path / "mark").exists, "the work")
        owner.kill()
        owner.wait()
        with pytest.raises(WorkerError, match="ended in the middle"):
            waiting.result(timeout=60)
    assert workers(states) == []
    assert not list((states / FOLDER).glob("*.sock"))


def test_it_ends_when_who_asked_is_gone(states: Path, application: Path, me: Owner, tmp_path: Path) -> None:
    asker = os.fork()
    if asker == 0:  # a client process, which is killed while its message is in work
        ask(message("wait", mark=str(tmp_path / "mark")), context(), node(states), me, application)
        os._exit(0)
    until((tmp_path / "mark").exists, "the work")
    os.kill(asker, signal.SIGKILL)
    os.waitpid(asker, 0)
    until(lambda: workers(states) == [], "the worker's end")


def test_where_none_can_be_had_a_line_says_so(
    states: Path, me: Owner, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking.logger, "propagate", True)
    broken = make_application(tmp_path / "broken", stand_in.BROKEN)
    assert ask(message("a"), context(), node(states), me, broken) is None
    (states / FOLDER).chmod(0o755)
    assert ask(message("a"), context(), node(states), me, make_application(tmp_path / "whole")) is None
    said = [record.getMessage() for record in caplog.records]
    assert ["3 workers ended" in said[0], "not this user's alone" in said[1]] == [True, True]
    assert all("this process answers" in line for line in said)
