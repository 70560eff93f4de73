"""A link between two network namespaces whose packets are late, lost, slow, or do not come at all: `python -m tests.link`.

The kernel's netem does this where it is built in, which it is not everywhere; a TUN device at either end and this process
between them do it wherever namespaces can be made. A line of JSON on its input sets what the link is like from then on.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_MTU = 1500
_CHECKOUT = Path(__file__).resolve().parent.parent
ADDRESSES = ("10.213.77.1", "10.213.77.2")


@dataclass(frozen=True)
class Link:
    """What it is like, either way.

    Attributes:
        delay_s: a packet takes so much longer.
        loss: share of the packets that do not come.
        bits_per_s: at most; 0: as many as come.
        cut: nothing passes.
    """

    delay_s: float = 0.0
    loss: float = 0.0
    bits_per_s: float = 0.0
    cut: bool = False


class Way:
    """One direction: what is on its way, and when the line is free again."""

    def __init__(self, into: int) -> None:
        self._into, self._queue, self._free, self._count = into, list[tuple[float, int, bytes]](), 0.0, 0

    def take(self, packet: bytes, link: Link, lost: bool) -> None:
        now = time.monotonic()
        if link.bits_per_s:
            self._free = max(now, self._free) + 8 * len(packet) / link.bits_per_s
        if not (lost or link.cut):
            self._count += 1  # packets of one moment keep their order
            heapq.heappush(self._queue, (max(now, self._free) + link.delay_s, self._count, packet))

    def pass_on(self) -> float:
        """Writes what is due; seconds until the next."""
        while self._queue and self._queue[0][0] <= time.monotonic():
            with suppress(OSError):
                os.write(self._into, heapq.heappop(self._queue)[2])
        return max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else 1.0


def forward(ends: tuple[int, int]) -> None:
    """Until its input ends."""
    link, rng = Link(), random.Random(0)
    ways = {ends[0]: Way(ends[1]), ends[1]: Way(ends[0])}
    while True:
        wait = min(way.pass_on() for way in ways.values())
        for ready in select.select([*ends, sys.stdin], [], [], wait)[0]:
            if ready is sys.stdin:
                line = sys.stdin.readline()
                if not line:
                    return
                link = Link(**json.loads(line))
            else:
                ways[ready].take(os.read(ready, 2 * _MTU), link, rng.random() < link.loss)


def tun(namespace: str, address: str, other: str) -> int:
    """A device in a namespace, with an address there."""
    name = f"fed{os.getpid() % 10**6}{address[-1]}"
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    _ip("link", "set", name, "netns", namespace)
    _ip("-n", namespace, "addr", "add", address, "peer", other, "dev", name)
    _ip("-n", namespace, "link", "set", name, "mtu", str(_MTU), "up")
    return device


@contextmanager
def linked(names: tuple[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Two namespaces with a link between them, in this block; OSError or CalledProcessError where they cannot be made."""
    made = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        command = [sys.executable, "-m", "tests.link", *names]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, cwd=_CHECKOUT, text=True, **pipes) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline() != "linked\n":
                    raise OSError("no link between namespaces")
                yield process
            finally:
                process.kill()
    finally:
        for name in made:
            _ip("netns", "del", name)


def be(process: subprocess.Popen[str], link: Link) -> None:
    """Changes it."""
    assert process.stdin is not None
    print(json.dumps(asdict(link)), file=process.stdin, flush=True)


def _ip(*told: str) -> None:
    subprocess.run(["ip", *told], check=True, capture_output=True, timeout=10)


if __name__ == "__main__":
    here = tuple(tun(name, *pair) for name, pair in zip(sys.argv[1:], (ADDRESSES, ADDRESSES[::-1]), strict=True))
    print("linked", flush=True)
    forward((here[0], here[1]))
