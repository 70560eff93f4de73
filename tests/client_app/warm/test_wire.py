"""Frames, and who may speak."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_app.warm import wire
from tests.client_app.warm.stand_in import context, message

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Pair]:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        yield one, other


def test_frames_arrive_one_by_one(ends: Pair) -> None:
    for content in (b"", b"abc", bytes(100_000)):
        wire.send_frame(ends[0], content)
    assert [wire.receive_frame(ends[1]) for _ in range(3)] == [b"", b"abc", bytes(100_000)]


def test_a_frame_over_the_limit_is_refused_before_it_is_read(ends: Pair) -> None:
    wire.send_frame(ends[0], bytes(10))
    assert wire.receive_frame(ends[1], limit=10) == bytes(10)
    wire.send_frame(ends[0], bytes(11))
    with pytest.raises(wire.WireError, match="a frame of 11 bytes; the limit is 10"):
        wire.receive_frame(ends[1], limit=10)
    assert ends[1].recv(100) == bytes(11)


def test_a_frame_that_ends_early_is_lost(ends: Pair) -> None:
    ends[0].sendall((5).to_bytes(8, "big") + b"abc")
    ends[0].close()
    with pytest.raises(wire.LostError, match="3 of 5"):
        wire.receive_frame(ends[1])


def test_only_processes_of_the_user_may_speak(ends: Pair) -> None:
    wire.check_peer(ends[0], os.getuid())
    with pytest.raises(wire.WireError, match=f"of user {os.getuid()} is at the other end"):
        wire.check_peer(ends[0], os.getuid() + 1)


def test_a_socket_is_the_users_alone_however_long_its_path(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    wire.make_private_folder(folder)
    path = folder / "a.sock"
    assert len(str(path)) > 107
    path.touch()  # what a dead one left
    with wire.listen(path) as listener, wire.connect(path):
        listener.accept()[0].close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with pytest.raises(ConnectionRefusedError):
        wire.connect(path)


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    for mode in (0o710, 0o701, 0o755):
        (tmp_path / "open").mkdir(exist_ok=True)
        (tmp_path / "open").chmod(mode)
        with pytest.raises(wire.WireError, match="not this user's alone"):
            wire.make_private_folder(tmp_path / "open")
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(wire.WireError, match="not this user's alone"):
        wire.make_private_folder(tmp_path / "link")


def test_what_travels_comes_out_as_it_went_in() -> None:
    sent = message("train")
    found = wire.unpack_message(wire.pack_message(sent))
    assert (found.content, found.metadata) == (sent.content, sent.metadata)
    assert wire.unpack_context(wire.pack_context(context(3))) == context(3)
