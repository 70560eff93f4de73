"""The lock on a file of a run that is going on: its server holds it until it ends, however it ends; the file means nothing."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO, Any

_LOOK_S = 0.1  # far longer than a look at the lock lasts


def take(file: IO[Any]) -> None:
    """For this process alone, until the file is closed or the process ends.

    Raises:
        BlockingIOError: another process has it.
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_LOOK_S)  # perhaps somebody only looked
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_taken(path: Path) -> bool:
    """Whether a process has it; True where that cannot be told."""
    try:
        with path.open("rb") as file:  # closed at once, and with it the shared lock is gone
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # it is taken, may not be read, or the file system has no locks
        return True
    return False
