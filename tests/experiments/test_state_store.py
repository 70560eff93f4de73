"""The benchmark of rows per client, small: what it reads again, what its figures hold, and that nothing is left on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import state_store

SIZE = 2000


def test_clients_that_were_sampled_before_have_their_rows_read(tmp_path: Path) -> None:
    """All 6 of 6 clients in each round."""
    figures = state_store.measure(tmp_path, clients=6, size=SIZE, sampled=6, rounds=3, sync=True)
    assert [line["sampled_before"] for line in figures["rounds"]] == [0, 6, 6]
    assert figures["clients_ever_sampled"] == 6
    assert figures["apparent_gb"] >= figures["on_disk_gb"] >= 6 * 2 * 4 * SIZE / 1e9  # both slots of each


def test_plain_and_mapped_files_hold_the_rows_at_their_places(tmp_path: Path) -> None:
    ring = [torch.full((SIZE,), float(i)) for i in range(state_store.RING)]
    asked = [4, 1]
    state_store._plain(tmp_path / "plain", asked, [], ring, SIZE)
    state_store._mapped(tmp_path / "mapped", 6, asked, [], ring, SIZE)
    plain, mapped = (np.fromfile(tmp_path / name, dtype=np.float32) for name in ("plain", "mapped"))
    stride = 2048  # numbers of two whole pages
    for place, client in enumerate(asked):
        assert np.array_equal(plain[2 * client * SIZE :][:SIZE], np.full(SIZE, place))
        assert np.array_equal(mapped[2 * client * stride :][:SIZE], np.full(SIZE, place))


def test_its_figures_are_whole_and_its_files_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    options = {"clients": 50, "size": SIZE, "sampled": 5, "rounds": 2, "folder": tmp_path, "results": tmp_path / "r"}
    monkeypatch.setattr(sys, "argv", ["state_store", *(f"--{key}={value}" for key, value in options.items())])
    threads = torch.get_num_threads()
    try:
        state_store.main()
    finally:
        torch.set_num_threads(threads)
    figures = json.loads((tmp_path / "r" / "figures.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert len(figures["rounds"]) == 2
    for line in figures["rounds"]:
        assert {"server_correction_s", "plain_read_write_s", "memory_map_s", "resident_mb", "peak_mb"} <= set(line)
    assert {"cpu", "versions", "ratio_to_plain", "memory_map_ratio_to_plain", "apparent_gb"} <= set(figures)
    assert "50 clients of 2,000 float32 parameters, 5 sampled a round" in capsys.readouterr().out
