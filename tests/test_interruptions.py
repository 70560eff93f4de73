"""A run that dies anywhere, any number of times, and is gone on with each time, ends with the bits of one that never died.

Death is an exception that nothing catches, at one of some hundred points of a run: before and after each message, each write and
each rename on either end, each reply that is folded. Nothing that would happen on the way out happens, as after a SIGKILL.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client_app import host
from client_app.disk_store import DiskStore
from federation.grids import InProcessGrid
from fedpeptao.loaded import open_model
from server_app import run as server_run
from server_app.run_folder import RunFolder
from strategies.client_rows import FileRows
from strategies.fedpeptao import FedPepTAO
from tests import coming
from tests.small_runs import Flat, Ran, go

pytestmark = pytest.mark.slow
MakeFlat = Callable[..., Flat]
INTERRUPTIONS = 34  # of each kind of run, at least: over 200 of all
KINDS: dict[str, Flat] = {
    "device correction": {},
    "server correction, moments that go on, an average": {
        **{"drift_correction": "server", "restart_moments": False, "server_ema": 0.8},
    },
    "released": {
        "variant": "released",
        "drift_correction": "none",
        "server_optimizer": "none",
        "restart_moments": False,
    },
    "shared moments, adam, all layers": {
        "device_second_moment": "shared",
        "server_optimizer": "adam",
        "server_learning_rate": 0.01,
        "layers": "all",
    },
    "a curriculum, and what moves by what was seen before": {
        **{"tuned": "lora", "lora_rank": 2, "score": "perturbation", "update_share": 0.5, "batch_size": 4},
        **{"curriculum": "linear", "curriculum_full": 0.5, "drift_correction": "none", "server_optimizer": "none"},
    },
    "warm-up and an estimate of the ratio, final epochs": {
        "ratio": "plateau",
        "warmup_rounds": 1,
        "curvature_steps": 4,
        "final_local_epochs": 1,
    },
}


class DeathError(BaseException):
    """What nothing catches."""


class Fate:
    """Counts the points that a run passes, and ends it at one of them."""

    def __init__(self) -> None:
        self.passed, self.last, self.dead = 0, -1, False

    def live(self, points: int) -> None:
        """From now on, so many; -1: without end."""
        self.passed, self.last, self.dead = 0, points, False

    def tick(self) -> None:
        if self.passed == self.last:
            self.dead = True
        if self.dead:
            raise DeathError
        self.passed += 1


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch, no_plots: None) -> Fate:
    found = Fate()

    def around(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def ticking(*given: Any, **named: Any) -> Any:
            found.tick()
            answer = real(*given, **named)
            found.tick()
            return answer

        monkeypatch.setattr(owner, name, ticking)

    for owner, name in (
        (os, "replace"),
        (InProcessGrid, "push_messages"),
        (InProcessGrid, "_answer"),
        (host, "local_update"),
        (host, "evaluate"),
        (DiskStore, "keep"),
        (DiskStore, "resume"),
        (DiskStore, "look"),
        (RunFolder, "append"),
        (FileRows, "write"),
        (FedPepTAO, "fold"),
        (FedPepTAO, "step"),
    ):
        around(owner, name)
    finish = server_run.finish
    monkeypatch.setattr(server_run, "finish", lambda *given: {} if found.dead else finish(*given))
    return found


def goes_on(flat: Flat, folder: Path) -> Flat:
    """The settings with which a run that died is called again; one that died before it had a folder begins."""
    return {**flat, "resume": str(folder)} if (folder / "metrics.jsonl").exists() else flat


def rows_of(ran: Ran) -> dict[int, torch.Tensor]:
    return {client: open_model(ran.folder, client=client).row for client in range(ran.settings.federation.clients)}


@pytest.mark.parametrize("kind", KINDS)
def test_whenever_it_dies_it_ends_with_the_same_bits(
    make_flat: MakeFlat, tmp_path: Path, fate: Fate, kind: str
) -> None:
    flat = make_flat(rounds=3, run_name="run", runs_dir=str(tmp_path / "whole"), evaluate_every=2, **KINDS[kind])
    ends_with_the_same_bits(flat, tmp_path, fate, len(kind), INTERRUPTIONS, go)


@pytest.mark.parametrize("kind", ["device correction", "server correction, moments that go on, an average", "released"])
def test_while_clients_come_and_go_too(make_flat: MakeFlat, tmp_path: Path, fate: Fate, kind: str) -> None:
    """The run is gone on with among those that are there then: some known ones are not, some are new, one is at another place."""
    changes = {
        "rounds": 5,
        "run_name": "run",
        "runs_dir": str(tmp_path / "whole"),
        "evaluate_every": 2,
        "min_clients": 2,
    }
    flat = make_flat(**changes, **KINDS[kind])
    ends_with_the_same_bits(flat, tmp_path, fate, len(kind), 20, lambda flat: coming.go(flat, coming.schedule)[0])


def ends_with_the_same_bits(
    flat: Flat, tmp_path: Path, fate: Fate, seed: int, interruptions: int, go: Callable[[Flat], Ran]
) -> None:
    """So many deaths at random points, several to a run."""
    fate.live(-1)
    whole = go(flat)
    points, rows = fate.passed, rows_of(whole)
    rng, deaths = np.random.default_rng(seed), 0
    for number in range(1000):
        if deaths >= interruptions:
            break
        again = {**flat, "runs-dir": str(tmp_path / str(number))}
        folder = tmp_path / str(number) / "run"
        ended = None
        while ended is None:
            fate.live(int(rng.integers(points)))
            try:
                ended = go(goes_on(again, folder))
            except DeathError:
                deaths += 1
        for found, wanted in zip(ended.lines_without("seconds"), whole.lines_without("seconds"), strict=True):
            assert {k: (v, wanted[k]) for k, v in found.items() if v != wanted[k]} == {}
        assert ended.parameter_bytes == whole.parameter_bytes
        assert ended.summary["final"] == whole.summary["final"]
        again_rows = rows_of(ended)
        assert all(torch.equal(again_rows[client], rows[client]) for client in rows)
    assert deaths >= interruptions
    assert points > 100


@pytest.mark.parametrize("kind", ["device correction", "server correction, moments that go on, an average", "released"])
def test_without_its_newest_checkpoint_too(make_flat: MakeFlat, tmp_path: Path, fate: Fate, kind: str) -> None:
    """Damaged while the run was down: the one before it serves, and what clients and rows hold of that round is still there."""
    flat = make_flat(rounds=4, run_name="run", runs_dir=str(tmp_path / "whole"), clients_per_round=4, **KINDS[kind])
    fate.live(-1)
    whole, points = go(flat), fate.passed
    for number in range(points // 2, points, points // 16):
        again = {**flat, "runs-dir": str(tmp_path / str(number))}
        folder = tmp_path / str(number) / "run"
        fate.live(number)
        with pytest.raises(DeathError):
            go(again)
        *_, newest = sorted((folder / "checkpoints").glob("round-*.safetensors"))
        newest.write_bytes(newest.read_bytes()[:-1])
        fate.live(-1)
        ended = go(goes_on(again, folder))
        assert ended.lines_without("seconds") == whole.lines_without("seconds")
        assert ended.parameter_bytes == whole.parameter_bytes
        assert ended.summary["final"] == whole.summary["final"]
