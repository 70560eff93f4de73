"""A small federation to which anything may happen: messages, disks and the server itself are lost on purpose.

The real strategy, local update and stores, on quadratics (experiments/quadratics.py); a History says beforehand what happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Error, Message, RecordDict
from torch import Tensor

from client_app.disk_store import DiskStore
from experiments.quadratics import Federation, Quadratics
from federation import records
from federation.channels import make_channels
from federation.grids import Exchange
from federation.messages import TrainReply
from federation.settings import Settings
from models.layout import Entry, Layout
from strategies.client_rows import FileRows
from strategies.fedpeptao import State
from strategies.roster import Outcome, Roster
from strategies.shell import SelectiveStrategy

LAYOUT = Layout((Entry("x", None, (3,)),))
ANSWERS, TWICE, UNASKED = "answers", "answers twice", "answers though it was not asked"
DEAF, MUTE, STRANGE = "is lost on the way down", "is lost on the way back", "comes from another node"
REFUSED = ("says that it failed", "is for another round", "has other examples", "is not finite")
FATES = (*12 * (ANSWERS,), TWICE, UNASKED, DEAF, MUTE, STRANGE, *REFUSED)


@dataclass(frozen=True)
class Faults:
    """What becomes of one round's messages: a fate per client, a node that dies, and an order of arrival."""

    fates: tuple[str, ...]
    dead: int | None = None
    order: int = 0

    def good(self, client: int, nodes: int) -> bool:
        return self.fates[client] in (ANSWERS, TWICE, UNASKED) and client % nodes != self.dead


@dataclass(frozen=True)
class Round:
    """Disks that die before it, what becomes of it, and attempts before, of a server that died after so many messages."""

    lost: frozenset[int]
    faults: Faults
    begun: tuple[tuple[Faults, int], ...] = ()


@dataclass(frozen=True)
class History:
    """An algorithm, a cohort, and what happens to them."""

    setup: Settings
    examples: tuple[int, ...]
    steps: tuple[int, ...]
    per_round: int
    nodes: int
    seed: int
    rounds: tuple[Round, ...]

    def problem(self) -> Quadratics:
        """Centres of very different size, so that another order of summation gives other bits."""
        count, rng = len(self.examples), np.random.default_rng(self.seed)
        roots = torch.from_numpy(rng.normal(size=(count, LAYOUT.size, LAYOUT.size)))
        curvature = roots @ roots.mT / LAYOUT.size + 0.1 * torch.eye(LAYOUT.size, dtype=torch.float64)
        centres = torch.from_numpy(rng.normal(size=(count, LAYOUT.size)) * 10.0 ** rng.integers(0, 3, size=(count, 1)))
        return Quadratics(curvature, centres, self.examples, self.steps)


class ServerDiedError(Exception):
    """In the middle of a round."""


