"""Every process of one simulation, found by the environment they all inherit, and ended.

Flower detaches its SuperLink and Ray its daemons, so neither process groups nor parents lead to them. What stays is
the value of FLWR_HOME, which is a folder of one call alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import socket
import sys
import time
from pathlib import Path

import psutil

MARK = "FLWR_HOME"
_PAUSE_S = 0.05
_PR_SET_CHILD_SUBREAPER = 36


def started_with(home: Path) -> list[psutil.Process]:
    """Living processes whose FLWR_HOME is this folder."""
    return [process for process in psutil.process_iter() if _home_of(process) == str(home)]


def end_all(home: Path, grace_s: float = 1.0, patience_s: float = 20.0) -> list[psutil.Process]:
    """Ends them all, first politely (SIGTERM), after grace_s by SIGKILL; returns those that are left after patience_s.

    Done when two looks in a row find none: a process can be born between the listing and the look at its parent.
    """
    asked: set[psutil.Process] = set()
    start = time.monotonic()
    empty_looks = 0
    while empty_looks < 2:
        alive = started_with(home)
        empty_looks = 0 if alive else empty_looks + 1
        if alive and time.monotonic() - start > patience_s:
            return alive
        for process in alive:
            with contextlib.suppress(psutil.Error):
                if time.monotonic() - start > grace_s:
                    process.kill()
                elif process not in asked:
                    process.terminate()
        asked.update(alive)
        time.sleep(_PAUSE_S)
    return []


def adopt_orphans() -> None:
    """Makes this process the parent of what its children leave behind (Linux), so that reap_orphans can remove the dead.

    Process 1 would do that on a proper system; in a container it often is a program that never does.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans() -> None:
    """Removes this process's dead children from the process table."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on.

    Drawn from 20000 to 32000, below the range from which systems serve outgoing connections and above Ray's workers:
    the port is bound only seconds later, and one from the system's range may be taken by then.
    """
    for _ in range(200):
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free TCP port between 20000 and 32000 on 127.0.0.1")


def _home_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK) if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, OSError):  # gone by now, or another user's
        return None
