"""The worker's loop, in a thread: who is answered, who is not, when it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client_app.warm import wire
from client_app.warm.owner import Owner
from client_app.warm.worker import Worker
from tests.client_app.warm.stand_in import context, message


def echo(asked: Message, told: Context) -> Message:
    return Message(RecordDict({"reply": ConfigRecord({"run": told.run_id})}), reply_to=asked)


@dataclass
class Served:
    worker: Worker
    path: Path
    thread: threading.Thread

    def request(self, *parts: bytes) -> socket.socket:
        connection = wire.connect(self.path)
        connection.settimeout(10)
        with contextlib.suppress(BrokenPipeError):  # refused before it was sent
            for part in parts:
                wire.send_frame(connection, part)
        return connection

    def asked(self) -> Message:
        with self.request(wire.pack_message(message("a")), wire.pack_context(context(5))) as connection:
            assert wire.receive(connection, 2) == wire.TAKEN + wire.ANSWERED
            return wire.unpack_message(wire.receive_frame(connection))


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    def start(idle_s: float = 60.0, **told: int) -> Served:
        path = tmp_path / "a.sock"
        worker = Worker(wire.listen(path), path, echo, idle_s, **told)
        thread = threading.Thread(target=worker.serve, daemon=True)
        thread.start()
        return Served(worker, path, thread)

    return start


def test_it_answers_one_after_the_other_and_ends_when_nobody_asks(serve: Serve) -> None:
    served = serve(idle_s=2.0)
    assert [served.asked().content.config_records["reply"]["run"] for _ in range(2)] == [5, 5]
    served.thread.join(timeout=30)
    assert not served.path.exists()
    with pytest.raises(FileNotFoundError):
        wire.connect(served.path)


def test_another_users_process_is_not_heard(serve: Serve) -> None:
    served = serve(user=os.getuid() + 1)
    with served.request() as connection:
        assert connection.recv(1) == b""


def test_too_long_a_request_and_one_that_is_none_cost_only_themselves(serve: Serve) -> None:
    served = serve(limit=10_000)
    for parts in ([bytes(10_001)], [b"\xff\xff", b""]):
        with served.request(*parts) as connection:
            assert _said(connection) == b""
    with served.request(b"cut"):
        pass
    assert served.asked().has_content()


def _said(connection: socket.socket) -> bytes:
    """Until it hangs up, politely or not."""
    try:
        return connection.recv(1)
    except ConnectionResetError:
        return b""


def test_a_number_that_came_again_is_no_owner() -> None:
    me = Owner.of(os.getpid())
    assert me.lives
    assert not Owner(me.pid, me.started + 1).lives
    with pytest.raises(ProcessLookupError):
        Owner.of(2**22 + 1)


def test_a_dead_child_is_no_owner() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # dead, and still in the table
    with pytest.raises(ProcessLookupError, match="has ended"):
        Owner.of(child)
    os.waitpid(child, 0)
