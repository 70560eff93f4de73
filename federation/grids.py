"""Grids of our own: one that runs clients in this process, and one that counts what passes through another."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import config_record_to_proto, message_from_proto, message_to_proto, metric_record_to_proto
from flwr.common.typing import Run
from flwr.proto.message_pb2 import Message as MessageProto  # pylint: disable=no-name-in-module
from flwr.serverapp import Grid

from federation.messages import NodeError

ClientCall = Callable[[Message, Context], Message]
CLIENT_APP_RAISED = 2  # Flower's error code for it
LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)
"""Flower's error codes in place of an answer that did not come, or of a message that nobody fetched in time."""
GRACE_S = 60.0
"""Flower hands out a message, and takes its reply, for so long after nobody waits for it any more.

Both follow clocks: that of the SuperLink, and for a reply that of its node, which may be 5 s ahead (docs/DEPLOYMENT.md). A
ServerApp outlives no longer silence of its SuperLink, so that no message expires before it is pushed.
"""
_RAISED = re.compile(r"<class '(?:.*\.)?(?P<name>\w+)'>:<'(?P<text>.*)'>", re.DOTALL)  # as Flower puts it into a reply
_LONGEST_REASON = 1000  # characters
_SHORTEST_S, _LONGEST_S, _SHARE = 0.05, 0.5, 0.01  # of pauses between two looks for replies


