"""The form of a client's state on disk: safetensors whose metadata say whose it is and of which version, under one checksum.

The checksum (sha256) is over all bytes of the file, with zeros in its own place, and it is looked at before anything is parsed.
Reading executes nothing. The checksum keeps out damage, not malice: who can write to the folder can write a state.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from client_app.state import ClientState

FORM = 2
"""Of the files that this version writes and reads; files of form 1 had no checksum."""
_SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_BLANK = "0" * 64
_LOCAL = "local."
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
    tensors |= {name: value for name in ("control", "moments") if (value := getattr(state, name)) is not None}
    facts = {name: str(int(getattr(state, name))) for name in _NUMBERS}
    facts |= {"run": owner.run, "client": str(owner.client), "fingerprint": owner.fingerprint}
    facts |= {"form": str(FORM), "sha256": _BLANK}
    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, facts)
    digest = hashlib.sha256(content).hexdigest()
    return _SEAL.sub(f'"sha256":"{digest}"'.encode(), content, count=1)


def unpack(content: bytes) -> tuple[Owner, ClientState]:
    """A file's content as a state, and whose it is.

    Raises:
        NotAStateError: it is damaged, of another version, or something else.
    """
    _check_seal(content)
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts: dict[str, Any] = header["__metadata__"]
        if facts["form"] == str(FORM):
            return _unpack(content, facts)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise NotAStateError(f"is no client's state ({type(error).__name__}: {error})") from error
    raise NotAStateError(f"is of form {facts['form']}, and this version reads form {FORM}")


def _unpack(content: bytes, facts: dict[str, Any]) -> tuple[Owner, ClientState]:
    tensors = load(content)
    numbers = {name: int(facts[name]) for name in _NUMBERS}
    return Owner(facts["run"], int(facts["client"]), facts["fingerprint"]), ClientState(
        round=numbers["round"],
        epoch=numbers["epoch"],
        local={name.removeprefix(_LOCAL): value for name, value in tensors.items() if name.startswith(_LOCAL)},
        control=tensors.get("control"),
        moments=tensors.get("moments"),
        steps=numbers["steps"],
        warm_up=numbers["warm_up"] == 1,
    )


def _check_seal(content: bytes) -> None:
    seal = _SEAL.search(content)
    if seal is None:
        raise NotAStateError("has no checksum: it is cut short, of an older version, or no client's state")
    digest = hashlib.sha256(memoryview(content)[: seal.start(1)])
    digest.update(_BLANK.encode())
    digest.update(memoryview(content)[seal.end(1) :])
    if digest.hexdigest().encode() != seal[1]:
        raise NotAStateError("is damaged: its checksum does not fit its content")
