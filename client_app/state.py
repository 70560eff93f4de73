"""Where a client's state lives between rounds, in two phases (section 2.5: commit on acknowledgement).

A client keeps the state whose round the server has accepted, and the one it made last, whose fate it does not know yet.
Each message tells it the last round in which its reply was accepted; it goes on from the state of that round. So late,
refused and lost replies leave both ends in agreement.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

logger = logging.getLogger(__name__)
_LOCAL = "local."
_DAMAGE = (SafetensorError, KeyError, TypeError, ValueError)  # what reading a broken file raises


@dataclass(frozen=True)
class ClientState:
    """What stays on the device.

    Attributes:
        round: the round that made it.
        epoch: of its control variate.
        local: prompts by name, float32: those that do not travel; after a warm-up round all, since any may stay here later.
        control: c_i over the parameters that travel, [R] float32; None without device correction.
        moments: Adam's m and v over all that the client trains, [2, R] float32; None where they start anew each round.
        steps: optimiser steps behind the moments.
        warm_up: made in a warm-up round, whose moments and residual do not go on after the selection.
        residual: r_i, what rounding took from the update so far, [R] float32; None without error feedback.
    """

    round: int
    epoch: int
    local: Mapping[str, Tensor]
    control: Tensor | None = None
    moments: Tensor | None = None
    steps: int = 0
    warm_up: bool = False
    residual: Tensor | None = None


class StateStore(Protocol):
    """The port: two verbs."""

    def resume(self, client: int, accepted: int) -> ClientState | None:
        """The state of round `accepted`, which is committed; others are dropped. None: there is no such state, or it was lost."""

    def keep(self, client: int, state: ClientState) -> None:
        """Keeps a state whose reply is not accepted yet."""


class DiskStore:
    """A folder per client with `accepted.safetensors` and `pending.safetensors`; writes are atomic.

    Args:
        folder: of one run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def resume(self, client: int, accepted: int) -> ClientState | None:
        """See StateStore. A file that cannot be read is set aside as `.damaged` and counts as lost."""
        kept, pending = self._path(client, "accepted"), self._path(client, "pending")
        state = _read(pending)
        if accepted and state is not None and state.round == accepted:
            os.replace(pending, kept)
            return state
        pending.unlink(missing_ok=True)
        state = _read(kept)
        if state is None or state.round != accepted:
            kept.unlink(missing_ok=True)
            return None
        return state

    def peek(self, client: int, accepted: int) -> ClientState | None:
        """As resume, for a reader beside the run: commits, drops and sets aside nothing."""
        for phase in ("accepted", "pending"):
            with contextlib.suppress(FileNotFoundError, *_DAMAGE):
                state = _load(self._path(client, phase))
                if accepted and state.round == accepted:
                    return state
        return None

    def keep(self, client: int, state: ClientState) -> None:
        """Writes the pending state; a crash in between leaves the old one or the new one."""
        path = self._path(client, "pending")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(_pack(state))
        os.replace(temporary, path)

    def _path(self, client: int, phase: str) -> Path:
        return self._folder / f"client-{client}" / f"{phase}.safetensors"


def _pack(state: ClientState) -> bytes:
    tensors = {f"{_LOCAL}{name}": value for name, value in state.local.items()}
    tensors |= {
        name: value for name in ("control", "moments", "residual") if (value := getattr(state, name)) is not None
    }
    numbers = {name: str(int(getattr(state, name))) for name in ("round", "epoch", "steps", "warm_up")}
    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, numbers)


def _load(path: Path) -> ClientState:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    return ClientState(
        round=int(metadata["round"]),
        epoch=int(metadata["epoch"]),
        local={name.removeprefix(_LOCAL): value for name, value in tensors.items() if name.startswith(_LOCAL)},
        control=tensors.get("control"),
        moments=tensors.get("moments"),
        steps=int(metadata["steps"]),
        warm_up=metadata["warm_up"] == "1",
        residual=tensors.get("residual"),
    )


def _read(path: Path) -> ClientState | None:
    try:
        return _load(path)
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        aside = path.with_suffix(".damaged")
        logger.warning("%s cannot be read (%s): set aside as %s, the client starts anew", path, error, aside.name)
        os.replace(path, aside)
        return None


class MemoryStore:
    """The same in memory, for tests and experiments of one process."""

    def __init__(self) -> None:
        self._accepted: dict[int, ClientState] = {}
        self._pending: dict[int, ClientState] = {}

    def resume(self, client: int, accepted: int) -> ClientState | None:
        """See StateStore."""
        pending = self._pending.pop(client, None)
        if accepted and pending is not None and pending.round == accepted:
            self._accepted[client] = pending
        state = self._accepted.get(client)
        if state is None or state.round != accepted:
            self._accepted.pop(client, None)
            return None
        return state

    def keep(self, client: int, state: ClientState) -> None:
        """See StateStore."""
        self._pending[client] = state
