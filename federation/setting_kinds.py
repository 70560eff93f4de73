"""What a setting takes: a dataclass field without default that knows it, in words for an error and as a predicate."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

from data.endings import ENDINGS, TASKS

ESTIMATORS = ("eigengap", "plateau")
"""Of the ratio (section 2.2 of docs/ALGORITHMS.md)."""
PRECISIONS = ("float32", "float16", "int8")
"""Of what travels (section 2.8)."""


def setting(expected: str, accepts: Callable[[Any], bool]) -> Any:
    """A dataclass field without default that knows what it takes, in words and as a predicate."""
    return field(metadata={"expected": expected, "accepts": accepts})


def whole(minimum: int) -> Any:
    """A count, or a size."""
    return setting(f"a whole number of at least {minimum}", lambda v: v >= minimum)


def above(bound: float) -> Any:
    """A number that may not be the bound itself."""
    return setting(f"a number above {bound:g}", lambda v: v > bound)


def at_least(bound: float) -> Any:
    """A number that may be the bound itself."""
    return setting(f"a number of at least {bound:g}", lambda v: v >= bound)


def within(low: float, high: float, expected: str) -> Any:
    """A number between two bounds, both included."""
    return setting(expected, lambda v: low <= v <= high)


def choice(*options: str) -> Any:
    """One of some words."""
    return setting("one of " + ", ".join(options), lambda v: v in options)


def text() -> Any:
    """Any text, the empty one too."""
    return setting("a text", lambda v: True)


def name() -> Any:
    """A text that says something."""
    return setting("a text that is not empty", lambda v: bool(v.strip()))


def names() -> Any:
    """Names in an order, or none: a comma at the end would make one of nothing."""
    return setting(
        "names with commas between them, none of them empty, or nothing",
        lambda v: v == "" or all(part.strip() for part in v.split(",")),
    )


def path() -> Any:
    """A place that every process finds, wherever it was started."""
    return setting("an absolute path, or nothing", lambda v: v == "" or Path(v).is_absolute())


def paths() -> Any:
    """Some of them."""

    def accepts(value: str) -> bool:
        return all(Path(part).is_absolute() for part in parts(value))

    return setting("absolute paths with commas between them, or nothing", accepts)


def parts(listed: str) -> tuple[str, ...]:
    """What stands between the commas of a list, which a run-config has as a text."""
    return tuple(part.strip() for part in listed.split(",") if part.strip())


def place() -> Any:
    """A name, or an absolute path: what looks like a relative path is neither."""

    def accepts(value: str) -> bool:
        looks_like_path = value.startswith((".", "~")) or value.endswith(ENDINGS)
        return bool(value.strip()) and (Path(value).is_absolute() or not looks_like_path)

    return setting("a name or an absolute path, and not empty", accepts)


def task() -> Any:
    """A name, an absolute path of a .yaml file, or nothing."""

    def accepts(value: str) -> bool:
        looks_like_path = value.startswith((".", "~")) or value.endswith(TASKS) or "/" in value or "\\" in value
        return Path(value).is_absolute() or not looks_like_path

    return setting("the name of a task, the absolute path of a .yaml file, or nothing", accepts)


def flag() -> Any:
    """Either."""
    return setting("true or false", lambda v: True)


def precision_or_nothing() -> Any:
    """One of the precisions of what travels; nothing where the common one holds."""
    return setting(f"one of {', '.join(PRECISIONS)}, or nothing", lambda v: v in ("", *PRECISIONS))


def share() -> Any:
    """A part of a whole."""
    return setting("a number above 0 and at most 1", lambda v: 0 < v <= 1)


def ratio() -> Any:
    """A share, or who estimates it."""

    def accepts(value: str | float) -> bool:
        return value in ESTIMATORS if isinstance(value, str) else 0 < value <= 1

    return setting(f"a number above 0 and at most 1, or one of {', '.join(ESTIMATORS)}", accepts)


def layers() -> Any:
    """Which layers travel: chosen, all, or these."""

    def accepts(value: str) -> bool:
        return value in ("auto", "all") or all(re.fullmatch("[0-9]+", part.strip()) for part in value.split(","))

    return setting('auto, all, or a list of layers such as "3,4,5"', accepts)
