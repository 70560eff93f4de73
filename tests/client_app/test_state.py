"""Two phases: a state counts once the server has accepted the round that made it (section 2.5 of docs/ALGORITHMS.md)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.state import MemoryStore, StateStore
from tests.client_app.states import CLIENT, on_disk, same, state


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StateStore:
    return MemoryStore() if request.param == "memory" else on_disk(tmp_path)


def test_a_new_client_has_no_state(store: StateStore) -> None:
    assert store.resume(CLIENT, 0) is None
    assert store.resume(CLIENT, 3) is None


def test_an_accepted_state_comes_back_whole(store: StateStore) -> None:
    store.keep(CLIENT, state(3, epoch=2))
    assert same(store.resume(CLIENT, 3), state(3, epoch=2))


def test_a_lost_reply_leaves_the_state_before_it(store: StateStore) -> None:
    store.keep(CLIENT, state(1))
    store.resume(CLIENT, 1)
    store.keep(CLIENT, state(4))
    assert same(store.resume(CLIENT, 1), state(1))
    assert store.resume(CLIENT, 4) is None  # and 4 is gone for good


def test_a_first_reply_that_is_lost_leaves_nothing(store: StateStore) -> None:
    store.keep(CLIENT, state(1))
    assert store.resume(CLIENT, 0) is None
    assert store.resume(CLIENT, 1) is None


def test_a_message_that_comes_again_finds_the_same_state(store: StateStore) -> None:
    store.keep(CLIENT, state(1))
    for _ in range(3):
        assert same(store.resume(CLIENT, 1), state(1))
        store.keep(CLIENT, state(2))


def test_evaluation_in_between_commits_and_changes_nothing_else(store: StateStore) -> None:
    store.keep(CLIENT, state(1))
    assert same(store.resume(CLIENT, 1), state(1))
    assert same(store.resume(CLIENT, 1), state(1))


def test_a_later_pending_state_replaces_an_earlier_one(store: StateStore) -> None:
    store.keep(CLIENT, state(1))
    store.keep(CLIENT, state(2))
    assert same(store.resume(CLIENT, 2), state(2))


def test_a_round_that_nobody_knows_is_a_lost_state(store: StateStore) -> None:
    """A server that resumed from long ago, or a disk restored from another day: start anew, never from a wrong state."""
    store.keep(CLIENT, state(5))
    store.resume(CLIENT, 5)
    store.keep(CLIENT, state(8))
    assert store.resume(CLIENT, 3) is None
    assert store.resume(CLIENT, 5) is None
    assert store.resume(CLIENT, 8) is None


def test_a_server_that_resumes_before_the_pending_round_still_finds_the_accepted_one(store: StateStore) -> None:
    store.keep(CLIENT, state(5))
    store.resume(CLIENT, 5)
    store.keep(CLIENT, state(8))  # the server accepted 8, crashed, and goes on from a checkpoint that knows only 5
    assert same(store.resume(CLIENT, 5), state(5))
    store.keep(CLIENT, state(8, epoch=1))
    assert same(store.resume(CLIENT, 8), state(8, epoch=1))


def test_clients_do_not_share_states(store: StateStore) -> None:
    store.keep(1, state(1))
    store.keep(11, state(2))
    assert same(store.resume(1, 1), state(1))
    assert same(store.resume(11, 2), state(2))
    assert store.resume(2, 1) is None


ACTIONS = st.lists(st.tuples(st.sampled_from(["resume", "keep"]), st.integers(0, 4)), max_size=20)


@given(actions=ACTIONS, kept=st.integers(1, 3))
def test_disk_and_memory_agree_and_never_give_another_round(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]], kept: int
) -> None:
    disk, memory = on_disk(tmp_path_factory.mktemp("states"), kept=kept), MemoryStore(kept)
    for what, number in actions:
        if what == "keep":
            disk.keep(CLIENT, state(number + 1))
            memory.keep(CLIENT, state(number + 1))
        else:
            found = disk.resume(CLIENT, number)
            assert same(found, memory.resume(CLIENT, number))
            assert found is None or same(found, state(number))