class World:
    """A server and its devices; with a folder, what they keep lies on disk.

    Attributes:
        examples: client -> n_i.
        sent: client -> its last good reply.
    """

    def __init__(self, history: History, nodes: int, folder: Path | None = None) -> None:
        setup = history.setup
        store = None if folder is None else DiskStore(folder, "run", "quadratics")
        self.nodes, self.examples = nodes, dict(enumerate(history.examples))
        self.sent: dict[int, TrainReply] = {}
        self.federation = Federation(history.problem(), setup, history.per_round, exact=False, store=store)
        if folder is not None:
            self.federation.rows = FileRows(folder / "rows", len(self.examples), LAYOUT.size)  # type: ignore[assignment]
        algorithm = self.federation.algorithm()
        homes = {client: 100 + client % nodes for client in self.examples}
        roster = Roster("run", history.seed, self.examples, homes, ("no", "yes"), (), history.per_round)
        state = algorithm.initial(LAYOUT.names, torch.linspace(-1, 1, LAYOUT.size))
        shared = setup.local.device_second_moment == "shared"
        self.strategy = SelectiveStrategy(algorithm, state, roster, make_channels(setup, LAYOUT), shared)

    @property
    def state(self) -> State:
        return self.strategy.state

    @property
    def asked(self) -> list[int]:
        """D_t of the round to come."""
        return self.strategy.sampled(self.state.round + 1)

    def live(self, this: Round) -> Outcome:
        """A round; its disks have died already."""
        for faults, messages in this.begun:
            with suppress(ServerDiedError):
                self.close(faults, dies_after=messages)
        return self.close(this.faults)

    def close(self, faults: Faults, dies_after: int | None = None) -> Outcome:
        """One attempt at a round. With dies_after the server goes on from the state before, and nobody hears of the outcome."""
        before, copy = self.state, deepcopy(self.state)
        try:
            return self.strategy.close_round(before.round + 1, _until(self._exchanges(faults), dies_after))
        finally:
            assert same(before, copy)
            if dies_after is not None:
                self.strategy.state = before

    def lose(self, client: int) -> None:
        """A device's disk dies."""
        self.federation.lose(client)

    def control(self, client: int) -> Tensor:
        """c_i, as the device would go on from it."""
        self.federation.state = self.state
        return self.federation.control(client)

    def row(self, client: int) -> Tensor:
        """u_i, or c_i of the released arithmetic; zeros where there is none."""
        row = self.federation.rows.read(client, self.state.accepted.get(client, 0))
        return torch.zeros(LAYOUT.size, dtype=torch.float64) if row is None else row.to(torch.float64)

    # -- messages --------------------------------------------------------------------------------------------

    def _exchanges(self, faults: Faults) -> list[Exchange]:
        """A message from each node with its clients' replies, one for each reply that should not be there; in any order."""
        self.federation.state = self.state
        rng, asked = np.random.default_rng(faults.order), self.asked
        together: dict[int, list[TrainReply]] = {}
        found = [] if faults.dead is None else [_answer(faults.dead, Error(5, "gone"))]
        for client in [int(client) for client in rng.permutation(len(self.examples))]:
            if client not in asked and faults.fates[client] != UNASKED:
                continue
            for number, (node, reply) in enumerate(self._replies(client, faults)):
                if number or node != client % self.nodes:
                    found.append(self._message(node, [reply]))
                else:
                    together.setdefault(node, []).append(reply)
        found += [self._message(node, replies) for node, replies in together.items()]
        return [found[int(place)] for place in rng.permutation(len(found))]

    def _replies(self, client: int, faults: Faults) -> Iterator[tuple[int, TrainReply]]:
        """(node, reply) of a client: it trains unless the message down is lost, whatever becomes of the reply."""
        fate, home = faults.fates[client], client % self.nodes
        if fate == DEAF:
            return
        replies = [self._reply(client, fate) for _ in range(2 if fate == TWICE else 1)]
        if fate != MUTE and home != faults.dead:
            yield from ((home + (fate == STRANGE), reply) for reply in replies)

    def _reply(self, client: int, fate: str) -> TrainReply:
        failed, late, greedy, nan = (fate == refused for refused in REFUSED)
        update = self.federation.train(client)
        reply = TrainReply(
            client=client,
            round=self.state.round + 1 - late,
            fault="OSError: disk full" if failed else "",
            examples=update.examples + greedy,
            steps=update.steps,
            train_loss=1.0 / (3 + client),
            control_round=update.control_round,
            delta=update.delta * (torch.nan if nan else 1.0),
            second_moments=None if update.second_moments is None else update.second_moments.to(torch.float32),
        )
        if fate not in REFUSED:
            self.sent[client] = reply
        return reply

    def _message(self, node: int, replies: Sequence[TrainReply]) -> Exchange:
        return _answer(node, records.encode_train_replies(replies, self.strategy.channels))


def _answer(node: int, content: RecordDict | Error) -> Exchange:
    asked = Message(RecordDict(), dst_node_id=100 + node, message_type="train")
    return Exchange(100 + node, Message(content, reply_to=asked))


def _until(exchanges: Sequence[Exchange], dies_after: int | None) -> Iterator[Exchange]:
    for number, exchange in enumerate(exchanges):
        if number == dies_after:
            raise ServerDiedError
        yield exchange


def same(a: Any, b: Any) -> bool:
    """Equal in every field and bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)
