"""The ear that other tests put to the line hears all of it, each way in order."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.capture import captured


def test_what_passes_is_found_and_what_does_not_is_not() -> None:
    words = b"".join(b"word %06d " % number for number in range(50_000))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        try:
            with captured([port]) as line:
                speaker = threading.Thread(target=_say, args=(port, words))
                speaker.start()
                heard = _hear(listener)
                speaker.join()
        except PermissionError:
            pytest.skip("nobody may listen to the loopback here")
    assert heard == words
    assert words in line.streams().values()
    asked = {"middle": b"word 025000 word 025001", "never": b"word 050000", "answer": b"understood"}
    assert line.found(asked) == {"middle": True, "never": False, "answer": True}


def _say(port: int, words: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as speaker:
        speaker.sendall(words)
        speaker.shutdown(socket.SHUT_WR)
        while speaker.recv(100):
            pass


def _hear(listener: socket.socket) -> bytes:
    connection, _ = listener.accept()
    with connection:
        parts = list(iter(lambda: connection.recv(2**16), b""))
        connection.sendall(b"understood")
    return b"".join(parts)
