"""Client states on disk: whatever happens to a file or to the disk, a client goes on from the right state or starts anew."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from client_app import state_file
from client_app.disk_store import DiskStore, peek
from client_app.state import ClientState, StateError
from client_app.state_file import Owner, pack
from client_app.state_folder import kept_runs
from tests.client_app.states import CLIENT, FITS, OWNER, RUN, on_disk, same, state
from tests.federation.test_durable import files_up_to

FOLDER = f"client-{CLIENT}"


def files(folder: Path) -> dict[str, bytes]:
    """Of the client's folder, name -> content."""
    return {path.name: path.read_bytes() for path in sorted((folder / FOLDER).iterdir())}


def test_a_new_process_finds_what_the_old_one_kept(tmp_path: Path) -> None:
    on_disk(tmp_path).keep(CLIENT, state(3))
    assert same(on_disk(tmp_path).resume(CLIENT, 3), state(3))
    assert same(on_disk(tmp_path).resume(CLIENT, 3), state(3))


def test_a_view_is_written_as_what_it_shows(tmp_path: Path) -> None:
    """Rows of a stack, parts of a row, and tensors with a gradient are fine."""
    rows = torch.arange(12.0, requires_grad=True).reshape(2, 6)
    store = on_disk(tmp_path)
    store.keep(CLIENT, ClientState(1, 0, {"prompt.0": rows[:, 1]}, rows[1, 4:]))
    found = store.resume(CLIENT, 1)
    assert found is not None
    assert found.local["prompt.0"].tolist() == [1, 7]
    assert found.control is not None
    assert found.control.tolist() == [10, 11]


def test_no_more_than_two_states_lie_there(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    for made in range(1, 6):
        store.keep(CLIENT, state(made))
        assert set(files(tmp_path)) == {f"round-{made - 1}.safetensors" for made in (made, made + 1) if made > 1}
        store.resume(CLIENT, made)


def test_as_many_accepted_states_stay_as_there_are_checkpoints(tmp_path: Path) -> None:
    """A server that goes on from an earlier one finds the client's state with it, and the later ones go."""
    store = DiskStore(tmp_path, RUN, FITS, kept=2)
    for made in (1, 2, 3, 4):
        store.keep(CLIENT, state(made))
        assert same(store.resume(CLIENT, made), state(made))
    assert set(files(tmp_path)) == {"round-3.safetensors", "round-4.safetensors"}
    assert same(store.resume(CLIENT, 3), state(3))
    assert set(files(tmp_path)) == {"round-3.safetensors"}


def test_a_state_is_on_disk_when_keep_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content, its name, and the names of the folders above it."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    on_disk(tmp_path / "clients").keep(CLIENT, state(1))
    *folders, file, last = synced
    assert folders == [str(tmp_path), str(tmp_path / "clients")]
    assert Path(file).parent == Path(last) == tmp_path / "clients" / FOLDER
    assert Path(file).name.startswith(".round-1")


# -- what is not as it should be ---------------------------------------------------------------------------


def half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path) -> None:
    """One bit of the last tensor's last value."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def of(owner: Owner, made_in: int = 1) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(pack(state(made_in), owner))


def of_form(form: int) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state_file, "FORM", form)
            path.write_bytes(pack(state(1), OWNER))

    return write


def old_form(path: Path) -> None:
    numbers = {"round": "1", "epoch": "0", "steps": "0", "warm_up": "0"}
    path.write_bytes(save({"local.prompt.1": torch.zeros(2)}, numbers))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "has no checksum"),
    "cut short": (half, "is damaged"),
    "a flipped bit": (flipped, "is damaged"),
    "nonsense": (lambda path: path.write_bytes(b"\xff" * 64), "has no checksum"),
    "an older form": (old_form, "has no checksum: it is cut short, of an older version"),
    "from the future": (of_form(9), "is of form 9"),
    "of another run": (of(Owner("else", CLIENT, FITS)), "belongs to run 'else'"),
    "of another client": (of(Owner(RUN, CLIENT + 1, FITS)), f"belongs to client {CLIENT + 1}"),
    "of another model": (of(Owner(RUN, CLIENT, "else")), "was made with another model"),
    "of another round": (of(OWNER, made_in=5), "holds the state of round 5"),
}


@pytest.mark.parametrize(("fault", "why"), FAULTS.values(), ids=FAULTS.keys())
def test_it_is_set_aside_and_counts_as_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Callable[[Path], object], why: str
) -> None:
    store = on_disk(tmp_path)
    store.keep(CLIENT, state(1))
    path = tmp_path / FOLDER / "round-1.safetensors"
    fault(path)
    content = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        assert store.resume(CLIENT, 1) is None
    assert files(tmp_path) == {"round-1.set-aside-1": content}
    (line,) = caplog.messages
    assert line.startswith(f"client {CLIENT}: {path} {why}")
    assert line.endswith("It is set aside as round-1.set-aside-1 and counts as lost")
    store.keep(CLIENT, state(2))
    assert same(store.resume(CLIENT, 2), state(2))  # and the client goes on


def test_what_is_set_aside_is_never_overwritten_or_dropped(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    for number in range(3):
        store.keep(CLIENT, state(1))
        (tmp_path / FOLDER / "round-1.safetensors").write_bytes(b"%d" % number)
        assert store.resume(CLIENT, 1) is None
    assert files(tmp_path) == {f"round-1.set-aside-{number + 1}": b"%d" % number for number in range(3)}
    assert store.resume(CLIENT, 0) is None
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("fault", [half, flipped, of(Owner("else", CLIENT, FITS), 2)], ids=["half", "bit", "foreign"])
def test_a_state_that_nobody_waits_for_is_not_dropped_unread(tmp_path: Path, fault: Callable[[Path], object]) -> None:
    """Round 2 was not accepted: its own state goes, but not somebody else's file of that name."""
    store = on_disk(tmp_path)
    store.keep(CLIENT, state(1))
    store.keep(CLIENT, state(2))
    fault(tmp_path / FOLDER / "round-2.safetensors")
    assert same(store.resume(CLIENT, 1), state(1))
    assert set(files(tmp_path)) == {"round-1.safetensors", "round-2.set-aside-1"}


