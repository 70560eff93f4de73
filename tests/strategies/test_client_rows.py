"""Rows per client in two slots: what was accepted stays until something newer is, in memory and on disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedpeptao.errors import RunError
from strategies.client_rows import ClientRows, FileRows, MemoryRows, kept_row

SIZE, CLIENTS = 1100, 6  # more than a page of float32
Make = Callable[[Path], ClientRows]
BOTH = pytest.mark.parametrize(
    "make", [lambda path: MemoryRows(), lambda path: FileRows(path, CLIENTS, SIZE)], ids=["memory", "file"]
)


def row(number: float) -> Tensor:
    return torch.arange(SIZE, dtype=torch.float32) + number


def same(found: Tensor | None, number: float) -> bool:
    return found is not None and torch.equal(found, row(number))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "client_rows.bin"


@BOTH
def test_a_client_that_was_never_sampled_has_none(make: Make, path: Path) -> None:
    rows = make(path)
    assert rows.read(0, 0) is None
    assert rows.read(5, 3) is None


@BOTH
def test_an_accepted_row_comes_back_and_another_round_finds_nothing(make: Make, path: Path) -> None:
    rows = make(path)
    rows.write(2, 4, row(0.5), 0)
    assert same(rows.read(2, 4), 0.5)
    assert rows.read(2, 3) is None
    assert rows.read(2, 0) is None
    assert rows.read(1, 4) is None


@BOTH
def test_an_accepted_row_that_is_gone_is_an_error_and_one_of_an_older_epoch_is_not(make: Make, path: Path) -> None:
    rows = make(path)
    rows.write(2, 4, row(0.5), 0)
    assert same(kept_row(rows, 2, 4, 0), 0.5)
    assert kept_row(rows, 1, 0, 0) is None
    assert kept_row(rows, 2, 3, 3) is None
    with pytest.raises(RunError, match=r"client 2: its row of round 3 .* Start another run"):
        kept_row(rows, 2, 3, 2)


@BOTH
def test_a_round_that_did_not_end_leaves_the_accepted_row(make: Make, path: Path) -> None:
    rows = make(path)
    rows.write(2, 4, row(1), 0)
    for attempt in (7, 7, 9):
        rows.write(2, attempt, row(attempt), 4)
        assert same(rows.read(2, 4), 1)
        assert same(rows.read(2, attempt), attempt)
    rows.write(2, 12, row(12), 9)  # 9 was accepted: 4 may go
    assert same(rows.read(2, 9), 9)
    assert same(rows.read(2, 12), 12)
    assert rows.read(2, 4) is None


@BOTH
def test_what_was_read_or_written_is_the_callers_own(make: Make, path: Path) -> None:
    rows, mine = make(path), row(1)
    rows.write(0, 1, mine, 0)
    mine.zero_()
    found = rows.read(0, 1)
    rows.write(0, 2, row(2), 1)
    rows.write(0, 3, row(3), 2)
    assert same(found, 1)


ACTIONS = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=25)


@given(actions=ACTIONS)
def test_file_and_memory_agree_whatever_is_accepted(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[int, bool]]
) -> None:
    """A server samples a client in each round, and accepts the reply or not."""
    file, memory = FileRows(tmp_path_factory.mktemp("rows") / "rows.bin", 3, SIZE), MemoryRows()
    accepted = dict.fromkeys(range(3), 0)
    for server_round, (client, accept) in enumerate(actions, start=1):
        for rows in (file, memory):
            rows.write(client, server_round, row(server_round), accepted[client])
        if accept:
            accepted[client] = server_round
        for known, last in accepted.items():
            for rows in (file, memory):
                found = rows.read(known, last)
                assert found is None if last == 0 else same(found, last)


# -- the file ------------------------------------------------------------------------------------------------


def test_another_process_goes_on_with_it(path: Path) -> None:
    FileRows(path, CLIENTS, SIZE).write(5, 3, row(3), 0)
    assert same(FileRows(path, CLIENTS, SIZE).read(5, 3), 3)


def test_only_what_was_written_takes_disk(tmp_path: Path) -> None:
    """A thousand clients of a megabyte each: apparent size 2 GB, blocks for two of them."""
    size = 250_000
    rows = FileRows(tmp_path / "rows.bin", 1000, size)
    for client in (0, 999):
        rows.write(client, 1, torch.ones(size), 0)
    found = (tmp_path / "rows.bin").stat()
    assert found.st_size > 2 * 1000 * 4 * size
    assert found.st_blocks * 512 < 4 * 4 * size


def test_it_is_for_its_owner_alone(path: Path) -> None:
    FileRows(path, CLIENTS, SIZE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("clients", "size"), [(CLIENTS, SIZE + 1), (CLIENTS + 1, SIZE)])
def test_a_file_of_other_numbers_is_refused(path: Path, clients: int, size: int) -> None:
    FileRows(path, CLIENTS, SIZE)
    with pytest.raises(RunError, match=rf"{path} holds rows of {SIZE} parameters for {CLIENTS} clients .*move it away"):
        FileRows(path, clients, size)


def test_a_file_that_is_none_of_ours_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("figures of another program, long enough for a header")
    with pytest.raises(RunError, match="is not a file of client rows"):
        FileRows(path, CLIENTS, SIZE)
    assert path.read_text().startswith("figures of another program")


def test_a_file_that_was_cut_short_says_so(path: Path) -> None:
    rows = FileRows(path, CLIENTS, SIZE)
    rows.write(CLIENTS - 1, 1, row(1), 0)
    os.truncate(path, path.stat().st_size - 12 * 1024)
    with pytest.raises(RunError, match="was cut short"):
        rows.read(CLIENTS - 1, 1)


@pytest.mark.parametrize("length", [1, 20, 4096, 5000])
def test_a_file_that_was_cut_short_before_it_is_gone_on_with_is_refused(path: Path, length: int) -> None:
    FileRows(path, CLIENTS, SIZE).write(0, 1, row(1), 0)
    os.truncate(path, length)
    with pytest.raises(RunError, match=r"(was cut short|not a file of client rows).*move it away"):
        FileRows(path, CLIENTS, SIZE)
    assert path.stat().st_size == length


def test_a_folder_that_cannot_be_made_is_named_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder of the run should be")
    with pytest.raises(RunError, match=r"File exists.*set runs-dir to a folder on another disk"):
        FileRows(tmp_path / "run" / "client_rows.bin", CLIENTS, SIZE)


def test_a_row_that_was_half_written_counts_as_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of a row that takes the place of an older one."""
    rows = FileRows(path, CLIENTS, SIZE)
    rows.write(0, 1, row(1), 0)
    rows.write(0, 2, row(2), 1)
    real = os.pwrite

    def full(file: int, content: memoryview, place: int) -> int:
        if len(content) > 100:
            real(file, content[: len(content) // 2], place)
            raise OSError(28, "No space left on device")
        return real(file, content, place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(
            RunError, match=r"No space left on device. Rows of all 6 clients take 0.0 GB there: make room"
        ):
            rows.write(0, 3, row(3), 2)  # over round 1's
    assert rows.read(0, 1) is None
    assert rows.read(0, 3) is None
    assert same(rows.read(0, 2), 2)


@pytest.mark.parametrize("client", [-1, CLIENTS])
def test_a_client_that_does_not_exist_is_refused(path: Path, client: int) -> None:
    rows = FileRows(path, CLIENTS, SIZE)
    with pytest.raises(ValueError, match=f"client {client} is none of 0 to 5"):
        rows.read(client, 1)
    with pytest.raises(ValueError, match=f"client {client} is none of 0 to 5"):
        rows.write(client, 1, row(1), 0)


def test_a_row_that_does_not_fit_is_refused(path: Path) -> None:
    rows = FileRows(path, CLIENTS, SIZE)
    with pytest.raises(ValueError, match=rf"client 0: a row of shape \({SIZE - 1},\) is none of {SIZE} parameters"):
        rows.write(0, 1, torch.ones(SIZE - 1), 0)
    assert rows.read(0, 1) is None


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_is_refused_and_the_last_one_stays(path: Path, wrong: float) -> None:
    rows, bad = FileRows(path, CLIENTS, SIZE), row(2)
    rows.write(0, 1, row(1), 0)
    bad[-1] = wrong
    with pytest.raises(ValueError, match="client 0: a row that is not finite"):
        rows.write(0, 2, bad, 1)
    assert same(rows.read(0, 1), 1)


def test_a_row_whose_sum_alone_is_not_finite_is_kept(path: Path) -> None:
    rows, large = FileRows(path, CLIENTS, SIZE), torch.full((SIZE,), 3e38)
    rows.write(0, 1, large, 0)
    found = rows.read(0, 1)
    assert found is not None
    assert torch.equal(found, large)


def test_as_many_accepted_rows_stay_as_asked_for(tmp_path: Path) -> None:
    """A server may go on from as many checkpoints back."""
    rows = FileRows(tmp_path / "rows.bin", CLIENTS, SIZE, kept=2)
    for made, accepted in ((3, 0), (4, 3), (7, 4), (9, 7)):
        rows.write(5, made, row(made), accepted)
    assert [rows.read(5, made) is not None for made in (3, 4, 7, 9)] == [False, True, True, True]
    rows.write(5, 8, row(8), 4)  # it went on from before 7
    assert same(rows.read(5, 4), 4)
    assert same(rows.read(5, 8), 8)


def test_rows_of_rounds_that_were_gone_back_on_take_no_slot(tmp_path: Path) -> None:
    """A client in rounds 3, 4 and 9 and in 10, which did not end; then the server goes on from 8 and makes 9 and 10 again."""
    rows = FileRows(tmp_path / "rows.bin", CLIENTS, SIZE, kept=2)
    for made, accepted in ((3, 0), (4, 3), (9, 4), (10, 9)):
        rows.write(5, made, row(made), accepted)
    for made, accepted in ((9, 4), (10, 9), (11, 10), (12, 11)):
        rows.write(5, made, row(made + 0.5), accepted)
        assert same(rows.read(5, accepted), 4 if accepted == 4 else accepted + 0.5)
        assert same(rows.read(5, made), made + 0.5)
    assert rows.read(5, 4) is None
    assert same(rows.read(5, 10), 10.5)


# -- another number of rows that stay ------------------------------------------------------------------------


def with_rows(path: Path, kept: int) -> FileRows:
    """Of client 5 those of rounds 3, 4 and 7, and of round 9, which did not end."""
    rows = FileRows(path, CLIENTS, SIZE, kept)
    for made, accepted in ((3, 0), (4, 3), (7, 4), (9, 7)):
        rows.write(5, made, row(made), accepted)
    return rows


def found_in(rows: FileRows) -> list[int]:
    return [made for made in (3, 4, 7, 9, 11, 12) if same(rows.read(5, made), made)]


def test_with_more_rows_that_stay_all_of_before_are_there_and_more_stay(path: Path) -> None:
    assert found_in(with_rows(path, 2)) == [4, 7, 9]
    rows = FileRows(path, CLIENTS, SIZE, kept=3)
    assert found_in(rows) == [4, 7, 9]
    rows.write(5, 11, row(11), 9)
    rows.write(5, 12, row(12), 11)
    assert found_in(rows) == [7, 9, 11, 12]
    assert found_in(FileRows(path, CLIENTS, SIZE, kept=3)) == [7, 9, 11, 12]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_with_fewer_rows_that_stay_none_is_lost_until_a_newer_one_is_accepted(path: Path) -> None:
    with_rows(path, 3)
    rows = FileRows(path, CLIENTS, SIZE, kept=1)
    assert found_in(rows) == [3, 4, 7, 9]
    rows.write(5, 11, row(11), 4)  # it goes on from before 7
    assert {4, 11} <= set(found_in(rows))
    rows.write(5, 12, row(12), 11)
    assert {11, 12} <= set(found_in(FileRows(path, CLIENTS, SIZE, kept=1)))


def test_a_disk_that_is_full_while_more_slots_are_made_leaves_the_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_rows(path, 1)
    before = path.read_bytes()
    real = os.pwrite

    def full(file: int, content: memoryview, place: int) -> int:
        if len(content) == 4 * SIZE:
            raise OSError(28, "No space left on device")
        return real(file, content, place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(RunError, match=r"No space left on device.*make room"):
            FileRows(path, CLIENTS, SIZE, kept=2)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert found_in(FileRows(path, CLIENTS, SIZE, kept=2)) == [7, 9]
