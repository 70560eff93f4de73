"""What happened, for machines and for whoever is called at night: one JSON line per event, with run, round, node and client.

Events go through Python's logging as "fedpeptao", so that a host's own handlers see them too, and into the file of the
block they happen in. A disk that takes no line stops nobody.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

from federation.durable import make_folder

LOG = "log.jsonl"
"""The file's name: in a run's folder the server's, beside a node's client states the node's."""

_about: ContextVar[dict[str, object]] = ContextVar("about", default={})  # noqa: B039 (never changed in place)
_file: ContextVar[Path | None] = ContextVar("file", default=None)


class _JsonLines(logging.Handler):
    """Appends each event as one write, so that lines of several processes do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        path = _file.get()
        if path is None:
            return
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", _about.get()),
        }
        if record.exc_info:
            line["traceback"] = logging.Formatter().formatException(record.exc_info)
        content = json.dumps(line, default=str, allow_nan=True).encode() + b"\n"
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, content)
            finally:
                os.close(handle)


logger = logging.getLogger("fedpeptao")
logger.setLevel(logging.INFO)
logger.addHandler(_JsonLines())


def event(name: str, level: int = logging.INFO, **fields: object) -> None:
    """One thing that happened: a few words, and what a reader wants to filter by."""
    logger.log(level, name, extra={"fields": {**_about.get(), **fields}}, exc_info=level >= logging.ERROR)


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Events in this block have these fields: run, round, node, client."""
    before = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(before)


@contextmanager
def kept_in(path: Path) -> Iterator[None]:
    """Events in this block are lines of this file, whose folder is made if it is not there."""
    with contextlib.suppress(OSError):
        make_folder(path.parent)
    before = _file.set(path)
    try:
        yield
    finally:
        _file.reset(before)
