"""How far a phase is that waits for nodes, for whoever looks on."""

from __future__ import annotations

import time
from collections.abc import Iterable

from federation.grids import Exchange
from server_app.console import say

PROGRESS_S = 10.0


def with_progress(answers: Iterable[Exchange], count: int) -> Iterable[Exchange]:
    """The answers, and now and then a line on how many have come."""
    said = time.monotonic()
    for number, answer in enumerate(answers, start=1):
        yield answer
        if time.monotonic() - said > PROGRESS_S and number < count:
            said = time.monotonic()
            say(f"  {number} of {count} nodes have answered")
