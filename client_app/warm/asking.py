"""Passing a message on to the node's worker, which is started when there is none. Loads no torch.

A worker is of one run of one node's life: it goes with the process that starts the node's client processes, and its socket's
name holds that, the run, the application's folder and the Python. So no other version, run, or file of a run before is in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Message

from client_app.warm import wire
from client_app.warm.owner import Owner
from federation.messages import NodeError
from federation.node_config import NodeConfig

FOLDER = ".worker"
"""In the node's folder of states."""
APPLICATION = Path(__file__).resolve().parent.parent.parent
_TRIES = 3

logger = logging.getLogger("flwr")


class WorkerError(NodeError):
    """What the worker raised, or that it was lost: in words that may be read elsewhere."""


def ask(
    message: Message, context: Context, node: NodeConfig, owner: Owner | None = None, application: Path = APPLICATION
) -> Message | None:
    """The worker's reply; None where a worker cannot be had, and a line in the log says why.

    Args:
        owner: with whom the worker ends; default: this process's parent.
        application: the folder of the code that answers.

    Raises:
        WorkerError: what the worker raised; or it is gone in the middle of the message, which is not tried again: it would
            take this process's memory, too. The next message starts another worker.
    """
    request = (wire.pack_message(message), wire.pack_context(context))
    try:
        owner = owner or Owner.parent()
        path = socket_path(Path(node.state_dir), context.run_id, owner, application)
        connection = _taken(path, request, owner, application)
    except (OSError, wire.WireError) as error:
        logger.warning("no warm worker (%s): this process answers, which takes some seconds more", error)
        return None
    with connection:
        return _reply(connection)


def socket_path(states: Path, run: int, owner: Owner, application: Path) -> Path:
    """Where the worker of this run listens. The name begins with its owner, so that others can tell when that is gone."""
    facts = hashlib.sha256(json.dumps([run, str(application), sys.executable]).encode()).hexdigest()[:24]
    return states / FOLDER / f"{owner.pid}-{owner.started}-{facts}.sock"


def _taken(path: Path, request: tuple[bytes, ...], owner: Owner, application: Path) -> socket.socket:
    """A connection to a worker that has begun on the request.

    One that ends between being reached and beginning has done nothing: another is started.
    """
    for _ in range(_TRIES):
        connection = _connected(path, owner, application)
        try:
            wire.check_peer(connection, os.getuid())
            for part in request:
                wire.send_frame(connection, part)
            if wire.receive(connection, 1) == wire.TAKEN:
                return connection
        except ConnectionError:
            pass
        except BaseException:
            connection.close()
            raise
        connection.close()
    raise wire.WireError(f"{_TRIES} workers ended before they took the message; what they said is above")


def _connected(path: Path, owner: Owner, application: Path) -> socket.socket:
    """To the worker; of several who find none at once one starts it, and all reach that one."""
    try:
        return wire.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        wire.make_private_folder(path.parent)
    with _alone(path.parent):
        try:
            return wire.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            _clear(path.parent)
            with wire.listen(path) as listener:
                _start(listener, path, owner, application)
                return wire.connect(path)  # waits in the socket's queue until the worker has loaded


def _clear(folder: Path) -> None:
    """Removes the sockets of nodes that have ended, whose workers were killed with them."""
    for left in folder.glob("*-*-*.sock"):
        pid, started, _ = left.stem.split("-")
        if not Owner(int(pid), int(started)).lives:
            left.unlink(missing_ok=True)


def _start(listener: socket.socket, path: Path, owner: Owner, application: Path) -> None:
    """A process that outlives this one, with this one's environment and outputs."""
    told = [str(listener.fileno()), str(path), str(owner.pid), str(owner.started)]
    subprocess.Popen(
        [sys.executable, "-m", "client_app.warm.worker", *told],
        cwd=application,
        pass_fds=[listener.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _reply(connection: socket.socket) -> Message:
    try:
        kind, content = wire.receive(connection, 1), wire.receive_frame(connection)
    except ConnectionError as error:
        logger.error("the node's worker is gone in the middle of a message: killed, perhaps for want of memory")
        raise WorkerError(
            "the node's worker ended in the middle of the message; the next one starts another"
        ) from error
    if kind == wire.RAISED:
        raise WorkerError(content.decode())
    return wire.unpack_message(content)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else starts a worker here meanwhile."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
