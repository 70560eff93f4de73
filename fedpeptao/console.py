"""How a run's own lines reach the user: marked on the way out by the ServerApp, recognised again by the launcher.

Between the two lies Flower's log stream, which adds a level and colours, and mixes in what Flower and Ray have to say.
The marker makes our lines recognisable there, also to somebody who reads the stream of a plain `flwr run --stream`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

MARKER = "fedpeptao| "
RUN_FOLDER = "Run folder: "  # begins the line that says where the run's folder is

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LINE = re.compile(r"(?:(?P<level>[A-Z]+) [\d\s:,-]*: +)?" + re.escape(MARKER) + "(?P<text>.*)")  # digits: a time stamp


def say(text: str, level: int = logging.INFO) -> None:
    """Shows text to the user, line by line; a line that the launcher should send to stderr has level ERROR."""
    logger = logging.getLogger("flwr")  # Flower uploads what this logger prints
    for line in text.splitlines() or [""]:
        logger.log(level, "%s%s", MARKER, line)


def fail(text: str) -> None:
    """Says why the run ends; raise an exception after it.

    Not SystemExit: Flower calls a run whose ServerApp leaves by SystemExit `finished:completed`. Any Exception makes it
    `finished:failed`; the traceback that Flower prints then stays in the launcher's log, as the reason is given here.
    """
    say(text, logging.ERROR)


@dataclass(frozen=True)
class Said:
    """One line of ours, without marker and prefix."""

    text: str
    error: bool


def recognise(line: str) -> Said | None:
    """The line of ours that a line of the stream carries, or None.

    The marker may stand anywhere: threads share the stream, and a half-finished line of another thread can precede it.
    """
    found = _LINE.search(_COLOUR.sub("", line.rstrip("\r\n")))
    if found is None:
        return None
    return Said(found["text"], error=found["level"] in ("ERROR", "CRITICAL"))
