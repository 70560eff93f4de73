"""Faults of the line between server and nodes: both nodes are behind a link that is slow, lossy or cut (tests/link.py)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.link import ADDRESSES, Link, be, linked
from tests.machine_stage import Stage

CUT_S = 30.0


@contextmanager
def far_stage(folder: Path) -> Iterator[Stage]:
    """A federation in two network namespaces.

    Raises:
        OSError, CalledProcessError: this machine lets us make none.
    """
    names = (f"fed-server-{os.getpid()}", f"fed-nodes-{os.getpid()}")
    with linked(names) as link:
        folder.mkdir()
        stage = Stage(folder, ADDRESSES[0], names, link)
        try:
            yield stage
        finally:
            stage.end()


@contextmanager
def line(stage: Stage, link: Link) -> Iterator[None]:
    """In this block it is like that."""
    assert stage.link is not None
    be(stage.link, link)
    try:
        yield
    finally:
        be(stage.link, Link())


def over(link: Link) -> Callable[[Stage], None]:
    """A whole run over such a link ends with the same bits, and without an attempt more."""

    def strike(stage: Stage) -> None:
        assert stage.federation
        flat = stage.flat(rounds=1)
        with line(stage, link):
            stage.begin(flat)
            stage.end_of(flat)
        assert stage.same_bits(flat)
        assert [line["attempts"] for line in stage.lines(flat)] == [1]

    return strike


def cut(stage: Stage) -> None:
    """Shorter than the server takes to miss a node."""
    assert stage.federation
    flat = stage.flat()
    stage.begin(flat)
    stage.until_training(flat, 2)
    with line(stage, Link(cut=True)):
        time.sleep(CUT_S)
        assert len(stage.lines(flat)) == 1
    stage.end_of(flat)
    assert stage.same_bits(flat)
