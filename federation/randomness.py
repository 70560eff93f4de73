"""Every random number of a run comes from here: a generator for (seed, what it is for), never a global state.

Streams named by what they are for do not depend on who draws first, on the process, or on the order of clients.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A NumPy generator for one purpose, e.g. `generator(seed, "batches", client, round)`."""
    plain = [part if isinstance(part, str) else int(part) for part in (seed, *path)]  # NumPy's integers print otherwise
    digest = hashlib.sha256(repr(tuple(plain)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def torch_seed(seed: int, *path: str | int) -> int:
    """A seed for `torch.manual_seed`, for the one thing that needs a global state: dropout."""
    return int(generator(seed, *path).integers(2**62))
