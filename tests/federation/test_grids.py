"""The grid in this process serialises as Flower does; bytes are counted by kind; a round's replies have a deadline."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import config_record_to_proto, metric_record_to_proto

from federation.grids import Exchange, InProcessGrid, RecordingGrid, count_bytes, exchanges


def content(value: float = 1.0) -> RecordDict:
    return RecordDict(
        {
            "shared": ArrayRecord({"prompt.1": Array(np.full((2, 3), value, np.float32))}),
            "clients": ConfigRecord({"ids": [4, 5]}),
        }
    )


def values(message: Message) -> np.ndarray:
    return message.content.array_records["shared"]["prompt.1"].numpy()


class Node:
    """A client app that writes into whatever it gets and sends, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[np.ndarray, list[int]]] = []
        self.sent: list[RecordDict] = []

    def __call__(self, message: Message, context: Context) -> Message:
        self.seen.append((values(message).copy(), list(message.content.config_records["clients"]["ids"])))  # type: ignore[arg-type]
        array = values(message)
        array += 100
        message.content.array_records["shared"]["prompt.1"] = Array(array)
        message.content["clients"]["ids"].append(99)
        self.sent.append(content(7.0))
        return Message(self.sent[-1], reply_to=message)


def grid_of(app: object, nodes: int = 2) -> InProcessGrid:
    return InProcessGrid(app, {"rounds": 3}, nodes, {"state-dir": "/s"})  # type: ignore[arg-type]


# -- in this process ---------------------------------------------------------------------------------------


def test_nothing_is_shared_between_the_ends_or_the_nodes() -> None:
    """All messages of a round share their records here, and no node may see what another wrote into its own."""
    node = Node()
    grid, sent = grid_of(node), content()
    replies = list(exchanges(grid, [Message(sent, number, "train") for number in grid.get_node_ids()], 10))
    assert len(node.seen) == 2
    for array, ids in node.seen:
        assert np.array_equal(array, np.ones((2, 3), np.float32))
        assert ids == [4, 5]
    assert np.array_equal(sent.array_records["shared"]["prompt.1"].numpy(), np.ones((2, 3)))
    assert sent["clients"] == ConfigRecord({"ids": [4, 5]})
    node.sent[0]["clients"]["ids"].append(99)
    node.sent[0].array_records["shared"]["prompt.1"] = Array(np.zeros(1, np.float32))
    assert replies[0].reply.content["clients"]["ids"] == [4, 5]
    assert np.array_equal(values(replies[0].reply), np.full((2, 3), 7.0))


def test_a_message_is_what_it_was_when_it_was_pushed() -> None:
    node, sent = Node(), content()
    grid = grid_of(node)
    ids = list(grid.push_messages([Message(sent, 1000, "train")]))
    sent.array_records["shared"]["prompt.1"] = Array(np.zeros((2, 3), np.float32))
    sent["clients"]["ids"].clear()  # type: ignore[union-attr]
    assert node.seen == []  # answered when the reply is pulled
    assert len(list(grid.pull_messages(ids))) == 1
    assert node.seen[0][1] == [4, 5]
    assert float(node.seen[0][0].sum()) == 6.0


def test_replies_come_one_at_a_time_and_once() -> None:
    grid = grid_of(Node(), nodes=3)
    ids = list(grid.push_messages([Message(content(), node, "train") for node in grid.get_node_ids()]))
    assert len(set(ids)) == 3
    for asked in ids:
        (reply,) = grid.pull_messages(ids)
        assert reply.metadata.reply_to_message_id == asked
    assert list(grid.pull_messages(ids)) == []
    assert list(grid.pull_messages(["unknown"])) == []


def test_all_at_once_as_flowers_own_verb() -> None:
    grid = grid_of(Node())
    for whole in (grid, RecordingGrid(grid)):
        replies = list(whole.send_and_receive([Message(content(), node, "train") for node in grid.get_node_ids()]))
        assert sorted(reply.metadata.src_node_id for reply in replies) == [1000, 1001]