def test_files_of_the_form_before_this_one_are_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FOLDER).mkdir()
    for name in ("accepted", "pending"):
        old_form(tmp_path / FOLDER / f"{name}.safetensors")
    assert on_disk(tmp_path).resume(CLIENT, 1) is None
    assert set(files(tmp_path)) == {"accepted.set-aside-1", "pending.set-aside-1"}
    assert len(caplog.messages) == 2


def test_the_clock_decides_nothing(tmp_path: Path) -> None:
    """The accepted state is the youngest and the oldest file in turn, from 1970 and from 2200."""
    for times in ((0, 7_258_118_400), (7_258_118_400, 0)):
        store = on_disk(tmp_path)
        store.keep(CLIENT, state(1))
        store.keep(CLIENT, state(2))
        for made, seconds in zip((1, 2), times, strict=True):
            os.utime(tmp_path / FOLDER / f"round-{made}.safetensors", (seconds, seconds))
        assert same(store.resume(CLIENT, 1), state(1))
        assert store.resume(CLIENT, 2) is None


# -- interrupted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_crash_in_the_middle_leaves_the_accepted_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The new state exists, whole, beside it, or not at all; what is left of it is in nobody's way."""
    store = on_disk(tmp_path)
    store.keep(CLIENT, state(1))

    def crash(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, moment, crash)
        patch.setattr(Path, "unlink", crash)  # a killed process tidies nothing up
        with pytest.raises(KeyboardInterrupt):
            store.keep(CLIENT, state(2))
    assert len(files(tmp_path)) == 2
    assert same(on_disk(tmp_path).resume(CLIENT, 1), state(1))
    assert set(files(tmp_path)) == {"round-1.safetensors"}
    store.keep(CLIENT, state(3))
    assert same(store.resume(CLIENT, 3), state(3))


def refused(store: DiskStore, tmp_path: Path, why: str) -> None:
    """Keeping fails with client, path and reason; the accepted state is whole, and nothing else lies there."""
    with pytest.raises(StateError) as caught:
        store.keep(CLIENT, state(2))
    told = str(caught.value)
    assert told.startswith(f"client {CLIENT}: its state cannot be kept in {tmp_path}/{FOLDER}/round-2.safetensors: ")
    assert why in told
    assert set(files(tmp_path)) == {"round-1.safetensors"}
    assert same(on_disk(tmp_path).resume(CLIENT, 1), state(1))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_a_reason_and_leaves_the_accepted_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = on_disk(tmp_path)
    store.keep(CLIENT, state(1))

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        refused(store, tmp_path, "[Errno 28] No space left on device")
    store.keep(CLIENT, state(2))  # there is space again
    assert same(store.resume(CLIENT, 2), state(2))


def test_a_write_that_the_system_stops_half_way_is_the_same(tmp_path: Path) -> None:
    """For real: the file may not grow beyond a quarter of the state."""
    store = on_disk(tmp_path)
    store.keep(CLIENT, state(1))
    with files_up_to(2**20), pytest.raises(StateError, match=r"Errno 27.* File too large"):
        store.keep(CLIENT, ClientState(2, 0, {}, control=torch.zeros(2**20)))
    assert set(files(tmp_path)) == {"round-1.safetensors"}
    assert same(store.resume(CLIENT, 1), state(1))


