"""What a client keeps between rounds, in two phases (section 2.5: commit on acknowledgement).

A client keeps the state whose round the server has accepted, and the one it made last, whose fate it does not know yet.
Each message tells it the last round in which its reply was accepted; it goes on from the state of that round. So late,
refused and lost replies leave both ends in agreement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from federation.messages import NodeError

DITTO = "ditto."
"""Before the names of a personal model beside the shared one."""
DIFFICULTY = "difficulty"
"""Name of f(s) of the client's training examples, [n]."""
FISHER = "fisher."
"""Before the names of matrices: their Fisher information over the client's rounds."""
UPDATE_SHARE = "update share"
"""Name of r_i, the client's own share of what it updates outside S, [1]."""
LOG_PRIOR = "log prior"
"""Name of what the client adds to its class scores, [classes] in nats."""


class StateError(RuntimeError):
    """A client's state cannot be kept or read for now; the client's reply says why, and the round goes on without it."""


class StateBoundError(StateError, NodeError):
    """It takes more than the node has for it; in numbers and the setting's name, no path and nothing of the data."""


@dataclass(frozen=True)
class ClientState:
    """What stays on the device.

    Attributes:
        round: the round that made it.
        epoch: of its control variate.
        local: what does not travel by name, float32 (after a warm-up round all that may stay here later); a second,
            personal model under names with DITTO before them; LOG_PRIOR, DIFFICULTY, FISHER, UPDATE_SHARE.
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
    """The port: three verbs. On disk: client_app/disk_store.py."""

    def resume(self, client: int, accepted: int) -> ClientState | None:
        """The state of round `accepted`, which is committed. None: there is no such state, or it was lost.

        Later ones are dropped. Of earlier ones the last few may stay, for a server that goes on from an earlier checkpoint.

        Raises:
            StateError: it cannot be read for now.
        """

    def look(self, client: int, accepted: int) -> ClientState | None:
        """The same, and nothing is committed or dropped: to evaluate, before the server's checkpoint is written.

        Raises:
            StateError: it cannot be read for now.
        """

    def keep(self, client: int, state: ClientState) -> None:
        """Keeps a state whose reply is not accepted yet, beside the accepted one.

        Raises:
            StateError: there is no place for it; what was kept before is as it was.
        """


class MemoryStore:
    """In memory, for tests and experiments of one process; kept: accepted states that stay."""

    def __init__(self, kept: int = 1) -> None:
        self._kept = kept
        self._states: dict[int, dict[int, ClientState]] = {}  # client -> round -> state

    def resume(self, client: int, accepted: int) -> ClientState | None:
        """See StateStore."""
        states = self._states.pop(client, {})
        stay = sorted(made for made in states if made <= accepted)[-self._kept :]
        self._states[client] = {made: states[made] for made in stay}
        return states.get(accepted)

    def look(self, client: int, accepted: int) -> ClientState | None:
        """See StateStore."""
        return self._states.get(client, {}).get(accepted)

    def keep(self, client: int, state: ClientState) -> None:
        """See StateStore."""
        self._states.setdefault(client, {})[state.round] = state
