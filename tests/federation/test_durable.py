"""Whole or not there, and on disk before anybody is told."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.durable import make_folder, sync_folder, tidy, write_atomically


def place_of(descriptor: int) -> Path:
    """The path behind a descriptor."""
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the disk, in its order."""
    asked: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        path = place_of(descriptor)
        asked.append(f"folder {path.name} on disk" if path.is_dir() else f"{path.stat().st_size} bytes on disk")
        fsync(descriptor)

    def replaced(source: str, target: Path) -> None:
        asked.append(f"renamed to {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return asked


def test_the_content_is_on_disk_before_its_name_and_the_name_before_the_end(tmp_path: Path, done: list[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_atomically(folder / "file", b"content")
    assert done == ["7 bytes on disk", "renamed to file", "folder folder on disk"]


def test_a_new_folder_is_on_disk_in_the_one_above(tmp_path: Path, done: list[str]) -> None:
    base = tmp_path / "base"
    base.mkdir()
    make_folder(base / "a" / "b")
    assert (base / "a" / "b").is_dir()
    assert done == ["folder base on disk", "folder a on disk"]
    make_folder(base / "a" / "b")
    assert len(done) == 2  # nothing to do


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_a_file_is_the_process_owners_choice(tmp_path: Path, umask: int, mode: int) -> None:
    """`fedpeptao start` takes all rights of others away: states and messages lie on its disk."""
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"content"
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond it, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_system_stops_half_way_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"old")
    with files_up_to(2**20), pytest.raises(OSError, match="File too large"):
        write_atomically(tmp_path / "file", bytes(2**21))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def killed_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a process leaves that was killed before the file had its name."""

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    before = set(path.parent.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "unlink", lambda path, missing_ok: None)  # it does nothing more
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, b"new")
    (left,) = set(path.parent.iterdir()) - before
    return left


def test_what_a_killed_write_left_is_tidied_away_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "0123456789abcdef"
    others = [
        "file",
        ".file",
        f"file.{token}",
        f".{token}",
        f".file.{token[:-1]}",
        f".file.{token}0",
        f".file.{token[:-1]}g",
    ]
    for name in others:
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / f".folder.{token}").mkdir()
    (tmp_path / f".link.{token}").symlink_to(tmp_path / "file")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / f".file.{token}").write_bytes(b"another's")
    before = sorted(tmp_path.rglob("*"))
    left = [killed_writing(tmp_path / name, monkeypatch).name for name in ("file", "a.b.c")]
    spared = killed_writing(tmp_path / "page.html", monkeypatch)
    assert tidy(tmp_path, spared="page.html") == sorted(left)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, spared])
    assert tidy(tmp_path / "nowhere") == []


def test_what_cannot_be_tidied_away_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = killed_writing(tmp_path / "file", monkeypatch)

    def refuse(path: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert tidy(tmp_path) == []
    assert left.exists()


def test_a_file_system_that_cannot_sync_a_folder_is_no_error_and_a_broken_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = errno.EINVAL

    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    sync_folder(tmp_path)
    code = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
