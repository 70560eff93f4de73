"""Cells side by side, each in a process of its own: one that fails, or is killed, is told and the others go on.

The processes are forked from one that has imported the heavy packages and has no threads, so that a cell begins at once.
"""

from __future__ import annotations

import io
import multiprocessing as mp
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from fedpeptao.comparison.grid import Cell

HEAVY = ["fedpeptao.comparison.cell"]
_SHOWN = 300


@dataclass(frozen=True)
class Running:
    """A cell's process, what it says, and when it began."""

    cell: Cell
    process: BaseProcess
    log: Path
    started: float


def run_cells(
    cells: Sequence[Cell],
    work: Callable[[Cell], None],
    jobs: int = 1,
    tell: Callable[[str], None] = print,
    heavy: Sequence[str] = HEAVY,
) -> list[Cell]:
    """Works on each cell; returns those that failed.

    Args:
        cells: in the order in which they begin.
        work: for one cell; a module's function, which writes the raw file. What it says stays in a .log beside that if it fails.
        jobs: cells at a time.
        tell: a line for people.
        heavy: modules that every cell needs.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(heavy))
    waiting, running, failed = list(cells), list[Running](), list[Cell]()
    begun = time.monotonic()
    with _left_by_signals(), _outlived_by_none(running):
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(context, work, waiting.pop(0)))
            wait([one.process.sentinel for one in running])
            for ended in [one for one in running if one.process.exitcode is not None]:
                running.remove(ended)
                failed += [ended.cell] if ended.process.exitcode else []
                done = len(cells) - len(waiting) - len(running)
                left = (time.monotonic() - begun) / done * (len(cells) - done)
                tell(f"{done} of {len(cells)}  {_outcome(ended)}  (about {_minutes(left)} left)")
    return failed


@contextmanager
def _outlived_by_none(running: list[Running]) -> Iterator[None]:
    """Whoever is in the list at the end is ended; all are told first, so that a second Ctrl-C while they end leaves none."""
    try:
        yield
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.join()
            one.log.unlink(missing_ok=True)


@contextmanager
def _left_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end this as Ctrl-C does, by an exception."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    taken = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is signal.SIG_DFL]
    for one in taken:
        signal.signal(one, leave)
    try:
        yield
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)


def _start(context: ForkServerContext, work: Callable[[Cell], None], cell: Cell) -> Running:
    log = cell.path.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_child, args=(work, cell, log), daemon=True)
    process.start()
    return Running(cell, process, log, time.monotonic())


def _child(work: Callable[[Cell], None], cell: Cell, log: Path) -> None:
    """In the process: all that is said goes to the log."""
    with log.open("w", encoding="utf8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):  # or what was printed would come behind the reason of a failure
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    work(cell)


def _outcome(ended: Running) -> str:
    code, after = ended.process.exitcode or 0, _minutes(time.monotonic() - ended.started)
    if code == 0:
        ended.log.unlink(missing_ok=True)
        what = f"done in {after}"
    elif code < 0:
        what = f"FAILED after {after}: its process ended by signal {-code}; {ended.log}"
    else:
        said = ended.log.read_text(encoding="utf8", errors="replace").strip().splitlines() or ["it said nothing"]
        what = f"FAILED after {after}: {said[-1][:_SHOWN]}; {ended.log}"
    return f"{ended.cell.path.stem}  {what}"


def _minutes(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
