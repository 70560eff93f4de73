"""What a server goes on from when it died: one sealed file per round, the last few of them kept.

A checkpoint is written when its round's line is on disk, and before the next round is asked for. Random state is none of it:
everything random follows from the seed, the round and the client.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from federation.durable import make_folder, write_atomically
from federation.logs import event
from federation.messages import Evaluation
from federation.resuming import RESUME
from federation.sealed import NotSealedError, facts_of, seal, tensors_of
from federation.settings import Flat, Scalar, defaults
from fedpeptao.errors import InputError, RunError
from server_app.assembly import ROWS
from server_app.console import warn
from server_app.run_folder import METRICS, keeping, plain, read_history
from strategies.drift import DriftState
from strategies.fedpeptao import State
from strategies.standing import Standing

FORM = 2
"""Of the files that this version writes and reads."""
FOLDER = "checkpoints"
MAY_CHANGE = frozenset(
    (
        *("rounds", "final-local-epochs", "test-every", "evaluate-every", "round-timeout-s", "checkpoints"),
        *("min-clients", "quorum", "quorum-wait-s", "over-sampling", "state-disk-mb"),
        *("norm-limit", "strikes", "message-limit-mb"),
        *("resume", "runs-dir", "run-name"),
    )
)
"""Settings that a run may go on with at another value: they change no bit of the rounds before."""
_ASIDE = "set-aside"


@dataclass(frozen=True)
class Identity:
    """What has to be the same for a run to go on.

    Attributes:
        settings: the whole flat run-config.
        model: fingerprints of what is frozen (`federation.resources.frozen`).
        data: sha256 over the data set.
        clients: client -> (n_i, K_i), from the roll call.
    """

    settings: Flat
    model: str
    data: str
    clients: Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        state: of the strategy.
        warm_up: whether the layers are not selected yet.
        layers: S, or all in the warm-up.
        known: what the summary says already: labels, layer scores, the estimate of the ratio.
        sent: x that the last closed round sent out, for an estimate at it; in the warm-up alone. None: state.x.
        evaluation: client -> counts, of the evaluation over all clients after this round; empty if there was none.
        standing: of the clients.
    """

    state: State
    warm_up: bool
    layers: tuple[int, ...]
    known: Mapping[str, Any]
    sent: Tensor | None = None
    evaluation: Mapping[int, Evaluation] = field(default_factory=dict)
    standing: Standing = field(default_factory=Standing)


