"""A small real run, its messages of each kind, and for each kind what its receiver does with one (experiments/fuzz.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from client_app import answering
from client_app.app import app
from federation import records
from federation.grids import Exchange, InProcessGrid
from federation.messages import CURVATURE, EVALUATE, ROLL_CALL, TRAIN, MessageError
from federation.settings import Scalar, Settings, defaults, parse
from fedpeptao.errors import RunError
from server_app import roll_call
from server_app.assembly import Assembly
from server_app.roll_call import RollCall
from server_app.run import run
from strategies.roster import Outcome
from strategies.shell import SelectiveStrategy

Receiver = Callable[[RecordDict], str]
NODE, CLIENTS = 1000, 3
SMALL: dict[str, Scalar] = {
    **{"model": "random:bert", "prompt-tokens": 3, "clients": CLIENTS, "clients-per-round": CLIENTS, "local-epochs": 1},
    **{
        "rounds": 3,
        "ratio": "plateau",
        "warmup-rounds": 1,
        "curvature-steps": 4,
        "score-batches": 1,
        "norm-limit": 10.0,
    },
    **{"drift-correction": "device", "label-prior": "none"},  # control variates are among what is sent
}


class Recorder:
    """The client app, and the last message of each kind with its answer."""

    def __init__(self) -> None:
        self.context: Context | None = None
        self.asked: dict[str, Message] = {}
        self.answered: dict[str, bytes] = {}

    def __call__(self, message: Message, context: Context) -> Message:
        """As the client app."""
        reply = app(message, context)
        kind = message.metadata.message_type
        self.context, self.asked[kind], self.answered[kind] = context, message, as_bytes(reply.content)
        return reply


def receivers(folder: Path) -> dict[str, tuple[bytes, Receiver]]:
    """Kind of message -> one that a run sent, and what its receiver makes of such a one: "taken", or "refused: why".

    Of a run in float32, and of one in int8, whose arrays travel in a Huffman code.
    """
    whole, coded = (_receivers(folder, precision) for precision in ("float32", "int8"))
    return whole | {f"{kind}, int8": end for kind, end in coded.items() if "roll call" not in kind}


def _receivers(folder: Path, precision: str) -> dict[str, tuple[bytes, Receiver]]:
    rows = [{"text": f"{word} {number}", "label": word} for number in range(40) for word in ("red", "dog")]
    data = folder / "texts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    flat = {**defaults(), **SMALL, "dataset": str(data), "runs-dir": str(folder / "runs"), "run-name": precision}
    flat["precision"] = precision
    recorder, settings = Recorder(), parse(flat)
    summary = run(InProcessGrid(recorder, flat, 1), settings)
    ends: dict[str, tuple[bytes, Receiver]] = {
        "roll call, at the node": (as_bytes(recorder.asked[ROLL_CALL].content), _asked)
    }
    for kind in (TRAIN, EVALUATE, CURVATURE):
        ends[f"{kind}, at the node"] = (as_bytes(recorder.asked[kind].content), _opened(settings, recorder, kind))
    ends["roll call's answer"] = (recorder.answered[ROLL_CALL], _called(settings))
    found = RollCall(
        {r.client: r for r in records.decode_roll_call_replies(parsed(recorder.answered[ROLL_CALL]))},
        dict.fromkeys(range(CLIENTS), NODE),
    )
    assembly = Assembly(settings, found, tuple(summary["labels"]), folder)
    for kind in (TRAIN, EVALUATE, CURVATURE):
        header = records.decode_header(recorder.asked[kind].content)
        strategy = assembly.warm_up(len(header.layers)) if header.warm_up else assembly.strategy(header.layers)
        made = header.round - (kind == TRAIN)
        accepted = dict.fromkeys(range(CLIENTS), made)
        state = replace(strategy.state, round=made, accepted=accepted)
        ends[f"{kind} answer"] = (recorder.answered[kind], _closed(strategy, state, kind))
    return ends


def _asked(content: RecordDict) -> str:
    return _tried(lambda: records.decode_roll_call(content))


def _opened(settings: Settings, recorder: Recorder, kind: str) -> Receiver:
    def receive(content: RecordDict) -> str:
        assert recorder.context is not None
        message = Message(content, NODE, kind)
        context = recorder.context
        return _tried(lambda: answering._open(message, settings, context))

    return receive


def _called(settings: Settings) -> Receiver:
    def receive(content: RecordDict) -> str:
        try:
            return _tried(lambda: roll_call.read(_exchange(content), settings))
        except RunError as error:
            return f"refused: {error}"

    return receive


def _closed(strategy: SelectiveStrategy, state: Any, kind: str) -> Receiver:
    """A round, from the same state each time."""
    standing = strategy.standing

    def receive(content: RecordDict) -> str:
        strategy.go_on(state, standing=standing)
        if kind == TRAIN:
            outcome = strategy.close_round(state.round + 1, [_exchange(content)])
        elif kind == EVALUATE:
            outcome = strategy.close_evaluation([_exchange(content)])
        else:
            outcome, _ = strategy.close_curvature([_exchange(content)])
        if not torch.isfinite(strategy.state.x).all():
            raise FloatingPointError("the server's parameters are not finite")
        return _came_of(outcome)

    return receive


def _came_of(outcome: Outcome) -> str:
    if outcome.refused:
        return f"refused, of some client: {outcome.failed[outcome.refused[0]].partition(': ')[2]}"
    if outcome.failed:
        return "a fault that the client names"
    return "dropped, of some client" if outcome.dropped or outcome.missing else "taken"


def _tried(read: Callable[[], object]) -> str:
    try:
        read()
    except MessageError as error:
        return f"refused: {error}"
    return "taken"


def _exchange(content: RecordDict) -> Exchange:
    return Exchange(NODE, Message(content, reply_to=Message(RecordDict(), NODE, TRAIN)))


def as_bytes(content: RecordDict) -> bytes:
    """As it travels."""
    return recorddict_to_proto(content).SerializeToString()


def parsed(data: bytes) -> RecordDict:
    """As it arrives."""
    return recorddict_from_proto(RecordDictProto.FromString(data))
