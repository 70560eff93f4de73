"""A node's worker: loads model and data once, and answers the messages of one run, one after the other.

    python -m client_app.warm.worker <listening socket> <its path> <owner's pid> <owner's start>

It ends when its owner has, when nobody asked for a while, and when who asked is gone while it works: nobody takes that answer,
and whoever sent the message starts again from the states on disk, which a sudden end leaves whole.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message

from client_app.discretion import discreet
from client_app.warm import wire
from client_app.warm.owner import Owner

IDLE_S = 300.0
_REQUEST_S = 60.0  # for all of a request to come
_LOOK_S = 0.5
_GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)

logger = logging.getLogger("flwr")
Answer = Callable[[Message, Context], Message]


class Worker:
    """Serves a listening socket in this thread, until it ends.

    Args:
        listener: where it is asked.
        path: the socket's.
        answer: what answers.
        idle_s: without a request for so long it ends.
        limit: bytes of a frame.
        user: whose processes may ask.
    """

    def __init__(
        self,
        listener: socket.socket,
        path: Path,
        answer: Answer,
        idle_s: float = IDLE_S,
        limit: int = wire.LIMIT_BYTES,
        user: int | None = None,
    ) -> None:
        self._listener, self._path, self._answer, self._idle_s, self._limit = listener, path, answer, idle_s, limit
        self._user = os.getuid() if user is None else user
        self._asking: socket.socket | None = None
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Until nobody asked for idle_s. A socket that is gone from its path reaches nobody, so it goes first."""
        while select.select([self._listener], [], [], self._idle_s)[0]:
            connection, _ = self._listener.accept()
            with connection:
                try:
                    self._serve(connection)
                except Exception as error:  # whatever it was, others may ask
                    logger.warning("worker: a request came to nothing: %s: %s", type(error).__name__, error)
        self._path.unlink(missing_ok=True)
        self._listener.close()

    def asker_gone(self) -> bool:
        """Whether who asked for what is in work has hung up."""
        with self._lock:
            if self._asking is None:
                return False
            look = select.poll()
            look.register(self._asking, _GONE)
            return bool(look.poll(0))

    def _serve(self, connection: socket.socket) -> None:
        wire.check_peer(connection, self._user)
        connection.settimeout(_REQUEST_S)
        message = wire.unpack_message(wire.receive_frame(connection, self._limit))
        context = wire.unpack_context(wire.receive_frame(connection, self._limit))
        connection.settimeout(None)
        connection.sendall(wire.TAKEN)
        kind, content = self._worked(connection, message, context)
        connection.sendall(kind)
        wire.send_frame(connection, content)

    def _worked(self, connection: socket.socket, message: Message, context: Context) -> tuple[bytes, bytes]:
        self._ask(connection)
        try:
            return wire.ANSWERED, wire.pack_message(discreet(self._answer)(message, context))
        except Exception as error:  # whatever it is, it is the reply's reason
            logger.exception("worker: this message has no answer")
            return wire.RAISED, f"{type(error).__name__}: {error}".encode()
        finally:
            self._ask(None)

    def _ask(self, connection: socket.socket | None) -> None:
        with self._lock:
            self._asking = connection


def watch(worker: Worker, owner: Owner, path: Path) -> None:
    """Ends this process, in the middle of whatever it does, once its owner or who asked is gone."""
    pause = threading.Event()
    while not pause.wait(_LOOK_S):
        if not owner.lives or worker.asker_gone():
            why = "who asked is gone" if owner.lives else "the node has ended"
            logger.warning("worker %d ends: %s", os.getpid(), why)
            path.unlink(missing_ok=True)
            os._exit(0)


def main(told: list[str]) -> None:
    """See the module."""
    listener, path, owner = socket.socket(fileno=int(told[0])), Path(told[1]), Owner(int(told[2]), int(told[3]))
    from client_app import answering  # some seconds; requests wait in the socket's queue meanwhile

    worker = Worker(listener, path, answering.answer)
    threading.Thread(target=watch, args=(worker, owner, path), daemon=True).start()
    logger.info("worker %d is there", os.getpid())
    worker.serve()
    logger.info("worker %d ends: nobody asked for %g s", os.getpid(), IDLE_S)


if __name__ == "__main__":
    main(sys.argv[1:])
