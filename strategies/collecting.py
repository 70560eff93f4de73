"""The replies to a round as they arrive: which of them count, in which order, and what became of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from logging import WARNING
from typing import Any

from flwr.common import log

from federation.grids import Exchange, one_line
from federation.limits import check_size, most_bytes
from federation.messages import REFUSED, CurvatureReply, EvaluateReply, MessageError, TrainReply
from models.layout import Layout
from strategies.roster import Outcome, Roster

Reply = TrainReply | EvaluateReply | CurvatureReply
Read = Callable[[Exchange], Sequence[Reply]]


def in_order(
    exchanges: Iterable[Exchange],
    server_round: int,
    outcome: Outcome,
    roster: Roster,
    layout: Layout,
    read: Read,
    enough: int | None = None,
) -> Iterator[Any]:
    """Good replies in the order of `outcome.asked`, as soon as those before them are there; notes who else did what.

    Held back, decoded, are only replies that came before their turn: at most all of the round. With `enough` good ones nobody is
    waited for any more.

    Args:
        exchanges: messages, in the order of their arrival.
        server_round: the round that they have to answer.
        outcome: who was asked; accepted, failed, missing and dropped are written into it.
        roster: whose clients live where, and how large a message may be.
        layout: of the parameters that travel.
        read: the replies in a message; raises MessageError where they cannot be read.
        enough: good replies after which the round closes; None: all are waited for.
    """
    early: dict[int, Reply] = {}
    answered: set[int] = set()
    turn = iter(outcome.asked)
    due = next(turn, None)
    for exchange in exchanges:
        for reply in _answers(exchange, outcome, roster, layout, read, answered):
            if reply.client in answered or not _expected(reply.client, exchange.node, outcome, roster):
                outcome.dropped[reply.client] += 1
                log(WARNING, "a reply for client %d from node %d is dropped", reply.client, exchange.node)
                continue
            answered.add(reply.client)
            other = "" if reply.round == server_round else f"{REFUSED}it answers round {reply.round}"
            why = other or reply.fault
            if why:
                outcome.failed[reply.client] = one_line(why)
            else:
                early[reply.client] = reply
        while due is not None and (due in early or due in outcome.failed):
            if due in early:
                outcome.accepted.append(due)
                yield early.pop(due)
            due = next(turn, None)
        if enough is not None and len(outcome.accepted) + len(early) >= enough:
            break
    for client in outcome.asked:
        if client in early:
            outcome.accepted.append(client)
            yield early.pop(client)
    done = {*outcome.accepted, *outcome.failed}
    outcome.missing = [client for client in outcome.asked if client not in done]


def _answers(
    exchange: Exchange,
    outcome: Outcome,
    roster: Roster,
    layout: Layout,
    read: Read,
    answered: set[int],
) -> Sequence[Reply]:
    """The replies in a message; one that is an error, or cannot be read, fails all its clients that are still waited for."""
    reply = exchange.reply
    asked = {client for client in outcome.asked if roster.nodes.get(client) == exchange.node}
    try:
        if not reply.has_error():
            most = most_bytes(roster.message_mb, len(asked), layout, len(asked), len(roster.labels))
            check_size(reply.content, most)
            return read(exchange)
        why = f"node error {reply.error.code}: {exchange.why}"
    except MessageError as error:
        why = one_line(f"{REFUSED}{error}")
    here = asked - answered
    answered |= here
    outcome.failed.update(dict.fromkeys(sorted(here), why))
    return []


def _expected(client: int, node: int, outcome: Outcome, roster: Roster) -> bool:
    return client in outcome.asked and roster.nodes.get(client) == node