class InProcessGrid(Grid):
    """Nodes without Ray, a network or threads: a message is answered when its reply is pulled.

    Every message is serialised and parsed on its way, there and back, as Flower does: so bytes are real and nothing is aliased.

    Args:
        client_app: what a node runs.
        run_config: the flat settings, as every node sees them.
        nodes: how many nodes there are; node k has partition-id k.
        node_config: what each node is told besides.
    """

    def __init__(
        self,
        client_app: ClientCall,
        run_config: dict[str, str | int | float | bool],
        nodes: int,
        node_config: dict[str, str | int | float | bool] | None = None,
    ) -> None:
        self._client_app = client_app
        self._contexts = {
            1000 + k: Context(
                run_id=1,
                node_id=1000 + k,
                node_config={"partition-id": k, "num-partitions": nodes, **(node_config or {})},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for k in range(nodes)
        }
        self._waiting: dict[str, bytes] = {}

    def set_run(self, run: Run) -> None:
        """There is one run."""

    @property
    def run(self) -> Run:
        """There is one run."""
        return Run.create_empty(run_id=1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Deprecated in Flower: use the constructor of Message."""
        raise NotImplementedError("use Message(content, dst_node_id, message_type)")

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, always online."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Serialises each message and keeps its bytes."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            message.metadata.__dict__["_src_node_id"] = 1
            message.metadata.__dict__["_run_id"] = 1
            self._waiting[message.metadata.message_id] = message_to_proto(message).SerializeToString()
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answers the first of these messages that still waits: one at a time, so that replies can be folded as they come."""
        for message_id in message_ids:
            if message_id in self._waiting:
                return [_parse(self._answer(_parse(self._waiting.pop(message_id))))]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """All replies."""
        ids = list(self.push_messages(messages))
        return [reply for message_id in ids for reply in self.pull_messages([message_id])]

    def _answer(self, message: Message) -> bytes:
        try:
            reply = self._client_app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # as in Flower: a node that raises answers with an error, whatever it was
            reply = Message(Error(CLIENT_APP_RAISED, f"{type(error).__name__}: {error}"), reply_to=message)
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        return message_to_proto(reply).SerializeToString()


def _parse(data: bytes) -> Message:
    return message_from_proto(MessageProto.FromString(data))


class RecordingGrid(Grid):
    """Another grid, with a count of the bytes that went down and came up, by what they were.

    Kinds: prompts, head, control, moments, and config for all that is not an array. Replies that nobody waits for any more are
    taken from the grid when they come, counted as late, and dropped; those that Flower knows not to come are not counted.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._overdue: list[str] = []
        self.late = 0
        self.down: Counter[str] = Counter()
        self.up: Counter[str] = Counter()

    def reset(self) -> tuple[Counter[str], Counter[str]]:
        """(down, up) since the last reset."""
        counts = self.down, self.up
        self.down, self.up = Counter(), Counter()
        return counts

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What passes in this block is no round's, and not counted."""
        counts = self.down, self.up
        self.down, self.up = Counter(), Counter()
        try:
            yield
        finally:
            self.down, self.up = counts

    def set_run(self, run: Run) -> None:
        """As the other grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """As the other grid."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """As the other grid."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """As the other grid."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Counts, then pushes."""
        messages = list(messages)
        for message in messages:
            self.down.update(count_bytes(message.content))
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pulls, then counts."""
        replies = list(self._grid.pull_messages([*message_ids, *self._overdue]))
        in_time = []
        for reply in replies:
            if reply.has_content():
                self.up.update(count_bytes(reply.content))
            if reply.metadata.reply_to_message_id in self._overdue:
                self._overdue.remove(reply.metadata.reply_to_message_id)
                if not (reply.has_error() and reply.error.code in LOST):
                    self.late += 1
            else:
                in_time.append(reply)
        return in_time

    def wait_no_longer(self, message_ids: Iterable[str]) -> None:
        """Replies to these are late from now on."""
        self._overdue.extend(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Pushes and pulls through this grid, so that all is counted."""
        return [exchange.reply for exchange in exchanges(self, messages, timeout)]


def count_bytes(content: RecordDict) -> Counter[str]:
    """Bytes of a message's content by kind, without the framing of Flower's protocol."""
    counts: Counter[str] = Counter()
    for record, arrays in content.array_records.items():
        for name, array in arrays.items():
            special, named = record.split(".")[0], name.split(".")[0]
            kind = special if special in ("control", "moments") else {"prompt": "prompts"}.get(named, named)
            counts[kind] += len(array.data) + len(name)
    for config in content.config_records.values():
        counts["config"] += config_record_to_proto(config).ByteSize()
    for metrics in content.metric_records.values():
        counts["config"] += metric_record_to_proto(metrics).ByteSize()
    return counts


@dataclass(frozen=True)
class Exchange:
    """A message's reply, and the node it was for: an error reply for a lost node does not say which it was."""

    node: int
    reply: Message

    @property
    def why(self) -> str:
        """What an error reply says, as one line: of a traceback its last, and an exception without Flower's brackets."""
        said = (self.reply.error.reason or "").strip()
        if raised := _RAISED.fullmatch(said):
            name, said = raised["name"], raised["text"].strip()
            said = said if name == NodeError.__name__ else f"{name}: {said}"
        return one_line(said)


def one_line(reason: str) -> str:
    """The first of a reason's lines; the last, of a traceback."""
    lines = reason.strip().splitlines() or ["no reason given"]
    return lines[-1 if "Traceback" in lines[0] else 0][:_LONGEST_REASON]


def exchanges(grid: Grid, messages: Iterable[Message], timeout_s: float | None) -> Generator[Exchange]:
    """Pushes messages and yields each reply as it arrives, until all are there, the time is over, or nobody asks for more.

    Between two looks for replies it pauses for a hundredth of the time since the last one came. A node that comes for a message
    later than GRACE_S after the time is over does not get it: it would work in vain, while the next round waits for it.
    """
    messages, last = list(messages), time.monotonic()
    if timeout_s is not None:
        for message in messages:
            message.metadata.ttl = timeout_s + GRACE_S
    end = None if timeout_s is None else time.monotonic() + timeout_s
    waiting = [message_id for message_id in grid.push_messages(messages) if message_id]
    node = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    try:
        while waiting and (end is None or time.monotonic() < end):
            replies = list(grid.pull_messages(waiting))
            for reply in replies:
                asked = reply.metadata.reply_to_message_id
                waiting.remove(asked)
                last = time.monotonic()
                yield Exchange(node[asked], reply)
            if waiting and not replies:
                time.sleep(min(_LONGEST_S, max(_SHORTEST_S, _SHARE * (time.monotonic() - last))))
    finally:
        if isinstance(grid, RecordingGrid):
            grid.wait_no_longer(waiting)
