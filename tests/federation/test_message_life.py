"""How long Flower hands out a message, and takes its reply: as long as somebody waits, in Flower's own states of a SuperLink."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from uuid import uuid4

import pytest
from flwr.app import DEFAULT_TTL, ConfigRecord, Message, RecordDict
from flwr.app.message import message as flowers_messages
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION, RunType
from flwr.supercore.date import now
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

from federation import grids
from federation.grids import RecordingGrid, exchanges

AHEAD_S = 5.0  # a node's clock may be so far ahead of the SuperLink's


class SuperLink(InMemoryGrid):
    """One with a run and a node that is there, which answers when a test lets it."""

    def __init__(self, database: str) -> None:
        factory = LinkStateFactory(database, NoOpFederationManager(), ObjectStoreFactory())
        super().__init__(factory)
        state: LinkState = factory.state()
        self.node_id = state.create_node("owner", "owner", b"key", 30)
        assert state.acknowledge_node_heartbeat(self.node_id, 30)
        run = state.create_run("app", "1", "hash", {}, NOOP_FEDERATION, None, "owner", RunType.SERVER_APP)
        self.set_run(state.get_run_info(run_ids=[run])[0])

    def message(self) -> Message:
        return Message(RecordDict({"round": ConfigRecord({"round": 1})}), self.node_id, "train")

    def handed_out(self) -> list[Message]:
        return self.state.get_message_ins(self.node_id, 1)

    def takes(self, reply: Message) -> bool:
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        return self.state.store_message_res(reply) is not None


@pytest.fixture(params=[FLWR_IN_MEMORY_DB_NAME, ":memory:"], ids=["a simulation's", "a deployment's"])
def superlink(request: pytest.FixtureRequest) -> SuperLink:
    return SuperLink(request.param)


def test_a_node_that_comes_late_gets_the_round_that_goes_on_and_none_before(
    superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what nobody fetched is no late reply."""
    monkeypatch.setattr(grids, "GRACE_S", 0.2)
    grid = RecordingGrid(superlink)
    assert [list(exchanges(grid, [superlink.message()], 0.01)) for _ in range(3)] == [[], [], []]
    time.sleep(0.3)
    (current,) = grid.push_messages([superlink.message()])
    assert [message.metadata.message_id for message in superlink.handed_out()] == [current]
    assert grid.pull_messages([]) == []
    assert (grid.late, grid._overdue) == (0, [])


def test_a_reply_in_time_is_taken_whatever_the_nodes_clock_says(
    superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline_s = 0.5
    then = timedelta(seconds=deadline_s + AHEAD_S)  # the last moment, by the node's clock

    def pull(message_ids: Iterable[str]) -> Iterable[Message]:
        for message in superlink.handed_out():
            with monkeypatch.context() as patch:
                patch.setattr(flowers_messages, "now", lambda: now() + then)
                reply = Message(RecordDict(), reply_to=message)
            assert superlink.takes(reply)
        return InMemoryGrid.pull_messages(superlink, message_ids)

    monkeypatch.setattr(superlink, "pull_messages", pull)
    (exchange,) = exchanges(superlink, [superlink.message()], deadline_s)
    assert exchange.reply.has_content()


def test_a_reply_soon_after_the_deadline_is_counted_as_late(superlink: SuperLink) -> None:
    grid = RecordingGrid(superlink)
    assert not list(exchanges(grid, [superlink.message()], 0.01))
    (message,) = superlink.handed_out()
    assert superlink.takes(Message(RecordDict(), reply_to=message))
    assert grid.pull_messages([]) == []
    assert grid.late == 1


@pytest.mark.parametrize(("deadline_s", "life"), [(None, DEFAULT_TTL), (600.0, 660.0), (100_000.0, 100_060.0)])
def test_it_lives_as_long_as_somebody_waits(
    superlink: SuperLink, monkeypatch: pytest.MonkeyPatch, deadline_s: float | None, life: float
) -> None:
    """Without a deadline, as long as Flower says; with a long one for longer."""
    message = superlink.message()
    replies = exchanges(superlink, [message], deadline_s)
    monkeypatch.setattr(superlink, "pull_messages", lambda ids: [Message(RecordDict(), reply_to=message)])
    assert len(list(replies)) == 1
    assert message.metadata.ttl == life