class Checkpoints:
    """The checkpoints of one run's folder.

    Args:
        folder: of the run.
        kept: how many stay, at least 1.
    """

    def __init__(self, folder: Path, kept: int) -> None:
        self._run, self._folder, self._kept = folder, folder / FOLDER, kept

    def save(self, identity: Identity, progress: Progress) -> None:
        """On disk when this returns, with all that it counts on.

        Raises:
            RunError: the disk does not take it; what was kept before is as it was.
        """
        path = self._folder / f"round-{progress.state.round:06d}.safetensors"
        with keeping(f"round {progress.state.round}", path, self._run):
            make_folder(self._folder)
            _sync(self._run / ROWS)
            write_atomically(path, _pack(identity, progress, self._history()))
            for old in self._paths()[self._kept :]:
                old.unlink()
            event("checkpoint kept", round=progress.state.round, file=path.name, bytes=path.stat().st_size)

    def latest(self) -> tuple[Identity, Progress] | None:
        """The newest that is whole; metrics.jsonl is cut to what it counts on. None where no round has ended yet.

        A damaged one is set aside, and the one before it serves.

        Raises:
            InputError: it is of another version.
            RunError: metrics.jsonl is not what it counts on; or none is left of a run whose rounds ended.
        """
        paths = self._paths()
        for path in paths:
            try:
                facts, tensors = _read(path)
            except NotSealedError as error:
                aside = _set_aside(path)
                event("checkpoint set aside", logging.WARNING, file=path.name, why=str(error))
                then = "none is before it" if path == paths[-1] else "the one before it is looked at"
                warn(f"the checkpoint {path} {error}: set aside as {aside.name}, {then}")
                continue
            self._cut_history(json.loads(facts["history"]))
            return _unpack(facts, tensors)
        self._check_nothing_was_done()
        self._cut_history({"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()})
        return None

    def _check_nothing_was_done(self) -> None:
        """A run without a checkpoint begins anew where no round of it has ended; RunError elsewhere."""
        aside = sorted(path.name for path in self._folder.glob(f"round-*.{_ASIDE}-*"))
        begun = [name for name in aside if not name.startswith("round-000000.")]
        if not begun and not _has_rounds(self._run):
            return
        there = f"{', '.join(aside)} were damaged" if aside else "there is none"
        raise RunError(
            f"no whole checkpoint is left in {self._folder}: {there}. Restore one from a copy, under its name "
            f"round-<t>.safetensors, and go on; or start another run. {METRICS} is as it was"
        )

    def _paths(self) -> list[Path]:
        """Newest first."""
        return sorted(self._folder.glob("round-*.safetensors"), reverse=True)

    def _history(self) -> dict[str, Any]:
        content = (self._run / METRICS).read_bytes()
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def _cut_history(self, wanted: Mapping[str, Any]) -> None:
        """Lines of rounds that will be run again go; what is kept has to be what was there."""
        path = self._run / METRICS
        content = path.read_bytes()[: wanted["bytes"]]
        if hashlib.sha256(content).hexdigest() != wanted["sha256"]:
            raise RunError(
                f"{path} was changed since the checkpoint was made: restore it from a copy, or start another run"
            )
        with path.open("r+b") as file:
            file.truncate(wanted["bytes"])
            os.fsync(file.fileno())


def check_identity(was: Identity, now: Identity, resumed: Path) -> None:
    """A run goes on with what it began with.

    Raises:
        InputError: something differs; it is named.
    """
    for key, value in now.settings.items():
        before = was.settings.get(key, defaults()[key])  # a setting that came later was at its default
        if key not in MAY_CHANGE and before != value:
            raise _differs(resumed, f"the run began with {key} = {before!r}, and now it is {value!r}")
    if unknown := sorted(set(was.settings) - set(now.settings)):
        raise _differs(resumed, f"the run began with {unknown[0]}, which this version does not know")
    frozen = zip(("model", "prompt that is mixed"), was.model.split("+"), now.model.split("+"), strict=False)
    for what, before, value in (*frozen, ("data set", was.data, now.data)):
        if before != value:
            raise _differs(resumed, f"the {what} is another one (fingerprint {before[:8]}, now {value[:8]})")
    for client, (examples, steps) in sorted(was.clients.items()):
        found = now.clients.get(client)
        if found is not None and found != (examples, steps):
            figures = f"{examples} examples and {steps} steps a round, and now has {found[0]} and {found[1]}"
            raise _differs(resumed, f"client {client} began with {figures}")


def _differs(resumed: Path, problem: str) -> InputError:
    mend = f"Give the run's own settings and data (its settings stand in {resumed / RESUME}), or start another run"
    return InputError("resume", str(resumed), problem, mend)


# -- the form ----------------------------------------------------------------------------------------------


def _pack(identity: Identity, progress: Progress, history: Mapping[str, Any]) -> bytes:
    state = progress.state
    numbers = [(client, *figures) for client, figures in sorted(identity.clients.items())]
    tensors = {
        "x": state.x,
        **{f"moment.{name}": value for name, value in state.moments.items()},
        "accepted": torch.tensor(sorted(state.accepted.items()), dtype=torch.int64).reshape(-1, 2),
        "clients": torch.tensor(numbers, dtype=torch.int64).reshape(-1, 3),
    }
    sent = None if progress.sent is state.x else progress.sent  # before the first round they are one
    optional = {"control": state.drift.control, "vbar": state.vbar, "sent": sent, "average": state.average}
    tensors |= {name: value for name, value in optional.items() if value is not None}
    drift = {key: value for key, value in vars(state.drift).items() if key != "control"}
    facts: dict[str, object] = {
        "form": FORM,
        "settings": dict(identity.settings),
        "model": identity.model,
        "data": identity.data,
        "round": state.round,
        "updates": state.updates,
        "names": list(state.names),
        "drift": drift,
        "warm_up": progress.warm_up,
        "layers": list(progress.layers),
        "known": plain(progress.known),
        "evaluation": {client: asdict(counts) for client, counts in sorted(progress.evaluation.items())},
        "standing": asdict(progress.standing),
        "history": dict(history),
    }
    return seal(tensors, {key: json.dumps(value) for key, value in facts.items()})


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    facts = facts_of(content)
    form = facts.get("form")
    if form != str(FORM):
        problem = f"its checkpoint {path.name} is of form {form}, and this version reads form {FORM}"
        raise InputError(
            "resume", str(path.parent.parent), problem, "Go on with the version that made it, or start anew"
        )
    return facts, tensors_of(content)


def _unpack(facts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> tuple[Identity, Progress]:
    told: dict[str, Any] = {key: json.loads(value) for key, value in facts.items()}
    clients = {client: (examples, steps) for client, examples, steps in tensors["clients"].tolist()}
    settings: dict[str, Scalar] = told["settings"]
    state = State(
        round=told["round"],
        updates=told["updates"],
        names=tuple(told["names"]),
        x=tensors["x"],
        moments={name.removeprefix("moment."): v for name, v in tensors.items() if name.startswith("moment.")},
        drift=DriftState(control=tensors.get("control"), **told["drift"]),
        vbar=tensors.get("vbar"),
        accepted=dict(tensors["accepted"].tolist()),
        average=tensors.get("average"),
    )
    evaluation = {int(client): _evaluation(counts) for client, counts in told["evaluation"].items()}
    strikes, refused = (
        {int(client): n for client, n in told["standing"][key].items()} for key in ("strikes", "refused")
    )
    standing = Standing(tuple(told["standing"]["norms"]), strikes, refused)
    layers, sent = tuple(told["layers"]), tensors.get("sent")
    progress = Progress(state, told["warm_up"], layers, told["known"], sent, evaluation, standing)
    return Identity(settings, told["model"], told["data"], clients), progress


def _evaluation(counts: Mapping[str, Any]) -> Evaluation:
    found: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in counts.items()}
    return Evaluation(**found)


def _sync(path: Path) -> None:
    """Rows that lie beside the state are on disk before a state that counts on them."""
    if path.exists():
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _has_rounds(run: Path) -> bool:
    """Whether a line of metrics.jsonl is of a round that was trained for, or says nothing that can be read."""
    try:
        return any(line.get("round") != 0 for line in read_history(run))
    except ValueError:
        return True


def _set_aside(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.{_ASIDE}-{number}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    return aside