def test_nodes_know_who_they_are_and_keep_their_state() -> None:
    seen: list[tuple[object, ...]] = []

    def app(message: Message, context: Context) -> Message:
        state = context.state.config_records.setdefault("calls", ConfigRecord({"n": 0}))
        state["n"] = int(state["n"]) + 1  # type: ignore[arg-type]
        seen.append((context.node_id, dict(context.node_config), dict(context.run_config), state["n"]))
        return Message(content(), reply_to=message)

    grid = grid_of(app)
    for _ in range(2):
        list(exchanges(grid, [Message(content(), 1001, "train")], 10))
    told = {"partition-id": 1, "num-partitions": 2, "state-dir": "/s"}
    assert seen == [(1001, told, {"rounds": 3}, 1), (1001, told, {"rounds": 3}, 2)]


@pytest.mark.parametrize("error", [ValueError("no such thing"), KeyError("k"), MemoryError("all gone")])
def test_an_app_that_raises_gives_an_error_reply_and_the_others_answer(error: Exception) -> None:
    def app(message: Message, context: Context) -> Message:
        if context.node_id == 1000:
            raise error
        return Message(content(), reply_to=message)

    grid = grid_of(app)
    found = {e.node: e.reply for e in exchanges(grid, [Message(content(), n, "train") for n in (1000, 1001)], 10)}
    assert not found[1001].has_error()
    assert found[1000].has_error()
    assert found[1000].error.code == 2
    assert found[1000].error.reason == f"{type(error).__name__}: {error}"


# -- bytes -------------------------------------------------------------------------------------------------

NPY_HEADER = 128


def everything() -> RecordDict:
    return RecordDict(
        {
            "shared": ArrayRecord(
                {"prompt.1": Array(np.zeros((2, 3), np.float32)), "head.w": Array(np.zeros(5, np.float16))}
            ),
            "control": ArrayRecord(
                {"prompt.1": Array(np.zeros(7, np.float32)), "head.w": Array(np.zeros(1, np.float32))}
            ),
            "moments.3": ArrayRecord({"values": Array(np.zeros(4, np.float32))}),
            "round": ConfigRecord({"round": 3, "labels": ["a", "b"]}),
            "clients": ConfigRecord({"ids": [1, 2]}),
            "figures": MetricRecord({"loss": 0.5}),
        }
    )


def test_bytes_by_kind_by_hand() -> None:
    found, sent = count_bytes(everything()), everything()
    assert found["prompts"] == NPY_HEADER + 6 * 4 + len("prompt.1")
    assert found["head"] == NPY_HEADER + 5 * 2 + len("head.w")
    assert found["control"] == 2 * NPY_HEADER + 7 * 4 + 1 * 4 + len("prompt.1") + len("head.w")
    assert found["moments"] == NPY_HEADER + 4 * 4 + len("values")
    configs = sum(len(config_record_to_proto(record).SerializeToString()) for record in sent.config_records.values())
    metrics = sum(len(metric_record_to_proto(record).SerializeToString()) for record in sent.metric_records.values())
    assert found["config"] == configs + metrics
    assert metrics > 8  # a float64 at least
    assert set(found) == {"prompts", "head", "control", "moments", "config"}


def test_both_ways_are_counted_apart_and_errors_weigh_nothing() -> None:
    def app(message: Message, context: Context) -> Message:
        if context.node_id == 1002:
            return Message(Error(5, "lost"), reply_to=message)
        return Message(everything(), reply_to=message)

    grid = RecordingGrid(grid_of(app, nodes=3))
    for node in (1000, 1001, 1002):
        list(exchanges(grid, [Message(content(), node, "train")], 10))
    down, up = grid.reset()
    assert {kind: n / 3 for kind, n in down.items()} == count_bytes(content())
    assert {kind: n / 2 for kind, n in up.items()} == count_bytes(everything())
    assert [counter.total() for counter in grid.reset()] == [0, 0]


# -- a deadline --------------------------------------------------------------------------------------------


