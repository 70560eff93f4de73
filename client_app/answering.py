"""A message's answer: decode it, ask the host for each client it names, encode the answers.

A client that fails is data: its answer says why, the others of the same node answer as usual, and the round goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from flwr.app import Context, Message

from client_app import checks, host
from client_app.curvature import spectrum_of
from client_app.discretion import reason
from client_app.disk_store import open_store
from client_app.start import travelling_layout
from client_app.state import StateStore
from federation import records, resources
from federation.channels import Channels, make_channels
from federation.limits import check_size, most_bytes
from federation.logs import LOG, about, event, kept_in
from federation.messages import (
    CURVATURE,
    EVALUATE,
    ROLL_CALL,
    TRAIN,
    Ask,
    AskHeader,
    CurvatureReply,
    EvaluateReply,
    RollCallReply,
    TrainReply,
)
from federation.node_config import NodeConfig, parse_node_config
from federation.run_paths import state_folder
from federation.settings import Settings, parse

logger = logging.getLogger("flwr")

Reply = TypeVar("Reply")


def answer(message: Message, context: Context) -> Message:
    """The reply to a message of any of the kinds below."""
    kinds = {ROLL_CALL: roll_call, TRAIN: train, EVALUATE: evaluate, CURVATURE: curvature}
    return kinds[message.metadata.message_type](message, context)


def roll_call(message: Message, context: Context) -> Message:
    """Who lives here, with how many examples, which labels and which scores."""
    settings = _settings(context)
    check_size(message.content, most_bytes(settings.federation.message_limit_mb, 1))
    ask = records.decode_roll_call(message.content)
    with _logged("roll call", settings, context, run=ask.run):
        replies = _answers(
            settings,
            _clients(settings, context),
            lambda client: host.roll_call(settings, client, ask.score),
            lambda client, why: RollCallReply(client, fault=why),
        )
    return Message(records.encode_roll_call_replies(replies), reply_to=message)


def train(message: Message, context: Context) -> Message:
    """A round of local training for each client the message names."""
    settings = _settings(context)
    ask, channels, store = _open(message, settings, context)
    accepted = dict(zip(ask.clients, ask.accepted, strict=True))
    with _logged("training", settings, context, run=ask.run, round=ask.round):
        replies = _answers_together(
            settings,
            ask.clients,
            lambda group: host.train_together(settings, ask, group, accepted, store),
            lambda client: host.train(settings, ask, client, accepted[client], store),
            lambda client, why: TrainReply(client, ask.round, fault=why),
        )
    return Message(records.encode_train_replies(replies, channels), reply_to=message)


def evaluate(message: Message, context: Context) -> Message:
    """An evaluation of each client the message names, on its own shard."""
    settings = _settings(context)
    ask, _, store = _open(message, settings, context)
    accepted = dict(zip(ask.clients, ask.accepted, strict=True))
    with _logged("evaluation", settings, context, run=ask.run, round=ask.round):
        replies = _answers(
            settings,
            ask.clients,
            lambda client: host.evaluate(settings, ask, client, accepted[client], store),
            lambda client, why: EvaluateReply(client, ask.round, fault=why),
        )
    return Message(records.encode_evaluate_replies(replies), reply_to=message)


def curvature(message: Message, context: Context) -> Message:
    """The spectrum of each named client's Hessian at what the message holds."""
    settings = _settings(context)
    ask, _, store = _open(message, settings, context)
    accepted = dict(zip(ask.clients, ask.accepted, strict=True))
    with _logged("curvature", settings, context, run=ask.run, round=ask.round):
        replies = _answers(
            settings,
            ask.clients,
            lambda client: spectrum_of(settings, ask, client, accepted[client], store),
            lambda client, why: CurvatureReply(client, ask.round, fault=why),
        )
    return Message(records.encode_curvature_replies(replies), reply_to=message)


@contextmanager
def _logged(what: str, settings: Settings, context: Context, *, run: str, **fields: object) -> Iterator[None]:
    """Events of a message's work, in the node's own log beside its clients' states."""
    started = time.monotonic()
    node = _node(context)
    place = state_folder(settings, run, node).parent / LOG
    with kept_in(place), about(run=run, node=node.partition_id, **fields):
        event(f"{what} begins")
        yield
        event(f"{what} ends", seconds=round(time.monotonic() - started, 3))


def _settings(context: Context) -> Settings:
    settings = _node(context).settings(parse(context.run_config))
    resources.set_threads(settings)
    return settings


def _node(context: Context) -> NodeConfig:
    return parse_node_config(context.node_config)


def _clients(settings: Settings, context: Context) -> list[int]:
    node = _node(context)
    return host.clients_of_node(settings.federation.clients, node.partition_id, node.num_partitions)


def _open(message: Message, settings: Settings, context: Context) -> tuple[Ask, Channels, StateStore]:
    """A message's content, checked against what this node expects to receive."""
    header, kind = records.decode_header(message.content), message.metadata.message_type
    hosted = _clients(settings, context)
    checks.check_header(settings, header, kind, hosted)
    checks.check_labels(settings, header, message.content)
    channels = make_channels(settings, travelling_layout(settings, header.layers, header.labels))
    limit, classes = settings.federation.message_limit_mb, len(header.labels)
    check_size(message.content, most_bytes(limit, len(hosted), channels.layout, 2, classes))
    ask = records.decode_ask(message.content, channels)
    checks.check_parts(settings, ask, kind)
    return ask, channels, _store(settings, header, context)


def _store(settings: Settings, header: AskHeader, context: Context) -> StateStore:
    folder = state_folder(settings, header.run, _node(context))
    part = settings.run.state_disk_mb * 2**20 // max(1, len(_clients(settings, context)))
    return open_store(
        folder, header.run, host.fingerprint(settings, header.layers, header.labels), part, settings.run.checkpoints
    )


def _answers(
    settings: Settings, clients: Iterable[int], work: Callable[[int], Reply], failed: Callable[[int, str], Reply]
) -> list[Reply]:
    """Each client's answer; one that raises answers with why, and the log has its traceback."""
    replies = []
    for client in clients:
        started = time.monotonic()
        with about(client=client):
            try:
                replies.append(work(client))
                event("answered", seconds=round(time.monotonic() - started, 3))
            except Exception as error:  # whatever it is, the other clients of this node must still answer
                event("failed", logging.ERROR)
                logger.exception("client %d failed", client)
                replies.append(failed(client, reason(error, settings.federation.own_data)))
    return replies


def _answers_together(
    settings: Settings,
    clients: Sequence[int],
    together: Callable[[Sequence[int]], list[Reply]],
    alone: Callable[[int], Reply],
    failed: Callable[[int, str], Reply],
) -> list[Reply]:
    """The same, so many at a time; in a group that raises each works alone, so that only the one at fault fails."""
    replies: list[Reply] = []
    size = settings.local.clients_together
    for start in range(0, len(clients), size):
        group = clients[start : start + size]
        if len(group) > 1:
            try:
                replies += together(group)
                event("answered together", clients=list(group))
                continue
            except Exception:  # one by one it is known whose it was
                event("failed together", logging.ERROR, clients=list(group))
                logger.exception("clients %s failed together: each goes on alone", list(group))
        replies += _answers(settings, group, alone, failed)
    return replies
