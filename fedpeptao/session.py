"""One call's processes: started in a folder of their own, stopped by the user's signals, gone at its end.

A signal raises no exception here: it ends the child whose output is being read, the reader sees the end of the stream,
and leaves by the one way out there is. So no second Ctrl-C can interrupt the cleaning up.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from fedpeptao.processes import adopt_orphans, end_all, reap_orphans

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Session:
    """Context in which `home` exists and whatever was started with it lives.

    Attributes:
        home: a fresh folder with a short path (Ray's sockets lie below it); FLWR_HOME of all that is started.
        environment: for the processes that are started.
        received: the first signal that asked to stop, or None.
        left_over: ids of processes that survived the end (not seen so far).
    """

    def __init__(self) -> None:
        self.home = Path()
        self.environment: Mapping[str, str] = {}
        self.received: int | None = None
        self.left_over: list[int] = []
        self._child: subprocess.Popen[str] | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Session:
        for number in _SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: the user wants it to outlive the terminal
            self._handlers[number] = signal.signal(number, self._on_signal)
        adopt_orphans()
        short = Path("/tmp")
        parent = short if short.is_dir() and os.access(short, os.W_OK) else Path(tempfile.gettempdir())
        self.home = Path(tempfile.mkdtemp(prefix="fp-", dir=parent))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left_over = [process.pid for process in end_all(self.home)]
        if self._child is not None:
            self._child.wait()
        reap_orphans()
        shutil.rmtree(self.home, ignore_errors=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start(self, command: list[str], stderr: int = subprocess.STDOUT) -> subprocess.Popen[str]:
        """Starts a child whose stdout is to be read; out of reach of the terminal's Ctrl-C, which is ours to act on."""
        self._child = subprocess.Popen(
            command,
            cwd=self.home,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf8",
            errors="replace",
            start_new_session=True,
        )
        if self.received is not None:  # the signal came while there was no child to end
            self._child.kill()
        return self._child

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        if self._child is not None:
            with contextlib.suppress(OSError):
                self._child.kill()
