"""The Flower Strategy: decode replies, call the equations, encode messages. It and `collecting` alone know Flower here.

Its state is one explicit attribute; who is asked in a round follows from the seed and the round alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from logging import INFO
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from federation import records
from federation.channels import Channels
from federation.grids import Exchange
from federation.messages import (
    CURVATURE,
    EVALUATE,
    REFUSED,
    TRAIN,
    Ask,
    CurvatureReply,
    EvaluateReply,
    TrainReply,
)
from federation.randomness import generator
from strategies.agreement import counts_objection, objection, overflow, update_norm
from strategies.collecting import Read, Reply, in_order
from strategies.fedpeptao import Algorithm, State, Update
from strategies.roster import Cohort, Outcome, Roster
from strategies.selection import sample_clients
from strategies.standing import Standing


class SelectiveStrategy(Strategy):
    """An algorithm behind Flower's verbs: what is tuned on the selected layers travels, the rest stays on the devices.

    Args:
        algorithm: the equations.
        state: where to go on from.
        roster: who takes part.
        channels: for x, c and updates, over the parameters that travel.
        share_second_moments: whether vbar goes down.
        warm_up: whether these are the rounds before the layers are selected.
        standing: what is held of the clients' conduct.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        state: State,
        roster: Roster,
        channels: Channels,
        share_second_moments: bool = False,
        warm_up: bool = False,
        standing: Standing | None = None,
    ) -> None:
        self.algorithm, self.state, self.roster, self.channels = algorithm, state, roster, channels
        self.layout = channels.layout
        self.warm_up, self._share_second_moments = warm_up, share_second_moments
        self.sent = state.x  # by the last round that was closed
        self.standing = standing or Standing()

    def go_on(self, state: State, sent: Tensor | None = None, standing: Standing | None = None) -> None:
        """From a state of an earlier process, and what it held of its clients.

        Raises:
            ValueError: it is of other parameters.
        """
        if state.names != self.layout.names:
            raise ValueError(f"a state of {len(state.names)} parameters is none of {len(self.layout.names)}")
        self.state, self.sent = state, state.x if sent is None else sent
        self.standing = standing or Standing()

    @property
    def left_out(self) -> tuple[int, ...]:
        """Clients that are asked no more, for the refused replies that they sent."""
        return self.standing.left_out(self.roster.strikes)

    @property
    def clients(self) -> list[int]:
        """All others that are there, ascending."""
        return sorted(set(self.roster.present) - set(self.left_out))

    def meet(self, roster: Roster) -> None:
        """Goes on with these clients, between two rounds: who was known still is, and who is new has sent nothing yet."""
        if roster.examples.keys() != self.roster.examples.keys():
            self.algorithm, self.state = self.algorithm.grow(self.state, Cohort.of(roster.agreed))
        self.roster = roster

    def sampled(self, server_round: int, attempt: int = 0) -> list[int]:
        """D_t, in the order in which replies are folded; attempt: how often the round was void before."""
        rng = generator(self.roster.seed, "sample", server_round, *([attempt] if attempt else []))
        return sample_clients(self.clients, self.roster.per_round + self.roster.beyond, rng)

    def train_messages(self, server_round: int, attempt: int = 0) -> list[Message]:
        """One message for each node that hosts a sampled client."""
        x = self._as_sent(self.state.x, self.state.round + 1)
        return self._messages(TRAIN, server_round, self.sampled(server_round, attempt), x)

    def evaluate_messages(self) -> list[Message]:
        """An evaluation of all clients that are there and not left out, after the last round that ended."""
        x = self._as_sent(self.state.model, self.state.round + 1)
        return self._messages(EVALUATE, self.state.round, self.clients, x)

    def close_round(self, server_round: int, exchanges: Iterable[Exchange], attempt: int = 0) -> Outcome:
        """Folds replies in the order of sampling as they arrive, then steps. `self.state` is the new state.

        With fewer replies than the quorum the round is void and the state stays; what clients keep of it they drop when they are
        asked again.
        """
        outcome = Outcome(asked=self.sampled(server_round, attempt))
        total, losses, norms = self.algorithm.begin(self.state), 0.0, []
        for reply in self._collected(exchanges, server_round, outcome, self._read_train, self.roster.per_round):
            self.algorithm.fold(self.state, total, _update(reply))
            losses += reply.examples * reply.train_loss
            norms += [update_norm(reply)] if self.roster.norm_limit else []
            outcome.evaluations[reply.client] = reply.evaluation
            outcome.states[reply.client] = _went_on(self.state.accepted.get(reply.client, 0), reply.control_round)
        outcome.train_loss = losses / total.examples if total.examples else None
        outcome.void = len(outcome.accepted) < self.roster.quorum
        self.standing = self.standing.after(outcome.accepted, outcome.refused, [] if outcome.void else norms)
        if outcome.void:
            return outcome
        new = self.algorithm.step(self.state, total)
        outcome.update_norm = float((new.x - self.state.x).norm())
        self.sent, self.state = self.state.x, new
        return outcome

    def close_evaluation(self, exchanges: Iterable[Exchange]) -> Outcome:
        """Collects all clients' counts."""
        outcome = Outcome(asked=self.clients)
        for reply in self._collected(exchanges, self.state.round, outcome, self._read_evaluation):
            outcome.evaluations[reply.client] = reply.evaluation
        self.standing = self.standing.counting(outcome.refused)
        return outcome

    def curvature_messages(self) -> list[Message]:
        """Asks the clients of the last round for spectra at the x that it sent out."""
        x = self._as_sent(self.sent, self.state.round)
        there = [client for client in self.last_accepted() if client in self.roster.nodes]
        return self._messages(CURVATURE, self.state.round, there, x)

    def close_curvature(self, exchanges: Iterable[Exchange]) -> tuple[Outcome, list[CurvatureReply]]:
        """What became of it, and the answers in the order of clients."""
        outcome = Outcome(asked=self.last_accepted())
        return outcome, list(self._collected(exchanges, self.state.round, outcome, self._read_curvature))

    def last_accepted(self) -> list[int]:
        """The clients whose reply to the last round was accepted, ascending."""
        return sorted(client for client, made in self.state.accepted.items() if made == self.state.round)

    # -- Flower's verbs, for whoever drives the strategy with them ---------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The round's messages; what they carry is this strategy's state, not `arrays`."""
        return self.train_messages(server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Closes the round; the new shared parameters (float32) and its figures."""
        outcome = self.close_round(server_round, (Exchange(reply.metadata.src_node_id, reply) for reply in replies))
        if not outcome.accepted:
            return None, None
        figures: dict[str, int | float | list[int] | list[float]] = {
            "replies": len(outcome.accepted),
            "failed": len(outcome.failed),
            "missing": len(outcome.missing),
            "train_loss": outcome.train_loss or 0.0,
        }
        return self.arrays(), MetricRecord(figures)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """An evaluation of all clients."""
        return self.evaluate_messages()

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Personalised and shared accuracy, pooled over all clients' shards."""
        outcome = self.close_evaluation(Exchange(reply.metadata.src_node_id, reply) for reply in replies)
        counts = outcome.evaluations.values()
        examples = sum(c.examples for c in counts)
        if not examples:
            return None
        personalised, shared = sum(c.correct for c in counts), sum(c.shared_correct for c in counts)
        return MetricRecord({"personalised_accuracy": personalised / examples, "shared_accuracy": shared / examples})

    def summary(self) -> None:
        """One line in Flower's log."""
        log(INFO, "%d parameters travel, of layers %s", self.layout.size, list(self.roster.layers))

    def arrays(self) -> ArrayRecord:
        """The shared model's parameters by name, float32."""
        values = self.layout.unflatten(self.state.model.to(torch.float32))
        return ArrayRecord({name: Array(value.numpy()) for name, value in values.items()})

    # -- messages ---------------------------------------------------------------------------------------

    def _messages(self, kind: str, server_round: int, clients: Sequence[int], x: Tensor) -> list[Message]:
        """A message for each node that hosts one of these clients; x: as sent."""
        ask = self._ask(kind, server_round, x)
        content = records.encode_ask(ask, self.channels)
        by_node: dict[int, list[int]] = {}
        for client in clients:
            by_node.setdefault(self.roster.nodes[client], []).append(client)
        accepted = self.state.accepted
        return [
            Message(
                records.address(content, here, [accepted.get(client, 0) for client in here]),
                node,
                kind,
                group_id=str(server_round),
            )
            for node, here in by_node.items()
        ]

    def _ask(self, kind: str, server_round: int, x: Tensor) -> Ask:
        """What goes down; only to train, a client needs more than x."""
        train = kind == TRAIN
        return Ask(
            run=self.roster.run,
            round=server_round,
            labels=self.roster.labels,
            layers=self.roster.layers,
            clients=(),
            accepted=(),
            epoch=self.state.drift.epoch,
            warm_up=self.warm_up,
            shared=x,
            control=self._control_as_sent() if train else None,
            second_moments=self.state.vbar if self._share_second_moments and train else None,
        )

    def _as_sent(self, x: Tensor, server_round: int) -> Tensor:
        """Rounded once, with the lots of the round that it goes into."""
        return self.channels.model.as_sent(x, server_round)

    def _control_as_sent(self) -> Tensor | None:
        c = self.algorithm.downlink(self.state)
        return None if c is None else self.channels.control.as_sent(c, self.state.round + 1)

    # -- replies ----------------------------------------------------------------------------------------

    def _collected(
        self,
        exchanges: Iterable[Exchange],
        server_round: int,
        outcome: Outcome,
        read: Read,
        enough: int | None = None,
    ) -> Iterator[Any]:
        return in_order(exchanges, server_round, outcome, self.roster, self.layout, read, enough)

    def _read_train(self, exchange: Exchange) -> Sequence[Reply]:
        replies = records.decode_train_replies(exchange.reply.content, self.channels, self.roster.confusion_classes)
        return [self._as_agreed(reply) for reply in replies]

    def _as_agreed(self, reply: TrainReply) -> TrainReply:
        if reply.fault:
            return reply
        shares = self._share_second_moments
        why = objection(reply, self.roster, shares, self.standing.most(self.roster.norm_limit))
        if not why and reply.client in self.roster.examples and not self.algorithm.holds(self.state, _update(reply)):
            why = overflow(reply)
        return TrainReply(reply.client, reply.round, fault=REFUSED + why) if why else reply

    def _read_curvature(self, exchange: Exchange) -> Sequence[Reply]:
        return records.decode_curvature_replies(exchange.reply.content)

    def _read_evaluation(self, exchange: Exchange) -> Sequence[Reply]:
        replies = records.decode_evaluate_replies(exchange.reply.content, self.roster.confusion_classes)
        return [self._counts_as_agreed(reply) for reply in replies]

    def _counts_as_agreed(self, reply: EvaluateReply) -> EvaluateReply:
        why = "" if reply.fault else counts_objection(reply.client, reply.evaluation, self.roster)
        return EvaluateReply(reply.client, reply.round, fault=REFUSED + why) if why else reply


def _update(reply: TrainReply) -> Update:
    """What is folded of a reply."""
    assert reply.delta is not None
    return Update(reply.client, reply.examples, reply.steps, reply.delta, reply.control_round, reply.second_moments)


def _went_on(accepted: int, found: int) -> str:
    """What a client went on from; accepted: the last round in which its reply was, found: the round of the state it had."""
    if not accepted:
        return "new"
    return "restored" if found == accepted else "lost"
