"""Where faults are put on: one small run, unharmed, harmed, and gone on with; and what came of it, found by comparing them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from client_app.app import app
from federation.grids import ClientCall, InProcessGrid
from federation.settings import parse
from fedpeptao.loaded import open_model
from server_app import plots
from server_app import run as server_run
from tests.small_runs import Flat, Ran, examples, small, write_jsonl

VICTIM, ROUND, ROUNDS = 2, 2, 4
"""The client that something happens to, the round in which it does, and how many rounds there are."""
DEADLINE_S = 5.0
"""Of a round that waits in vain: time enough for all others on a machine that is busy."""


Strike = Callable[["Stage"], None]
"""Does the harm, and asserts what the table says of it."""


class DeathError(BaseException):
    """What nothing catches: a process that is gone."""


@dataclass
class Stage:
    """One fault's world.

    Attributes:
        folder: a scratch folder.
        patch: takes back what was changed when the fault is over.
        seconds: what the fault cost: time of all parts less that of a run without it.
    """

    folder: Path
    patch: pytest.MonkeyPatch
    seconds: float = 0.0
    _whole: dict[str, tuple[Ran, float]] = field(default_factory=dict)

    def flat(self, **changes: Any) -> Flat:
        """The small run: five clients, all of them in each of four rounds, control variates on the devices."""
        data = self.folder / "texts.jsonl"
        if not data.exists():
            write_jsonl(data, examples(100))
        told = {"rounds": ROUNDS, "clients_per_round": 5, "run_name": "run", "max_lost_share": 1.0, **changes}
        return small(data, self.folder / "runs", **told)

    @property
    def run(self) -> Path:
        """The harmed run's folder."""
        return self.folder / "runs" / "run"

    def state(self, made_in: int, client: int = VICTIM) -> Path:
        """A client's file of a round."""
        return self.run / "clients" / f"client-{client}" / f"round-{made_in}.safetensors"

    def go(self, flat: Flat, grid: InProcessGrid | None = None, client_app: ClientCall = app) -> Ran:
        """A run, or what goes on of it; what it takes counts as the fault's."""
        began = time.monotonic()
        try:
            settings = parse(flat)
            summary = server_run.run(grid or InProcessGrid(client_app, flat, 5), settings)
            return Ran(settings, summary, Path(str(summary["paths"]["run_folder"])))
        finally:
            self.seconds += time.monotonic() - began

    def go_on(self, flat: Flat) -> Ran:
        """What a user does after a run died."""
        return self.go({**flat, "resume": str(self.run)})

    def whole(self, flat: Flat) -> Ran:
        """The same run with nothing in its way; its time is taken off."""
        before, elsewhere = self.seconds, {**flat, "runs-dir": str(self.folder / "whole")}
        ran = self.go(elsewhere)
        self.seconds = before - (self.seconds - before)
        return ran

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Without pictures; and a process that is gone writes no summary."""
        finish = server_run.finish
        self.patch.setattr(plots, "draw", lambda *given, **named: None)
        self.patch.setattr(server_run, "finish", lambda *given: {} if self.dead else finish(*given))
        yield

    dead: bool = False

    @contextmanager
    def death(self, owner: Any, name: str, number: int, after: bool = False) -> Iterator[None]:
        """The process ends before, or after, the so-many-th call (from 1) of something."""
        real, calls = getattr(owner, name), 0

        def deadly(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number and not after:
                self._die()
            answer = real(*given, **named)
            if calls == number:
                self._die()
            return answer

        with self.patch.context() as patch:
            patch.setattr(owner, name, deadly)
            with pytest.raises(DeathError):
                yield
        assert self.dead
        self.dead = False

    def _die(self) -> None:
        self.dead = True
        raise DeathError


def same_end(one: Ran, other: Ran) -> bool:
    """The same bits: shared parameters, every client's model, every figure of every round but the seconds."""
    rows = all(
        torch.equal(open_model(one.folder, client=client).row, open_model(other.folder, client=client).row)
        for client in range(5)
    )
    beside = ("seconds", "late", "dropped")
    figures = one.lines_without(*beside) == other.lines_without(*beside)
    return rows and figures and one.parameter_bytes == other.parameter_bytes and told(one) == told(other)


def told(ran: Ran) -> list[object]:
    """What the summary says of the selection."""
    ratio = ran.summary.get("ratio") or {}
    return [ran.summary["layer_scores"], ran.summary["layers"], ratio.get("ratio"), ran.summary["floor"]]


def harmed(path: Path, how: str) -> bytes:
    """A file cut to its half, or with one bit of its middle turned; returns what lies there then."""
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return bytes(content)


class Shuffled(InProcessGrid):
    """Replies in another order than the questions', each question answered when it is pulled."""

    def __init__(self, flat: Flat, order: Callable[[list[str]], list[str]], client_app: ClientCall = app) -> None:
        super().__init__(client_app, flat, 5)
        self._order = order

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return super().pull_messages(self._order(list(message_ids)))


def harms(message: Message) -> bool:
    """Whether it is the victim's training message of that round."""
    about = message.metadata
    return (about.message_type, about.dst_node_id, about.group_id) == ("train", 1000 + VICTIM, str(ROUND))


class FullDisk:
    """A disk that takes nothing more, for files under some folder: what `os.fsync` and `os.replace` say of it."""

    def __init__(self, patch: pytest.MonkeyPatch, hit: Callable[[str], bool], times: int = 1) -> None:
        real = os.replace
        self.left = times

        def replace(source: str | Path, to: str | Path) -> None:
            if self.left and hit(str(to)):
                self.left -= 1
                raise OSError(28, "No space left on device")
            real(source, to)

        patch.setattr(os, "replace", replace)
