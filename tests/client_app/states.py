"""States of a client for tests, and a store on disk for them."""

from __future__ import annotations

from pathlib import Path

import torch

from client_app.disk_store import DiskStore
from client_app.state import ClientState
from client_app.state_file import Owner

CLIENT, RUN, FITS = 7, "demo", "fingerprint"
OWNER = Owner(RUN, CLIENT, FITS)


def on_disk(folder: Path, part: int = 0, kept: int = 1) -> DiskStore:
    return DiskStore(folder, RUN, FITS, part, kept)


def state(made_in: int, epoch: int = 0) -> ClientState:
    """All fields differ from their defaults."""
    local = {"prompt.1": torch.tensor([made_in + 0.25, -1.0]), "prompt.4": torch.full((2, 3), 0.5)}
    moments = torch.tensor([[made_in + 0.75, 1.0], [2.0, 3.0]])
    control, residual = torch.tensor([made_in + 0.5]), torch.tensor([made_in + 0.125])
    return ClientState(made_in, epoch, local, control, moments, made_in + 9, True, residual)


def same(a: ClientState | None, b: ClientState | None) -> bool:
    if a is None or b is None:
        return a is b
    numbers = [(s.round, s.epoch, s.steps, s.warm_up, sorted(s.local)) for s in (a, b)]
    pairs = [(a.local[name], b.local[name]) for name in a.local if name in b.local]
    optional = [(getattr(a, name), getattr(b, name)) for name in ("control", "moments", "residual")]
    pairs += [(x, y) for x, y in optional if x is not None and y is not None]
    absent = all((x is None) == (y is None) for x, y in optional)
    return numbers[0] == numbers[1] and absent and all(torch.equal(x, y) for x, y in pairs)
