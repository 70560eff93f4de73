"""Processes are found by their environment and ended, however detached or stubborn they are."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedpeptao import processes

# A process that ignores SIGTERM and whose child, in a session of its own, outlives its parent.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, __file__], start_new_session=True)
    if sys.argv[1] == "orphan":
        sys.exit(0)
time.sleep(60)
"""


def start_tree(folder: Path, home: Path, kind: str) -> "subprocess.Popen[bytes]":
    script = folder / "stubborn.py"
    script.write_text(STUBBORN, encoding="utf8")
    return subprocess.Popen([sys.executable, str(script), kind], env={**os.environ, processes.MARK: str(home)})


def wait_for(home: Path, count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 10
    while len(found := processes.started_with(home)) != count and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@pytest.mark.parametrize(("kind", "alive"), [("parent", 2), ("orphan", 1)])
def test_a_whole_tree_is_found_and_ended(tmp_path: Path, kind: str, alive: int) -> None:
    home = tmp_path / "home"
    with start_tree(tmp_path, home, kind) as tree:
        found = wait_for(home, alive)
        assert len(found) == alive
        assert processes.end_all(home, grace_s=0.2) == []
        tree.wait(timeout=5)
    assert all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in found)


def test_a_polite_process_gets_its_grace(tmp_path: Path) -> None:
    script = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print(flush=True); time.sleep(60)"
    env = {**os.environ, processes.MARK: str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE) as polite:
        assert polite.stdout is not None
        polite.stdout.readline()
        assert processes.end_all(tmp_path, grace_s=10) == []
        assert polite.wait(timeout=5) == 7


def test_other_homes_are_left_alone(tmp_path: Path) -> None:
    env = {**os.environ, processes.MARK: str(tmp_path / "other")}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=env) as other:
        assert len(wait_for(tmp_path / "other", 1)) == 1
        assert processes.end_all(tmp_path) == []
        assert other.poll() is None
        other.kill()


def test_a_free_port_can_be_bound_and_is_seldom_the_same() -> None:
    ports = {processes.free_port() for _ in range(20)}
    assert len(ports) > 10
    with socket.socket() as server:
        server.bind(("127.0.0.1", ports.pop()))
