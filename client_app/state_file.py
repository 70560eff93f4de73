"""The form of a client's state on disk: sealed, with whose it is and of which version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from client_app.state import ClientState
from federation.sealed import NotSealedError, facts_of, seal, tensors_of

FORM = 2
"""Of the files that this version writes and reads; files of form 1 had no checksum."""
_LOCAL = "local."
_OPTIONAL = ("control", "moments", "residual")
_NUMBERS = ("round", "epoch", "steps", "warm_up")


class NotAStateError(Exception):
    """What lies there is no state that this version reads; the message is a clause that says why."""


@dataclass(frozen=True)
class Owner:
    """Whose a state is.

    Attributes:
        run: the run's name.
        client: its number.
        fingerprint: of what a state fits: model, data, prompts, head.
    """

    run: str
    client: int
    fingerprint: str

    def differs(self, other: Owner) -> str:
        """What tells the other owner from this one, as a clause; "" if they are the same."""
        if other.run != self.run:
            return f"belongs to run {other.run!r}"
        if other.client != self.client:
            return f"belongs to client {other.client}"
        return "" if other == self else "was made with another model, other data, prompts or labels"


def pack(state: ClientState, owner: Owner) -> bytes:
    """A state as a file's content."""
    tensors = {f"{_LOCAL}{name}": value for name, value in state.local.items()}
    tensors |= {name: value for name in _OPTIONAL if (value := getattr(state, name)) is not None}
    facts = {name: str(int(getattr(state, name))) for name in _NUMBERS}
    facts |= {"run": owner.run, "client": str(owner.client), "fingerprint": owner.fingerprint}
    return seal(tensors, {**facts, "form": str(FORM)})


def unpack(content: bytes) -> tuple[Owner, ClientState]:
    """A file's content as a state, and whose it is.

    Raises:
        NotAStateError: it is damaged, of another version, or something else.
    """
    try:
        facts = facts_of(content)
        if facts["form"] == str(FORM):
            return _unpack(facts, tensors_of(content))
    except NotSealedError as error:
        raise NotAStateError(str(error)) from error
    except (KeyError, ValueError) as error:
        raise NotAStateError(f"is no client's state ({type(error).__name__}: {error})") from error
    raise NotAStateError(f"is of form {facts['form']}, and this version reads form {FORM}")


def _unpack(facts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> tuple[Owner, ClientState]:
    numbers = {name: int(facts[name]) for name in _NUMBERS}
    return Owner(facts["run"], int(facts["client"]), facts["fingerprint"]), ClientState(
        round=numbers["round"],
        epoch=numbers["epoch"],
        local={name.removeprefix(_LOCAL): value for name, value in tensors.items() if name.startswith(_LOCAL)},
        **{name: tensors.get(name) for name in _OPTIONAL},
        steps=numbers["steps"],
        warm_up=numbers["warm_up"] == 1,
    )
