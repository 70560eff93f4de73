"""Messages to Flower records and back.

Arrays travel under their parameters' names. What is the same for all clients of a round is equal content in every message;
what differs is a few numbers in the record "clients". Decoding checks names, shapes, types and finiteness, and never
executes anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from federation.arrays import read_row, read_vector, write_row, write_vector
from federation.channels import Channel, Channels
from federation.evaluation_records import read_evaluation, write_evaluation
from federation.messages import (
    REFUSED,
    SCHEMA,
    Ask,
    AskHeader,
    CurvatureReply,
    EvaluateReply,
    MessageError,
    RollCallAsk,
    RollCallReply,
    TrainReply,
)
from federation.record_fields import check_schema, client_records, config, get, get_list, only, read_reply


def encode_roll_call(ask: RollCallAsk) -> RecordDict:
    """The roll call's question."""
    return RecordDict({"ask": ConfigRecord({"schema": SCHEMA, **asdict(ask)})})


def decode_roll_call(content: RecordDict) -> RollCallAsk:
    """The question, at a node."""
    only(content, {"ask"})
    record = config(content, "ask")
    check_schema(record)
    return RollCallAsk(run=get(record, "run", str), score=get(record, "score", bool))


def encode_roll_call_replies(replies: Sequence[RollCallReply]) -> RecordDict:
    """A node's answer, a record per client."""
    return RecordDict({f"client.{r.client}": ConfigRecord(asdict(r)) for r in replies})


def decode_roll_call_replies(content: RecordDict) -> list[RollCallReply]:
    """The answers of one node's clients."""
    replies = [_decode_roll_call_reply(content, name) for name in client_records(content)]
    only(content, {f"client.{reply.client}" for reply in replies})
    return replies


def encode_ask(ask: Ask, channels: Channels) -> RecordDict:
    """A training or evaluation message, of x and c as `as_sent` gave them."""
    content = RecordDict(
        {
            "shared": write_row(ask.shared, channels.model),
            "round": ConfigRecord(
                {
                    "schema": SCHEMA,
                    "run": ask.run,
                    "round": ask.round,
                    "labels": list(ask.labels),
                    "layers": list(ask.layers),
                    "epoch": ask.epoch,
                    "warm_up": ask.warm_up,
                }
            ),
        }
    )
    if ask.control is not None:
        content["control"] = write_row(ask.control, channels.control)
    if ask.second_moments is not None:
        content["moments"] = write_vector(ask.second_moments)
    return address(content, ask.clients, ask.accepted)


def address(content: RecordDict, clients: Sequence[int], accepted: Sequence[int]) -> RecordDict:
    """The same message for other clients: it shares all records but the one that names them."""
    own = {"clients": ConfigRecord({"ids": list(clients), "accepted": list(accepted)})}
    return RecordDict({**content, **own})


def decode_header(content: RecordDict) -> AskHeader:
    """Whom the message is for, and what about."""
    record, clients = config(content, "round"), config(content, "clients")
    check_schema(record)
    ids, accepted = get_list(clients, "ids", int), get_list(clients, "accepted", int)
    if len(ids) != len(accepted) or not ids:
        raise MessageError(f"{len(ids)} clients and {len(accepted)} accepted rounds")
    return AskHeader(
        run=get(record, "run", str),
        round=get(record, "round", int),
        labels=tuple(get_list(record, "labels", str)),
        layers=tuple(get_list(record, "layers", int)),
        clients=tuple(ids),
        accepted=tuple(accepted),
        epoch=get(record, "epoch", int),
        warm_up=get(record, "warm_up", bool),
    )


def decode_ask(content: RecordDict, channels: Channels) -> Ask:
    """The whole message, at a node; channels: over the names that travel by the node's own reckoning.

    Raises:
        MessageError: other names, shapes or types than agreed on, or numbers that are not finite.
    """
    header = decode_header(content)
    only(content, {"round", "clients", "shared", "control", "moments"})
    control = _row(content, "control", channels.control) if "control" in content else None
    moments = _moments(content, "moments", channels)
    return Ask(
        **header.__dict__,
        shared=_row(content, "shared", channels.model),
        control=control,
        second_moments=moments,
    )


def encode_train_replies(replies: Sequence[TrainReply], channels: Channels) -> RecordDict:
    """A node's answer to a training message."""
    content = RecordDict()
    for r in replies:
        numbers = {k: v for k, v in r.__dict__.items() if k not in ("evaluation", "delta", "second_moments")}
        content[f"client.{r.client}"] = ConfigRecord(numbers)
        content[f"evaluation.{r.client}"] = write_evaluation(r.evaluation)
        if r.delta is not None:
            content[f"update.{r.client}"] = write_row(r.delta, channels.update)
        if r.second_moments is not None:
            content[f"moments.{r.client}"] = write_vector(r.second_moments)
    return content


