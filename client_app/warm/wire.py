"""What a node's worker and those who ask it agree on: a socket of the node's own user, and frames on it.

Messages travel in Flower's own form (protobuf). The other end of a connection has to be a process of the same user: the system
says so (SO_PEERCRED), the other end is not asked.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Message
from flwr.common.serde import context_from_proto, context_to_proto, message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Context as ContextProto  # pylint: disable=no-name-in-module
from flwr.proto.message_pb2 import Message as MessageProto  # pylint: disable=no-name-in-module

TAKEN, ANSWERED, RAISED = b"T", b"A", b"R"
"""Bytes of the worker: it has the whole request and begins; a reply follows; what was raised follows."""
LIMIT_BYTES = 2**31 - 1  # of a frame; protobuf's own
_LENGTH = struct.Struct(">Q")
_PEER = struct.Struct("3i")  # pid, uid, gid
_PIECE_BYTES = 2**20


class WireError(RuntimeError):
    """The other end may not speak here, or what it says is no frame."""


class LostError(ConnectionError):
    """The other end is gone in the middle of something."""


def check_peer(connection: socket.socket, allowed: int) -> None:
    """WireError unless the process at the other end is of this user."""
    if sys.platform != "linux":
        raise WireError("this system does not say whose process is at the other end")
    _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if user != allowed:
        raise WireError(f"a process of user {user} is at the other end, not of user {allowed}")


def send_frame(connection: socket.socket, content: bytes) -> None:
    """Length (8 bytes, big-endian), then content."""
    connection.sendall(_LENGTH.pack(len(content)))
    connection.sendall(content)


def receive_frame(connection: socket.socket, limit: int = LIMIT_BYTES) -> bytes:
    """The next frame's content.

    Raises:
        WireError: it is longer than the limit; nothing of it is read.
        LostError: the other end is gone before its end.
    """
    (length,) = _LENGTH.unpack(receive(connection, _LENGTH.size))
    if length > limit:
        raise WireError(f"a frame of {length} bytes; the limit is {limit}")
    return receive(connection, length)


def receive(connection: socket.socket, length: int) -> bytes:
    """So many bytes; room is made for those that have come, not for those that are announced.

    Raises:
        LostError: the other end is gone before them.
    """
    content = bytearray()
    while len(content) < length:
        piece = connection.recv(min(_PIECE_BYTES, length - len(content)))
        if not piece:
            raise LostError(f"the other end is gone after {len(content)} of {length} bytes")
        content += piece
    return bytes(content)


def pack_message(message: Message) -> bytes:
    """As Flower sends it; its content too."""
    return message_to_proto(message).SerializeToString()


def unpack_message(content: bytes) -> Message:
    """The inverse of pack_message."""
    return message_from_proto(MessageProto.FromString(content))


def pack_context(context: Context) -> bytes:
    """As Flower sends it."""
    return context_to_proto(context).SerializeToString()


def unpack_context(content: bytes) -> Context:
    """The inverse of pack_context."""
    return context_from_proto(ContextProto.FromString(content))


def make_private_folder(folder: Path) -> None:
    """With mode 0700.

    Raises:
        WireError: it is there, and others than its owner may enter it, or it is another user's.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        facts = folder.lstat()
        if facts.st_uid != os.getuid() or facts.st_mode & 0o077 or not stat.S_ISDIR(facts.st_mode):
            raise WireError(f"{folder} is not this user's alone: remove it") from None


@contextmanager
def address(path: Path) -> Iterator[str]:
    """A socket's address in a few bytes, while this block lasts: a path of more than 107 is none."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen(path: Path) -> socket.socket:
    """A socket at this path with mode 0600; a dead one's goes."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address(path) as name:
            listener.bind(name)
        path.chmod(0o600)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def connect(path: Path) -> socket.socket:
    """To the socket at this path; OSError if nobody listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address(path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return connection
