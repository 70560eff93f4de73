"""What passes over the loopback, as anybody with the right to listen there sees it."""

from __future__ import annotations

import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

_ALL, _OUTGOING, _FORCE = 3, 4, 33  # ETH_P_ALL, PACKET_OUTGOING, SO_RCVBUFFORCE
_TCP, _ETHERNET = 6, 14


class Capture:
    """The bytes of TCP connections from or to some ports, each connection's in order."""

    def __init__(self, ports: Collection[int]) -> None:
        self._ports = set(ports)
        self._parts: dict[tuple[int, int], dict[int, bytes]] = defaultdict(dict)
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))  # PermissionError: no right
        self._socket.setsockopt(socket.SOL_SOCKET, _FORCE, 2**28)
        self._socket.bind(("lo", _ALL))
        self._socket.settimeout(0.2)
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        while True:
            ended = self._end.is_set()
            try:
                frame, about = self._socket.recvfrom(2**17, socket.MSG_DONTWAIT if ended else 0)
            except (TimeoutError, BlockingIOError):
                if ended:  # what came before the end has been heard
                    return
                continue
            if about[2] != _OUTGOING:  # each is seen twice, on its way out and in
                self._keep(frame[_ETHERNET:])

    def _keep(self, packet: bytes) -> None:
        if packet[0] >> 4 != 4 or packet[9] != _TCP:
            return
        segment = packet[(packet[0] & 15) * 4 : struct.unpack_from("!H", packet, 2)[0]]
        source, to, number = struct.unpack_from("!HHI", segment)
        payload = segment[(segment[12] >> 4) * 4 :]
        if payload and self._ports & {source, to}:
            with self._lock:
                parts = self._parts[source, to]
                parts[number] = max(payload, parts.get(number, b""), key=len)

    def streams(self) -> Mapping[tuple[int, int], bytes]:
        """(from, to) -> what went that way."""
        with self._lock:
            return {way: _joined(parts) for way, parts in self._parts.items()}

    def found(self, wanted: Mapping[str, bytes]) -> dict[str, bool]:
        """Which of these went over the line as they are."""
        streams = self.streams().values()
        return {name: any(what in stream for stream in streams) for name, what in wanted.items()}


def _joined(parts: Mapping[int, bytes]) -> bytes:
    """Segments by number; one that was sent again may overlap another."""
    whole, end = bytearray(), 0
    for number in sorted(parts):
        payload = parts[number][max(0, end - number) if whole else 0 :]
        whole += payload
        end = max(end, number + len(parts[number]))
    return bytes(whole)


@contextmanager
def captured(ports: Collection[int]) -> Iterator[Capture]:
    """Listens in this block; PermissionError without the right to."""
    capture = Capture(ports)
    capture._thread.start()
    try:
        yield capture
    finally:
        capture._end.set()
        capture._thread.join()
        capture._socket.close()
