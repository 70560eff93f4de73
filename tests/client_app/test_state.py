"""Two phases: a state counts once the server has accepted the round that made it (section 2.5 of docs/ALGORITHMS.md)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client_app.state import ClientState, DiskStore, MemoryStore, StateStore

CLIENT = 7


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StateStore:
    return MemoryStore() if request.param == "memory" else DiskStore(tmp_path)


def state(made_in: int, epoch: int = 0) -> ClientState:
    """All fields differ from their defaults."""
    local = {"prompt.1": torch.tensor([made_in + 0.25, -1.0]), "prompt.4": torch.full((2, 3), 0.5)}
    moments = torch.tensor([[made_in + 0.75, 1.0], [2.0, 3.0]])
    return ClientState(
        made_in,
        epoch,
        local,
        torch.tensor([made_in + 0.5]),
        moments,
        made_in + 9,
        True,
        torch.tensor([made_in + 0.125]),
    )


def same(a: ClientState | None, b: ClientState | None) -> bool:
    if a is None or b is None:
        return a is b
    numbers = [(s.round, s.epoch, s.steps, s.warm_up, sorted(s.local)) for s in (a, b)]
    pairs = [(a.local[name], b.local[name]) for name in a.local if name in b.local]
    optional = [(getattr(a, name), getattr(b, name)) for name in ("control", "moments", "residual")]
    pairs += [(x, y) for x, y in optional if x is not None and y is not None]
    absent = all((x is None) == (y is None) for x, y in optional)
    return numbers[0] == numbers[1] and absent and all(torch.equal(x, y) for x, y in pairs)


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


@given(actions=ACTIONS)
def test_disk_and_memory_agree_and_never_give_another_round(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    disk, memory = DiskStore(tmp_path_factory.mktemp("states")), MemoryStore()
    for what, number in actions:
        if what == "keep":
            disk.keep(CLIENT, state(number + 1))
            memory.keep(CLIENT, state(number + 1))
        else:
            found = disk.resume(CLIENT, number)
            assert same(found, memory.resume(CLIENT, number))
            assert found is None or same(found, state(number))


# -- only on disk ------------------------------------------------------------------------------------------


def test_a_new_process_finds_what_the_old_one_kept(tmp_path: Path) -> None:
    DiskStore(tmp_path).keep(CLIENT, state(3))
    assert same(DiskStore(tmp_path).resume(CLIENT, 3), state(3))
    assert same(DiskStore(tmp_path).resume(CLIENT, 3), state(3))


def test_a_view_is_written_as_what_it_shows(tmp_path: Path) -> None:
    """Rows of a stack, parts of a row, and tensors with a gradient are fine."""
    rows = torch.arange(12.0, requires_grad=True).reshape(2, 6)
    store = DiskStore(tmp_path)
    store.keep(CLIENT, ClientState(1, 0, {"prompt.0": rows[:, 1]}, rows[1, 4:]))
    found = store.resume(CLIENT, 1)
    assert found is not None
    assert found.local["prompt.0"].tolist() == [1, 7]
    assert found.control is not None
    assert found.control.tolist() == [10, 11]


def test_a_client_with_nothing_of_its_own_keeps_its_round(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.keep(CLIENT, ClientState(1, 0, {}))
    assert same(store.resume(CLIENT, 1), ClientState(1, 0, {}))


def half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def without_metadata(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"local": torch.zeros(1), "control": torch.zeros(1)}, path)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "half": half,
    "nonsense": lambda path: path.write_bytes(b"\xff" * 64),
    "without metadata": without_metadata,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("phase", ["accepted", "pending"])
def test_a_damaged_file_is_set_aside_and_counts_as_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object], phase: str
) -> None:
    store = DiskStore(tmp_path)
    store.keep(CLIENT, state(1))
    if phase == "accepted":
        store.resume(CLIENT, 1)
    (path,) = tmp_path.rglob(f"{phase}.safetensors")
    damage(path)
    damaged = path.read_bytes()
    assert store.resume(CLIENT, 1) is None
    assert path.with_suffix(".damaged").read_bytes() == damaged
    assert str(path) in caplog.text
    store.keep(CLIENT, state(2))
    assert same(store.resume(CLIENT, 2), state(2))


def test_a_damaged_pending_file_leaves_the_accepted_state(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.keep(CLIENT, state(1))
    store.resume(CLIENT, 1)
    store.keep(CLIENT, state(2))
    (path,) = tmp_path.rglob("pending.safetensors")
    half(path)
    assert same(store.resume(CLIENT, 1), state(1))


def test_a_crash_between_write_and_replace_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DiskStore(tmp_path)
    store.keep(CLIENT, state(1))

    def crash(source: object, target: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            store.keep(CLIENT, state(2))
    assert same(DiskStore(tmp_path).resume(CLIENT, 1), state(1))


def test_a_crash_while_writing_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, write = DiskStore(tmp_path), Path.write_bytes
    store.keep(CLIENT, state(1))

    def half_written(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half_written)
        with pytest.raises(OSError, match="no space"):
            store.keep(CLIENT, state(2))
    assert same(DiskStore(tmp_path).resume(CLIENT, 1), state(1))
    store.keep(CLIENT, state(3))  # what the crash left behind is in nobody's way
    assert same(store.resume(CLIENT, 3), state(3))


def test_a_reader_beside_the_run_finds_either_phase_and_changes_nothing(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.keep(CLIENT, state(1))
    store.resume(CLIENT, 1)
    store.keep(CLIENT, state(4))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert len(before) == 2
    assert same(store.peek(CLIENT, 1), state(1))
    assert same(store.peek(CLIENT, 4), state(4))
    assert store.peek(CLIENT, 2) is None
    assert store.peek(CLIENT + 1, 1) is None
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before
    (damaged,) = tmp_path.rglob("accepted.safetensors")
    damaged.write_bytes(b"torn")
    assert store.peek(CLIENT, 1) is None
    assert same(store.peek(CLIENT, 4), state(4))
    assert damaged.read_bytes() == b"torn"
