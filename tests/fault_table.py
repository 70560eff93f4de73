"""A table of faults for the docs: each row is a case that is played, and fails where the row does not hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

World = TypeVar("World")
NOTHING = "nothing"


@dataclass(frozen=True)
class Fault(Generic[World]):
    """A row.

    Attributes:
        name: the fault.
        happens: what happens.
        lost: what is lost.
        strike: does it, and fails where the row does not hold.
    """

    name: str
    happens: str
    lost: str
    strike: Callable[[World], None]


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """In Markdown; rows as kept in the raw file."""
    head = ["| fault | what happens | what is lost | seconds |", "|---|---|---|---|"]
    return head + [f"| {row['fault']} | {row['happens']} | {row['lost']} | {row['seconds']:.1f} |" for row in rows]


def row(fault: Fault[Any], seconds: float) -> dict[str, Any]:
    """What the raw file keeps."""
    return {"fault": fault.name, "happens": fault.happens, "lost": fault.lost, "seconds": seconds}
