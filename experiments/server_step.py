"""What folding a round costs the server, against a plain numpy weighted sum of the same bytes, side by side in one run.

    python -m experiments.server_step

Replies are float32 and exist only while they are folded; they come from a ring of arrays larger than any cache. Memory is
measured in a process of its own for each size of cohort.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.machine import RESULTS, facts, resident_mb, write
from strategies.client_rows import FileRows
from strategies.drift import DeviceCorrection, Drift, NoCorrection, ServerCorrection
from strategies.fedpeptao import FedPepTAO, Update
from strategies.server_optimizers import Momentum

MODULE = "experiments.server_step"
RING = 32
EXAMPLES, STEPS, ETA = 40, 10, 0.01


def main() -> None:
    """Measures, prints a table, writes results/server-step/figures.json."""
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        print(_memory(arguments.memory_of, arguments.replies, arguments.size))
        return
    figures = measure(arguments.replies, arguments.size, arguments.repeats)
    cohorts = [max(1, arguments.replies // part) for part in (100, 10, 1)]
    figures["peak_mb"] = {
        method: {cohort: _memory_apart(method, cohort, arguments.size) for cohort in cohorts}
        for method in ("none", "device", "server")
    }
    print(_table(figures))
    write(arguments.results / "figures.json", {**facts(MODULE), **figures})


def measure(replies: int, size: int, repeats: int) -> dict[str, Any]:
    """Seconds of each repeat, methods in turn, and ratios of medians."""
    ring = [torch.randn(size, generator=torch.Generator().manual_seed(i)) for i in range(RING)]
    with tempfile.TemporaryDirectory() as folder:
        methods: dict[str, Callable[[], None]] = {
            "numpy float32": lambda: _numpy(ring, replies, size, np.float32),
            "numpy float64": lambda: _numpy(ring, replies, size, np.float64),
            "numpy float32, two sums": lambda: _numpy(ring, replies, size, np.float32, sums=2),
            "numpy float32, and each row read and written": lambda: _numpy_with_rows(ring, replies, size, Path(folder)),
            "none": lambda: _fold(NoCorrection(), ring, replies, size),
            "none, step-normalised": lambda: _fold(NoCorrection(), ring, replies, size, mean_steps=9.0),
            "device": lambda: _fold(DeviceCorrection(replies * EXAMPLES, ETA), ring, replies, size),
            "server": lambda: _fold(_server(folder, replies, size), ring, replies, size),
        }
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        for repeat in range(repeats + 1):  # the first warms up: pages and files come into being
            for name, work in methods.items():
                started = time.perf_counter()
                work()
                if repeat:
                    seconds[name].append(time.perf_counter() - started)
            print(f"  repeat {repeat} of {repeats}", flush=True)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    against = {
        "none": "numpy float32",
        "none, step-normalised": "numpy float32",
        "device": "numpy float32, two sums",
        "server": "numpy float32, and each row read and written",
    }
    return {
        "replies": replies,
        "size": size,
        "seconds": seconds,
        "median_seconds": median,
        "ratio": {name: median[name] / median[plain] for name, plain in against.items()},
        "ratio_to_one_float32_sum": {name: median[name] / median["numpy float32"] for name in against},
        "ratio_to_one_float64_sum": {name: median[name] / median["numpy float64"] for name in against},
        "against": against,
    }


def _numpy(ring: list[Tensor], replies: int, size: int, dtype: type, sums: int = 1) -> None:
    totals = [np.zeros(size, dtype=dtype) for _ in range(sums)]
    for reply in range(replies):
        delta = ring[reply % RING].numpy()
        for total in totals:
            total += 0.001 * delta


def _numpy_with_rows(ring: list[Tensor], replies: int, size: int, folder: Path) -> None:
    """The same sum, and one row of the file read and one written a reply: what a server with states cannot do without."""
    total, row = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.float32)
    file = os.open(folder / "plain", os.O_RDWR | os.O_CREAT)
    for reply in range(replies):
        delta = ring[reply % RING].numpy()
        os.preadv(file, [row], 4 * size * reply)
        total += 0.001 * (delta - row)
        os.pwrite(file, delta.data, 4 * size * reply)
    os.close(file)


def _server(folder: str, replies: int, size: int) -> ServerCorrection:
    return ServerCorrection(replies * EXAMPLES, ETA, FileRows(Path(folder) / "rows", replies, size))


def _fold(drift: Drift, ring: list[Tensor], replies: int, size: int, mean_steps: float | None = None) -> None:
    """One round of the real algorithm, from begin to step."""
    algorithm = FedPepTAO(drift, Momentum(0.9), 1.0, mean_steps)
    state = algorithm.initial(("x",), torch.zeros(size))
    total = algorithm.begin(state)
    for reply in range(replies):
        algorithm.fold(state, total, Update(reply, EXAMPLES, STEPS, ring[reply % RING]))
    algorithm.step(state, total)


def _memory(method: str, replies: int, size: int) -> float:
    """Peak resident MB of a round beyond what the process had before it, with replies that are made and dropped one by one."""
    with tempfile.TemporaryDirectory() as folder:
        drift: Drift = {
            "none": lambda: NoCorrection(),
            "device": lambda: DeviceCorrection(replies * EXAMPLES, ETA),
            "server": lambda: _server(folder, replies, size),
        }[method]()
        algorithm = FedPepTAO(drift, Momentum(0.9), 1.0)
        state = algorithm.initial(("x",), torch.zeros(size))
        before, total = resident_mb(), algorithm.begin(state)
        for reply in range(replies):
            algorithm.fold(state, total, Update(reply, EXAMPLES, STEPS, torch.full((size,), float(reply))))
        algorithm.step(state, total)
        return resident_mb(peak=True) - before


def _memory_apart(method: str, replies: int, size: int) -> float:
    command = [sys.executable, "-m", MODULE, "--memory-of", method, "--replies", str(replies), "--size", str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def _table(figures: dict[str, Any]) -> str:
    lines = [f"{figures['replies']} replies of {figures['size']:,} float32 parameters, median of the repeats"]
    for name, seconds in figures["median_seconds"].items():
        ratio = figures["ratio"].get(name)
        beside = f"{ratio:5.2f} x {figures['against'][name]}" if ratio else ""
        lines.append(f"  {name:46} {seconds:7.3f} s  {beside}")
    lines.append("Peak memory of a round, beyond what was there before it")
    for name, peaks in figures["peak_mb"].items():
        lines.append(f"  {name:46} " + "  ".join(f"{cohort} replies {peak:.0f} MB" for cohort, peak in peaks.items()))
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--replies", type=int, default=1000, help="of one round")
    parser.add_argument("--size", type=int, default=1_000_000, help="parameters of a reply")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS / "server-step", help="folder for the raw figures")
    parser.add_argument("--memory-of", choices=("none", "device", "server"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