def decode_train_replies(content: RecordDict, channels: Channels, classes: int | None = None) -> list[TrainReply]:
    """The answers of one node's clients; one that cannot be read becomes a fault of that client.

    classes: of the confusion matrices that were agreed on; None: none travel.

    Raises:
        MessageError: not even the clients' records can be read.
    """
    replies = [_decode_train_reply(content, name, channels, classes) for name in client_records(content)]
    parts = ("client", "evaluation", "update", "moments")
    only(content, {f"{part}.{reply.client}" for part in parts for reply in replies})
    return replies


def encode_evaluate_replies(replies: Sequence[EvaluateReply]) -> RecordDict:
    """A node's answer to an evaluation message."""
    content = RecordDict()
    for r in replies:
        content[f"client.{r.client}"] = ConfigRecord({"client": r.client, "round": r.round, "fault": r.fault})
        content[f"evaluation.{r.client}"] = write_evaluation(r.evaluation)
    return content


def decode_evaluate_replies(content: RecordDict, classes: int | None = None) -> list[EvaluateReply]:
    """The answers of one node's clients; classes, faults and errors as for training."""
    replies = [_decode_evaluate_reply(content, name, classes) for name in client_records(content)]
    only(content, {f"{part}.{reply.client}" for part in ("client", "evaluation") for reply in replies})
    return replies


def encode_curvature_replies(replies: Sequence[CurvatureReply]) -> RecordDict:
    """A node's answer to the question for spectra."""
    return RecordDict({f"client.{r.client}": ConfigRecord(asdict(r)) for r in replies})


def decode_curvature_replies(content: RecordDict) -> list[CurvatureReply]:
    """The answers of one node's clients; faults and errors as for training."""
    replies = [_decode_curvature_reply(content, name) for name in client_records(content)]
    only(content, {f"client.{reply.client}" for reply in replies})
    return replies


def _decode_curvature_reply(content: RecordDict, name: str) -> CurvatureReply:
    reply: CurvatureReply = read_reply(CurvatureReply, content, name)
    if reply.fault:
        return reply
    spectrum = (reply.theta, reply.weight, reply.residual)
    same = len({len(values) for values in spectrum}) == 1 and len(reply.gaps_low) == len(reply.gaps_high)
    finite = all(math.isfinite(value) for values in (*spectrum, reply.gaps_low, reply.gaps_high) for value in values)
    if not (reply.theta and same and finite and min(reply.weight) >= 0 and min(reply.residual) >= 0):
        return CurvatureReply(reply.client, reply.round, fault=f"{REFUSED}its spectrum is not whole, or not finite")
    if not (0 <= reply.ratio <= 1 and 0 <= reply.lipschitz < math.inf and reply.parameters > 0 and reply.batch > 0):
        why = f"ratio {reply.ratio}, Lipschitz estimate {reply.lipschitz}, {reply.parameters} parameters, {reply.batch} examples"
        return CurvatureReply(reply.client, reply.round, fault=f"{REFUSED}{why}")
    if not (0 <= reply.seconds < math.inf and reply.peak_bytes >= 0):
        return CurvatureReply(reply.client, reply.round, fault=f"{REFUSED}{reply.seconds} s, {reply.peak_bytes} bytes")
    return reply


def _decode_roll_call_reply(content: RecordDict, name: str) -> RollCallReply:
    reply: RollCallReply = read_reply(RollCallReply, content, name)
    if not 0 <= reply.commonest <= reply.validation_examples:
        raise MessageError(f"commonest = {reply.commonest} of {reply.validation_examples} evaluation examples")
    return reply


def _decode_train_reply(content: RecordDict, name: str, channels: Channels, classes: int | None) -> TrainReply:
    reply: TrainReply = read_reply(TrainReply, content, name)
    if reply.fault:
        return reply
    try:
        if reply.examples < 1 or reply.steps < 1 or not 0 <= reply.train_loss < math.inf:
            raise MessageError(f"{reply.examples} examples, {reply.steps} steps and a loss of {reply.train_loss}")
        evaluation = read_evaluation(content, name, classes, shared_too=False)
        delta = _row(content, f"update.{reply.client}", channels.update)
        moments = _moments(content, f"moments.{reply.client}", channels)
    except MessageError as error:
        return TrainReply(reply.client, reply.round, fault=f"{REFUSED}{error}")
    return replace(reply, evaluation=evaluation, delta=delta, second_moments=moments)


def _decode_evaluate_reply(content: RecordDict, name: str, classes: int | None) -> EvaluateReply:
    reply: EvaluateReply = read_reply(EvaluateReply, content, name)
    if reply.fault:
        return reply
    try:
        return replace(reply, evaluation=read_evaluation(content, name, classes, shared_too=True))
    except MessageError as error:
        return replace(reply, fault=f"{REFUSED}{error}")


def _row(content: RecordDict, record: str, channel: Channel) -> Tensor:
    if record not in content.array_records:
        raise MessageError(f"there is no array record {record!r}")
    return read_row(content.array_records[record], record, channel)


def _moments(content: RecordDict, record: str, channels: Channels) -> Tensor | None:
    if record not in content:
        return None
    return read_vector(content.array_records.get(record), record, len(channels.layout.blocks))
