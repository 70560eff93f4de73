"""Real messages of a small run, mutated at random and given to both ends: what is refused, what is not, and at what cost.

    python -m experiments.fuzz [--minutes 10] [--seed 0]

A case is a message of one kind with one to four mutations (experiments/fuzz_mutations.py), through Flower's serialisation, and
then through all that its receiver does before it works with it; a server also closes the round. It has to be taken or refused:
any other exception, a hang, an allocation out of proportion, or numbers in the server's state that are not finite, is a finding.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import signal
import tempfile
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict

from experiments.fuzz_ends import Receiver, as_bytes, parsed, receivers
from experiments.fuzz_mutations import mutate
from experiments.machine import RESULTS, facts, resident_mb, write
from federation.randomness import generator

MODULE = "experiments.fuzz"
HANG_S = 10
ROOM, TIMES = 4 * 2**20, 16
"""A case may take TIMES its message's bytes of memory, and ROOM."""


class HangError(Exception):
    """A case took longer than HANG_S."""


@dataclass
class Found:
    """What came of the cases.

    Attributes:
        results: kind of message -> what came of it -> cases.
        reasons: why they were refused, numbers and names left out -> cases.
        findings: what should not be: kind, mutations, and the exception or figure.
        longest_s, peak_bytes: of one case.
    """

    cases: int = 0
    results: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    reasons: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    longest_s: float = 0.0
    peak_bytes: int = 0


def main() -> None:
    """Prints and writes results/fuzz.json; exit status 1 with a finding."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.json")
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        ends = receivers(Path(folder))
        before = resident_mb(peak=True)
        found = fuzz(ends, given.seed, lambda cases: time.monotonic() - started < 60 * given.minutes)
    figures = {
        "cases": found.cases,
        "seconds": round(time.monotonic() - started, 1),
        "results": {kind: dict(counts) for kind, counts in found.results.items()},
        "longest_case_seconds": round(found.longest_s, 4),
        "largest_allocation_bytes": found.peak_bytes,
        "resident_mb_before": round(before, 1),
        "resident_mb_at_peak": round(resident_mb(peak=True), 1),
        "findings": found.findings,
        "refused_because": dict(found.reasons.most_common(60)),
    }
    print(json.dumps({key: figures[key] for key in figures if key != "refused_because"}, indent=1))
    write(given.out, {**facts(MODULE), **figures})
    raise SystemExit(1 if found.findings else 0)


def fuzz(ends: dict[str, tuple[bytes, Receiver]], seed: int, more: Callable[[int], bool]) -> Found:
    """Cases as long as `more` says so of their number; ends: kind -> a real message and what its receiver makes of one."""
    found, kinds = Found(), sorted(ends)
    for kind in kinds:
        ends[kind][1](parsed(ends[kind][0]))  # what a receiver loads once is none of a case's memory
    signal.signal(signal.SIGALRM, _hang)
    tracemalloc.start()
    try:
        while more(found.cases):
            kind = kinds[found.cases % len(kinds)]
            _case(kind, *ends[kind], generator(seed, "fuzz", found.cases), found)
            found.cases += 1
    finally:
        tracemalloc.stop()
    return found


def _case(kind: str, real: bytes, receive: Receiver, rng: np.random.Generator, found: Found) -> None:
    content, size, names = _mutated(real, rng)
    if content is None:
        found.results[kind]["not parsed by Flower"] += 1
        return
    tracemalloc.reset_peak()
    before, began = tracemalloc.get_traced_memory()[0], time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        result = receive(content)
    except Exception as error:  # whatever else it is, it is a finding
        result = "CRASH"
        found.findings.append({"kind": kind, "mutations": names, "error": f"{type(error).__name__}: {error}"[:500]})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1] - before
    if peak > ROOM + TIMES * size:
        found.findings.append({"kind": kind, "mutations": names, "message_bytes": size, "allocated_bytes": peak})
    what, _, why = result.partition(": ")
    found.results[kind][what] += 1
    if why:
        found.reasons[re.sub(r"['\"(\[{].*|[0-9.,e+-]*[0-9][0-9.,e+-]*", "#", why)[:70].strip()] += 1
    found.longest_s, found.peak_bytes = max(found.longest_s, seconds), max(found.peak_bytes, peak)


def _mutated(real: bytes, rng: np.random.Generator) -> tuple[RecordDict | None, int, list[str]]:
    """A message as it arrives, its bytes, and what was done to it; None where Flower itself cannot parse it."""
    try:
        content = parsed(real)
        names = mutate(content, rng, int(rng.integers(1, 5)))
        data = bytearray(as_bytes(content))
        if rng.random() < 0.1:
            names.append("flip bits on the wire")
            for place in rng.integers(len(data), size=int(rng.integers(1, 4))) if data else []:
                data[int(place)] ^= 1 << int(rng.integers(8))
        return parsed(bytes(data)), len(data), names
    except Exception:  # its own matter: what it refuses no application sees
        return None, 0, []


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Each refusal is one."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _hang(number: int, frame: object) -> None:
    raise HangError(f"longer than {HANG_S} s")


if __name__ == "__main__":
    main()
