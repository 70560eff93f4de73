"""The server correction's rows at scale: memory, time and disk of rounds, against the plain read and write of as many bytes.

    python -m experiments.state_store

Each round samples clients at random, reads the row of those that were sampled before, and writes a row for each, in one sparse
file with room for all. Beside it, in turn, the same reads and writes at the same places of a file of its own, and nothing else;
and the same through a memory map, one window per row. Written pages go to disk whenever the system pleases; with --sync each
round ends when they are there.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.machine import RESULTS, facts, resident_mb, write
from federation.randomness import generator
from strategies.client_rows import FileRows
from strategies.drift import ServerCorrection
from strategies.fedpeptao import FedPepTAO, State, Update
from strategies.server_optimizers import Momentum

MODULE = "experiments.state_store"
EXAMPLES, STEPS, ETA, RING = 40, 10, 0.01, 16


def main() -> None:
    """Measures, prints a table, writes results/state-store/figures.json."""
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(
            Path(folder), arguments.clients, arguments.size, arguments.sampled, arguments.rounds, arguments.sync
        )
    print(_table(figures))
    write(arguments.results / "figures.json", {**facts(MODULE), **figures})


def measure(folder: Path, clients: int, size: int, sampled: int, rounds: int, sync: bool) -> dict[str, Any]:
    """One line of figures per round; the three in turn within each."""
    start = resident_mb()
    rows = FileRows(folder / "rows", clients, size)
    algorithm = FedPepTAO(ServerCorrection(clients * EXAMPLES, ETA, rows), Momentum(0.9), 1.0)
    state = algorithm.initial(("x",), torch.zeros(size))
    ring = [torch.randn(size, generator=torch.Generator().manual_seed(i)) for i in range(RING)]
    ready = resident_mb()
    lines, seen = [], set[int]()
    for server_round in range(1, rounds + 1):
        asked = [int(c) for c in generator(0, "sample", server_round).choice(clients, size=sampled, replace=False)]
        again = [client for client in asked if client in seen]
        line: dict[str, Any] = {"round": server_round, "sampled_before": len(again)}
        started = time.perf_counter()
        state = _round(algorithm, state, asked, ring)
        line["server_correction_s"] = _ended(started, folder / "rows", sync)
        started = time.perf_counter()
        _plain(folder / "plain", asked, again, ring, size)
        line["plain_read_write_s"] = _ended(started, folder / "plain", sync)
        started = time.perf_counter()
        _mapped(folder / "mapped", clients, asked, again, ring, size)
        line["memory_map_s"] = _ended(started, folder / "mapped", sync)
        seen.update(asked)
        line |= {"resident_mb": resident_mb(), "peak_mb": resident_mb(peak=True)}
        lines.append(line)
        print(f"  round {server_round} of {rounds}: {line['server_correction_s']:.2f} s", flush=True)
    on_disk = (folder / "rows").stat()
    return {
        "clients": clients,
        "size": size,
        "sampled": sampled,
        "sync": sync,
        "rounds": lines,
        "resident_mb_at_start": start,
        "resident_mb_before_round_1": ready,
        "clients_ever_sampled": len(seen),
        "apparent_gb": on_disk.st_size / 1e9,
        "on_disk_gb": on_disk.st_blocks * 512 / 1e9,
        "ratio_to_plain": sum(line["server_correction_s"] for line in lines)
        / sum(line["plain_read_write_s"] for line in lines),
        "memory_map_ratio_to_plain": sum(line["memory_map_s"] for line in lines)
        / sum(line["plain_read_write_s"] for line in lines),
    }


def _round(algorithm: FedPepTAO, state: State, asked: list[int], ring: list[torch.Tensor]) -> State:
    total = algorithm.begin(state)
    for place, client in enumerate(asked):
        algorithm.fold(state, total, Update(client, EXAMPLES, STEPS, ring[place % RING]))
    return algorithm.step(state, total)


def _plain(path: Path, asked: list[int], again: list[int], ring: list[torch.Tensor], size: int) -> None:
    """Reads where a row was, writes all rows, at places as far apart as the store's."""
    buffer, known = np.empty(size, dtype=np.float32), set(again)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    for place, client in enumerate(asked):
        if client in known:
            os.preadv(file, [buffer.data], 2 * client * 4 * size)
        os.pwrite(file, ring[place % RING].numpy().data, 2 * client * 4 * size)
    os.close(file)


def _mapped(path: Path, clients: int, asked: list[int], again: list[int], ring: list[torch.Tensor], size: int) -> None:
    """The same through a window of a memory map for each row."""
    buffer, known = np.empty(size, dtype=np.float32), set(again)
    stride = -(-4 * size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(file, 2 * clients * stride)
    for place, client in enumerate(asked):
        with mmap.mmap(file, stride, offset=2 * client * stride) as window:
            values = np.frombuffer(window, dtype=np.float32, count=size)
            if client in known:
                np.copyto(buffer, values)
            np.copyto(values, ring[place % RING].numpy())
            del values
    os.close(file)


def _ended(started: float, path: Path, sync: bool) -> float:
    if sync:
        file = os.open(path, os.O_RDWR)
        os.fsync(file)
        os.close(file)
    return time.perf_counter() - started


def _table(figures: dict[str, Any]) -> str:
    title = f"{figures['clients']:,} clients of {figures['size']:,} float32 parameters, {figures['sampled']:,} sampled a round"
    lines = [title, "  round  known before  correction   plain file   memory map   resident"]
    for line in figures["rounds"]:
        lines.append(
            f"  {line['round']:5}  {line['sampled_before']:12}  {line['server_correction_s']:8.2f} s  "
            f"{line['plain_read_write_s']:8.2f} s  {line['memory_map_s']:9.2f} s  {line['resident_mb']:6.0f} MB"
        )
    lines.append(
        f"  correction: {figures['ratio_to_plain']:.2f} x plain; memory map: {figures['memory_map_ratio_to_plain']:.2f} x plain"
    )
    lines.append(
        f"  resident before round 1: {figures['resident_mb_before_round_1']:.0f} MB, of which "
        f"{RING * 4 * figures['size'] / 1e6:.0f} MB are the benchmark's own replies"
    )
    lines.append(f"  file: {figures['apparent_gb']:.1f} GB apparent, {figures['on_disk_gb']:.1f} GB on disk")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=500_000, help="parameters of a row")
    parser.add_argument("--sampled", type=int, default=1000, help="clients a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sync", action="store_true", help="a round ends when its rows are on disk")
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's)")
    parser.add_argument("--results", type=Path, default=RESULTS / "state-store", help="folder for the raw figures")
    return parser


if __name__ == "__main__":
    main()