class Clock:
    """Time passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[tuple[float, float]]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append((self.now, seconds))
        self.now += seconds

    def after(self, at: float) -> float:
        """The first sleep from then on."""
        return next(seconds for now, seconds in self.slept if now >= at - 1e-9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """That of the module under test."""
    clock = Clock()
    monkeypatch.setattr("federation.grids.time", clock)
    return clock


class Slow(InProcessGrid):
    """Answers each pull with what is due by then: node -> seconds after the push; some never."""

    def __init__(self, due_s: dict[int, float], clock: Clock) -> None:
        self._clock = clock
        super().__init__(lambda message, context: Message(content(), reply_to=message), {}, len(due_s))
        self._due, self._start, self._for = due_s, 0.0, {}  # type: ignore[var-annotated]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        self._start = self._clock.monotonic()
        self._for = {i: m.metadata.dst_node_id for i, m in zip(ids, messages, strict=True)}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        passed = self._clock.monotonic() - self._start
        return super().pull_messages([i for i in message_ids if self._due[self._for[i]] <= passed])


def test_replies_are_yielded_as_they_arrive_until_the_deadline(clock: Clock) -> None:
    grid = Slow({1000: 0.2, 1001: 0.0, 1002: 3600.0}, clock)
    messages = [Message(content(), node, "train") for node in (1000, 1001, 1002)]
    found = [(e.node, clock.now) for e in exchanges(grid, messages, 0.5)]
    assert found == [(1001, 0.0), (1000, pytest.approx(0.2))]
    assert clock.now == pytest.approx(0.5, abs=0.06)


def test_without_a_deadline_it_ends_with_the_last_reply(clock: Clock) -> None:
    grid = Slow({1000: 0.05, 1001: 0.0}, clock)
    found = list(exchanges(grid, [Message(content(), node, "train") for node in (1000, 1001)], None))
    assert [e.node for e in found] == [1001, 1000]
    assert list(exchanges(grid, [], None)) == []


def test_the_longer_nobody_replies_the_longer_it_pauses(clock: Clock) -> None:
    grid = Slow({1000: 20.0, 1001: 20.2, 1002: 3600.0}, clock)
    found = list(exchanges(grid, [Message(content(), node, "train") for node in (1000, 1001, 1002)], 100.0))
    assert [e.node for e in found] == [1000, 1001]
    assert [clock.after(at) for at in (0.0, 4.9, 10.0, 19.0)] == pytest.approx([0.05, 0.05, 0.1, 0.19], abs=0.002)
    assert clock.after(20.25) == 0.05, "a reply came"
    assert clock.after(90.0) == 0.5


def test_a_message_that_flower_does_not_take_is_not_waited_for(clock: Clock) -> None:
    class Refusing(Slow):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            _, *rest = super().push_messages(messages)
            return ["", *rest]

    grid = Refusing({1000: 0.0, 1001: 0.0}, clock)
    found = list(exchanges(grid, [Message(content(), node, "train") for node in (1000, 1001)], 30))
    assert [e.node for e in found] == [1001]
    assert clock.now == 0.0


def test_an_error_reply_is_matched_by_its_question() -> None:
    """For a lost node Flower gives node 1 as the source."""

    def app(message: Message, context: Context) -> Message:
        reply = Message(Error(5, "lost"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = 1
        return reply

    (found,) = exchanges(grid_of(app), [Message(content(), 1001, "train")], 10)
    assert (found.node, found.reply.metadata.src_node_id) == (1001, 1)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("", "no reason given"),
        ("Error: Node Unavailable", "Error: Node Unavailable"),
        ("first\nsecond", "first"),
        ("OSError: Traceback\n  File\nOSError: no such model", "OSError: no such model"),
        (
            "<class 'federation.messages.NodeError'>:<'InputError in data: more is in the log'>",
            "InputError in data: more is in the log",
        ),
        ("<class 'MemoryError'>:<'8 GB\nof them'>", "MemoryError: 8 GB"),
    ],
)
def test_an_error_reply_is_told_as_one_line(said: str, shown: str) -> None:
    error = Message(Error(2, said), reply_to=Message(content(), 1001, "train"))
    assert Exchange(1001, error).why == shown
