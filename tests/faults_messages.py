"""Faults of messages and clocks: replies in any order, twice, too late, never, in another client's name."""

from __future__ import annotations

import random
import time
from typing import Any

import torch
from flwr.app import Context, Message

from client_app.app import app
from strategies.fedpeptao import FedPepTAO
from strategies.shell import SelectiveStrategy
from tests.fault_stage import DEADLINE_S, ROUND, VICTIM, Shuffled, Stage, Strike, harms, same_end


def in_every_order(stage: Stage) -> None:
    flat = stage.flat()
    whole = stage.whole(flat)
    rng = random.Random(0)
    for number, order in enumerate((lambda ids: ids[::-1], lambda ids: rng.sample(ids, len(ids)))):
        other = {**flat, "runs-dir": str(stage.folder / f"order-{number}")}
        assert same_end(stage.go(other, Shuffled(other, order)), whole)


def twice(stage: Stage) -> None:
    """A second copy of each reply changes nothing."""
    flat = stage.flat()
    whole = stage.whole(flat)
    with stage.patch.context() as patch:
        real = SelectiveStrategy.close_round

        def doubled(own: SelectiveStrategy, server_round: int, exchanges: Any, attempt: int = 0) -> Any:
            return real(own, server_round, (one for exchange in exchanges for one in (exchange, exchange)), attempt)

        patch.setattr(SelectiveStrategy, "close_round", doubled)
        ran = stage.go(flat)
    assert same_end(ran, whole)
    assert all(line["dropped"] for line in ran.lines[1:])


class Deaf(Shuffled):
    """The victim's training message of one round is not answered before some later pull, or never."""

    def __init__(self, flat: Any, answered: bool) -> None:
        super().__init__(flat, self._without)
        self._ids: list[str] = []
        self._answered = answered

    def push_messages(self, messages: Any) -> Any:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        for one, message in zip(ids, messages, strict=True):
            if harms(message):
                self._ids.append(one)
            elif self._ids and self._answered and message.metadata.group_id == str(ROUND + 2):
                self._ids.clear()  # now it may answer
        return ids

    def _without(self, ids: list[str]) -> list[str]:
        return [one for one in reversed(ids) if one not in self._ids]


class Impostor(Shuffled):
    """The victim's node answers for a client of another node, and is the first to answer."""

    def __init__(self, flat: Any, other: int) -> None:
        super().__init__(flat, self._first, self._in_its_name)
        self._ids: list[str] = []
        self._other = other

    def push_messages(self, messages: Any) -> Any:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        self._ids += [one for one, message in zip(ids, messages, strict=True) if harms(message)]
        return ids

    def _first(self, ids: list[str]) -> list[str]:
        return sorted(ids, key=lambda one: one not in self._ids)

    def _in_its_name(self, message: Message, context: Context) -> Message:
        reply = app(message, context)
        if harms(message):
            content = reply.content
            content.config_records[f"client.{VICTIM}"]["client"] = self._other
            for records in (content.config_records, content.metric_records, content.array_records):
                for name in [name for name in records if name.endswith(f".{VICTIM}")]:
                    records[f"{name.partition('.')[0]}.{self._other}"] = records.pop(name)
        return reply


def in_anothers_name(stage: Stage) -> None:
    """The other client's own reply counts, and the round ends as if the victim had said nothing."""
    other, flat = 4, stage.flat(round_timeout_s=DEADLINE_S)
    ran = stage.go(flat, Impostor(flat, other))
    line = ran.lines[ROUND]
    assert (line["dropped"], line["missing"], line["accepted"]) == ({str(other): 1}, [VICTIM], 4)
    silent = {**flat, "runs-dir": str(stage.folder / "silent")}
    assert ran.parameter_bytes == stage.go(silent, Deaf(silent, answered=False)).parameter_bytes


def unanswered(answered: bool) -> Strike:
    """The round closes at its deadline without it."""

    def strike(stage: Stage) -> None:
        flat = stage.flat(round_timeout_s=DEADLINE_S)
        ran = stage.go(flat, Deaf(flat, answered))
        assert ran.lines[ROUND]["missing"] == [VICTIM]
        assert [line["accepted"] for line in ran.lines[1:]] == [5, 4, 5, 5]
        assert sum(line["late"] or 0 for line in ran.lines) == int(answered)
        assert torch.isfinite(torch.cat([value.flatten() for value in ran.parameters.values()])).all()

    return strike


def clock(stage: Stage) -> None:
    """Set back by years in the middle, then forth."""
    flat = stage.flat()
    whole = stage.whole(flat)
    real, calls = time.time, [0]

    def wrong() -> float:
        calls[0] += 1
        return real() + (-(10**9) if calls[0] % 2 else 10**9)

    with stage.patch.context() as patch:
        patch.setattr(time, "time", wrong)
        with stage.death(FedPepTAO, "step", ROUND):
            stage.go(flat)
        ran = stage.go_on(flat)
    assert calls[0]
    assert same_end(ran, whole)