def test_a_folder_that_takes_no_file_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = on_disk(tmp_path)
    store.keep(CLIENT, state(1))
    opened = os.open

    def read_only(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY):
            raise OSError(30, "Read-only file system", path)
        return opened(path, flags, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        refused(store, tmp_path, "[Errno 30] Read-only file system")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_the_same(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    store.keep(CLIENT, state(1))
    (tmp_path / FOLDER).chmod(0o500)
    try:
        refused(store, tmp_path, "Permission denied")
    finally:
        (tmp_path / FOLDER).chmod(0o700)


def test_a_folder_that_is_gone_is_made_again_and_its_states_are_lost(tmp_path: Path) -> None:
    store = on_disk(tmp_path / "clients")
    store.keep(CLIENT, state(1))
    (tmp_path / "clients").rename(tmp_path / "away")
    assert store.resume(CLIENT, 1) is None
    store.keep(CLIENT, state(2))
    assert same(store.resume(CLIENT, 2), state(2))


def test_a_folder_that_cannot_be_made_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("a file is in the way", encoding="utf8")
    with pytest.raises(StateError, match=r"round-1\.safetensors: .Errno (17|20). "):
        on_disk(tmp_path / "clients").keep(CLIENT, state(1))


def test_a_file_that_cannot_be_read_for_now_is_left_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not damage: a disk or a right may come back, and with it the state."""
    store = on_disk(tmp_path)
    store.keep(CLIENT, state(1))

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", denied)
        with pytest.raises(StateError, match=rf"client {CLIENT}: .*Permission denied: .*round-1\.safetensors"):
            store.resume(CLIENT, 1)
    assert same(store.resume(CLIENT, 1), state(1))


def test_what_cannot_be_dropped_stays_and_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation in a folder that became read-only goes on."""
    store = on_disk(tmp_path)
    store.keep(CLIENT, state(1))
    store.keep(CLIENT, state(2))

    def refuse(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert same(store.resume(CLIENT, 1), state(1))
        assert store.resume(CLIENT, 0) is None


# -- a bound, a lock, a reader -----------------------------------------------------------------------------


def test_a_client_keeps_to_its_part_of_the_disk(tmp_path: Path) -> None:
    size = len(pack(state(1), OWNER))
    with pytest.raises(StateError, match=rf"client 7: 2 states of {size} bytes .* state-disk-mb, {2 * size - 1} by"):
        on_disk(tmp_path, part=2 * size - 1).keep(CLIENT, state(1))
    assert not list(tmp_path.rglob("*.safetensors"))
    store = on_disk(tmp_path, part=2 * size)
    for made in (1, 2, 3):  # what fits at first fits in every round
        store.keep(CLIENT, state(made))
        assert sum(map(len, files(tmp_path).values())) <= 2 * size
        assert same(store.resume(CLIENT, made), state(made))


def test_what_was_set_aside_is_in_its_part(tmp_path: Path) -> None:
    size = len(pack(state(1), OWNER))
    store = on_disk(tmp_path, part=2 * size + 10)
    store.keep(CLIENT, state(1))
    (tmp_path / FOLDER / "round-1.safetensors").write_bytes(b"x" * 11)
    assert store.resume(CLIENT, 1) is None
    with pytest.raises(StateError, match="beside 11 bytes that were set aside are more than its part"):
        store.keep(CLIENT, state(2))


def test_a_store_holds_the_runs_lock_while_it_lives(tmp_path: Path) -> None:
    folder = tmp_path / RUN / "clients"
    store, other = on_disk(folder), on_disk(folder)
    store.resume(CLIENT, 0)
    assert not tmp_path.joinpath(RUN).exists()  # asking makes nothing
    store.keep(CLIENT, state(1))
    other.resume(CLIENT, 1)  # nodes of a simulation share the folder
    store.close()
    assert kept_runs(tmp_path)[0].in_use
    other.close()
    assert not kept_runs(tmp_path)[0].in_use


def test_a_folder_that_was_made_again_is_held_again(tmp_path: Path) -> None:
    folder = tmp_path / RUN / "clients"
    store = on_disk(folder)
    store.keep(CLIENT, state(1))
    folder.rename(tmp_path / "away")
    store.keep(CLIENT, state(2))
    assert kept_runs(tmp_path)[0].in_use


def test_a_reader_beside_the_run_finds_either_phase_and_changes_nothing(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    store.keep(CLIENT, state(1))
    store.keep(CLIENT, state(4))
    before = files(tmp_path)
    assert len(before) == 2
    assert same(peek(tmp_path, RUN, CLIENT, 1), state(1))
    assert same(peek(tmp_path, RUN, CLIENT, 4), state(4))
    assert peek(tmp_path, RUN, CLIENT, 2) is None
    assert peek(tmp_path, RUN, CLIENT + 1, 1) is None
    assert peek(tmp_path, "else", CLIENT, 1) is None
    assert files(tmp_path) == before


@pytest.mark.parametrize("fault", [half, flipped, of(OWNER, 5), of(Owner(RUN, 8, FITS))])
def test_a_reader_takes_no_file_that_the_run_would_set_aside(tmp_path: Path, fault: Callable[[Path], object]) -> None:
    on_disk(tmp_path).keep(CLIENT, state(1))
    fault(tmp_path / FOLDER / "round-1.safetensors")
    before = files(tmp_path)
    assert peek(tmp_path, RUN, CLIENT, 1) is None
    assert files(tmp_path) == before
