"""The lock by which a run that is going on is told from one whose server died, and a look at it that disturbs neither."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from federation import locks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "metrics.jsonl"
    place.touch()
    return place


def test_it_is_taken_until_its_file_is_closed_and_by_one_alone(path: Path) -> None:
    assert not locks.is_taken(path)
    with path.open("a") as server, path.open("a") as second:
        locks.take(server)
        assert locks.is_taken(path)
        with pytest.raises(BlockingIOError):
            locks.take(second)
    assert not locks.is_taken(path)


def test_a_look_is_no_second_server(path: Path) -> None:
    """Who takes it while somebody looks waits for the end of the look."""
    with path.open("rb") as look, path.open("a") as server:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(locks._LOOK_S / 4, look.close).start()
        locks.take(server)
        assert locks.is_taken(path)


def test_where_it_cannot_be_told_it_counts_as_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(file: object, how: int) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", unsupported)
    assert locks.is_taken(path)
    assert locks.is_taken(path.parent / "not-there")
