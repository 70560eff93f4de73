"""The process that a worker belongs to: its number, and when it began, since numbers come again (Linux)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_STATE, _STARTED = 0, 19  # places in /proc/<pid>/stat, counted from the field after the name
_DEAD = "ZX"


@dataclass(frozen=True)
class Owner:
    """A process of this machine.

    Attributes:
        pid: its number.
        started: when, in the system's ticks since it booted.
    """

    pid: int
    started: int

    @staticmethod
    def of(pid: int) -> Owner:
        """ProcessLookupError if there is no such living process."""
        try:
            told = Path(f"/proc/{pid}/stat").read_text(encoding="utf8", errors="replace")
        except OSError as error:
            raise ProcessLookupError(f"process {pid} is not there") from error
        facts = told.rpartition(")")[2].split()  # the name before it may hold anything
        if facts[_STATE] in _DEAD:
            raise ProcessLookupError(f"process {pid} has ended")
        return Owner(pid, int(facts[_STARTED]))

    @staticmethod
    def parent() -> Owner:
        """Of this process."""
        return Owner.of(os.getppid())

    @property
    def lives(self) -> bool:
        """Whether it is still that process."""
        try:
            return Owner.of(self.pid) == self
        except ProcessLookupError:
            return False
