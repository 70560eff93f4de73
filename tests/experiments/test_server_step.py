"""The benchmark of the server's fold, small: that it folds what it says, and that its figures are whole."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments import server_step
from strategies.drift import ServerCorrection


@dataclass
class CountingRows:
    """Every client has a row of round 1."""

    found: list[Tensor] = field(default_factory=list)
    written: int = 0

    def read(self, client: int, accepted: int) -> Tensor | None:
        assert accepted == 1
        self.found.append(torch.zeros(8))
        return self.found[-1]

    def write(self, client: int, server_round: int, row: Tensor, accepted: int) -> None:
        assert (server_round, accepted) == (2, 1)
        self.written += 1


def test_the_server_correction_reads_and_writes_a_row_for_each_reply() -> None:
    """Without the reads it would be compared with more work than it does."""
    rows, replies = CountingRows(), server_step.WITH_ROWS + 5
    ring = [torch.ones(8)] * server_step.RING
    server_step._fold(ServerCorrection(1000, 0.01, rows), ring, replies, 8)
    assert (len(rows.found), rows.written) == (replies, replies)


def test_rows_of_round_1_are_found(tmp_path: Path) -> None:
    rows = server_step._rows_of_round_1(tmp_path, 8)
    for client in (0, server_step.WITH_ROWS - 1):
        found = rows.read(client, 1)
        assert found is not None
        assert torch.equal(found, torch.full((8,), float(client)))


def test_a_ratio_is_taken_within_each_repeat() -> None:
    """A machine that was busy in two of three repeats: medians or sums of seconds would say 2 or 2.5."""
    seconds = {"fold": [3.0, 30.0, 20.0], "numpy": [1.0, 10.0, 10.0]}
    assert server_step._ratio(seconds, "fold", "numpy") == 3.0


def test_its_figures_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(server_step, "_memory_apart", lambda method, cohort, size: float(cohort))
    monkeypatch.setattr(
        sys, "argv", ["server_step", "--replies", "6", "--size", "100", "--repeats", "2", "--results", str(tmp_path)]
    )
    threads = torch.get_num_threads()
    try:
        server_step.main()
    finally:
        torch.set_num_threads(threads)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["command"].startswith("python -m experiments.server_step --replies 6")
    assert set(figures["ratio"]) == set(figures["cpu_ratio"]) == set(figures["against"])
    assert all(len(figures[kind][name]) == 2 for kind in ("seconds", "cpu_seconds") for name in figures["seconds"])
    assert set(figures["against"]) | set(figures["against"].values()) <= set(figures["seconds"])
    assert set(figures["peak_mb"]) == {"none", "device", "server"}
    shown = capsys.readouterr().out
    assert all(name in shown for name in figures["seconds"])


@pytest.mark.parametrize("method", ["none", "device", "server"])
def test_memory_of_a_round_is_measured_for_each(method: str) -> None:
    assert server_step._memory(method, 3, 1000) >= 0
