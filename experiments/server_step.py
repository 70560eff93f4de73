"""What folding a round costs the server, against a plain numpy weighted sum of the same bytes, side by side in one run.

    python -m experiments.server_step

Replies are float32 and exist only while they are folded; they come from a ring of arrays larger than any cache. The server
correction finds an older row for each reply and writes the new one, both in the page cache (experiments/state_store.py has the
disk): its rows are those of a few clients, in turn. Ratios are medians over repeats of a method's time to that of plain numpy in
the same repeat, of elapsed and of processor time: the latter says more on a busy machine. Memory is measured in a process of its
own for each size of cohort.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.machine import RESULTS, facts, resident_mb, write
from strategies.client_rows import FileRows
from strategies.drift import DeviceCorrection, Drift, NoCorrection, ServerCorrection
from strategies.fedpeptao import FedPepTAO, State, Update
from strategies.server_optimizers import Momentum

MODULE = "experiments.server_step"
RING = 32
WITH_ROWS = 64  # clients whose rows the server correction holds
EXAMPLES, STEPS, ETA = 40, 10, 0.01
AGAINST = {
    "none": "numpy float32",
    "none, step-normalised": "numpy float32",
    "device": "numpy float32, two sums",
    "server": "numpy float32, and each row read and written",
}


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
    """Seconds of each repeat, methods in turn, and the ratios to plain numpy."""
    ring = [torch.randn(size, generator=torch.Generator().manual_seed(i)) for i in range(RING)]
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows_of_round_1(Path(folder), size)
        methods: dict[str, Callable[[], None]] = {
            "numpy float32": lambda: _numpy(ring, replies, size, np.float32),
            "numpy float64": lambda: _numpy(ring, replies, size, np.float64),
            "numpy float32, two sums": lambda: _numpy(ring, replies, size, np.float32, sums=2),
            "numpy float32, and each row read and written": lambda: _numpy_with_rows(ring, replies, size, Path(folder)),
            "none": lambda: _fold(NoCorrection(), ring, replies, size),
            "none, step-normalised": lambda: _fold(NoCorrection(), ring, replies, size, mean_steps=9.0),
            "device": lambda: _fold(DeviceCorrection(replies * EXAMPLES, ETA), ring, replies, size),
            "server": lambda: _fold(ServerCorrection(replies * EXAMPLES, ETA, rows), ring, replies, size),
        }
        seconds, cpu = _timed(methods, repeats)
    return {
        "replies": replies,
        "size": size,
        "against": AGAINST,
        "ratio": {name: _ratio(seconds, name, plain) for name, plain in AGAINST.items()},
        "cpu_ratio": {name: _ratio(cpu, name, plain) for name, plain in AGAINST.items()},
        "cpu_ratio_to_one_float32_sum": {name: _ratio(cpu, name, "numpy float32") for name in AGAINST},
        "cpu_ratio_to_one_float64_sum": {name: _ratio(cpu, name, "numpy float64") for name in AGAINST},
        "seconds": seconds,
        "cpu_seconds": cpu,
    }


def _timed(
    methods: dict[str, Callable[[], None]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Elapsed and processor seconds of each, repeat by repeat."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    cpu: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(repeats + 1):  # the first warms up: pages and files come into being
        for name, work in methods.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            work()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - started_cpu)
        print(f"  repeat {repeat} of {repeats}", flush=True)
    return seconds, cpu


def _ratio(seconds: dict[str, list[float]], name: str, plain: str) -> float:
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[plain], strict=True))


def _numpy(ring: list[Tensor], replies: int, size: int, dtype: type, sums: int = 1) -> None:
    totals: list[NDArray[Any]] = [np.zeros(size, dtype=dtype) for _ in range(sums)]
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
        place = 4 * size * (reply % WITH_ROWS)
        os.preadv(file, [row.data], place)
        total += 0.001 * (delta - row)
        os.pwrite(file, delta.data, place)
    os.close(file)


def _rows_of_round_1(folder: Path, size: int) -> FileRows:
    rows = FileRows(folder / "rows", WITH_ROWS, size)
    for client in range(WITH_ROWS):
        rows.write(client, 1, torch.full((size,), float(client)), 0)
    return rows


def _after_round_1(algorithm: FedPepTAO, size: int) -> State:
    """All clients were sampled before: each reply finds an older row, where a correction keeps any."""
    return replace(
        algorithm.initial(("x",), torch.zeros(size)), round=1, updates=1, accepted=dict.fromkeys(range(WITH_ROWS), 1)
    )


def _fold(drift: Drift, ring: list[Tensor], replies: int, size: int, mean_steps: float | None = None) -> None:
    """Round 2 of the real algorithm, from begin to step."""
    algorithm = FedPepTAO(drift, Momentum(0.9), 1.0, mean_steps)
    state = _after_round_1(algorithm, size)
    total = algorithm.begin(state)
    for reply in range(replies):
        algorithm.fold(state, total, Update(reply % WITH_ROWS, EXAMPLES, STEPS, ring[reply % RING]))
    algorithm.step(state, total)


def _memory(method: str, replies: int, size: int) -> float:
    """Peak resident MB of a round beyond what the process had before it, with replies that are made and dropped one by one."""
    with tempfile.TemporaryDirectory() as folder:
        drift: Drift = NoCorrection()
        if method == "device":
            drift = DeviceCorrection(replies * EXAMPLES, ETA)
        elif method == "server":
            drift = ServerCorrection(replies * EXAMPLES, ETA, _rows_of_round_1(Path(folder), size))
        algorithm = FedPepTAO(drift, Momentum(0.9), 1.0)
        state = _after_round_1(algorithm, size)
        before, total = resident_mb(), algorithm.begin(state)
        for reply in range(replies):
            algorithm.fold(state, total, Update(reply % WITH_ROWS, EXAMPLES, STEPS, torch.full((size,), float(reply))))
        algorithm.step(state, total)
        return resident_mb(peak=True) - before


def _memory_apart(method: str, replies: int, size: int) -> float:
    command = [sys.executable, "-m", MODULE, "--memory-of", method, "--replies", str(replies), "--size", str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def _table(figures: dict[str, Any]) -> str:
    lines = [f"{figures['replies']} replies of {figures['size']:,} float32 parameters, median of the repeats"]
    for name, seconds in figures["seconds"].items():
        lines.append(f"  {name:46} {statistics.median(seconds):7.3f} s")
    lines.append(f"  {'ratio to plain numpy':46} elapsed  processor  processor, to one float32 sum")
    for name, plain in figures["against"].items():
        ratios = (figures[key][name] for key in ("ratio", "cpu_ratio", "cpu_ratio_to_one_float32_sum"))
        lines.append(f"  {name:46} " + "  ".join(f"{ratio:7.2f}" for ratio in ratios) + f"   against {plain}")
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
