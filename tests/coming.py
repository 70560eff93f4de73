"""Nodes that come and go: the in-process grid, of which a run sees only those nodes that are there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from flwr.app import Message

from client_app.app import app
from federation.grids import ClientCall, InProcessGrid
from federation.settings import parse
from server_app.run import run
from server_app.run_folder import read_history
from tests.small_runs import Flat, Ran

There = Callable[[int], Collection[int]]
FIRST, AGAIN = 1000, 2000
"""Node FIRST + k is partition k; AGAIN + k is the same SuperNode after a restart, under another id."""


def nodes(*partitions: int, first: int = FIRST) -> set[int]:
    return {first + partition for partition in partitions}


def schedule(r: int) -> set[int]:
    """Of five nodes: one joins at round 2, one leaves for rounds 3 and 4, one is another from round 4 on, one never comes."""
    there = nodes(0, 1, 2) if r == 1 else nodes(0, 1, 2, 3)
    there -= {1001} if r in (3, 4) else set()
    return there if r < 4 else there - {1002} | {AGAIN + 2}


class Coming(InProcessGrid):
    """A node per client, there or not by the round to come; a message to one that is not there is the server's mistake.

    Args:
        there: the round to come -> ids of the nodes that are there.
    """

    def __init__(self, flat: Flat, there: There, client_app: ClientCall = app) -> None:
        super().__init__(client_app, flat, int(flat["clients"]))
        for node, context in list(self._contexts.items()):
            other = node - FIRST + AGAIN
            self._contexts[other] = replace(context, node_id=other)
        self._there, self._folder = there, Path(str(flat["runs-dir"])) / str(flat["run-name"])
        self.asked: list[tuple[int, str, int]] = []
        """(the round to come, kind, node) of each message."""

    @property
    def coming(self) -> int:
        """The round to come, by the lines that are written; 1 before the first."""
        lines = read_history(self._folder) if (self._folder / "metrics.jsonl").exists() else []
        return max((line["round"] for line in lines), default=0) + 1

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self._there(self.coming))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages, coming = list(messages), self.coming
        self.asked += [(coming, m.metadata.message_type, m.metadata.dst_node_id) for m in messages]
        assert {m.metadata.dst_node_id for m in messages} <= set(self._there(coming))
        return super().push_messages(messages)

    def roll_calls(self) -> list[tuple[int, int]]:
        """(the round to come, node) of each."""
        return [(coming, node) for coming, kind, node in self.asked if kind == "query.roll_call"]


def go(flat: Flat, there: There, client_app: ClientCall = app) -> tuple[Ran, Coming]:
    """A run among such nodes; with `resume`, what goes on of it."""
    grid = Coming(flat, there, client_app)
    return run_on(grid, flat), grid


def run_on(grid: InProcessGrid, flat: Flat) -> Ran:
    """A run on this grid."""
    settings = parse(flat)
    summary = run(grid, settings)
    return Ran(settings, summary, Path(str(summary["paths"]["run_folder"])))
