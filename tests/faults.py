"""Faults, each put in on purpose in a small run: what happens, and what is lost.

    python -m tests.faults

runs each on the in-process grid, and writes docs/FAULTS.md and results/faults.json; tests/test_faults.py runs the same.
A fault is a function that does the harm, and asserts what the table says of it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, Context, Message, RecordDict

from client_app import host
from client_app.app import app
from client_app.disk_store import DiskStore
from client_app.state import ClientState
from client_app.state_file import FORM, Owner, pack
from experiments.machine import RESULTS, facts, write
from federation.sealed import facts_of, seal, tensors_of
from fedpeptao.errors import InputError, RunError
from server_app.checkpoint import Checkpoints
from server_app.course import Course
from server_app.rounds import Rounds
from server_app.run_folder import RunFolder
from strategies.fedpeptao import FedPepTAO
from strategies.shell import SelectiveStrategy
from tests import faults_coming, faults_messages
from tests.coming import AGAIN, FIRST
from tests.fault_stage import DEADLINE_S, ROUND, VICTIM, DeathError, FullDisk, Stage, Strike, harmed, harms, same_end
from tests.fault_table import NOTHING, Fault, row, table

PAGE = RESULTS.parent / "docs" / "FAULTS.md"
ITS_ROUND, ITS_PART = "the work of the round it died in", "that client's part of that round"
ITS_ROUNDS = "that client's part of the rounds between"


# -- the server dies ---------------------------------------------------------------------------------------


def server_dies(owner: Any, name: str, number: int, after: bool = False, **changes: Any) -> Strike:
    """At a call of something; gone on with, the run ends as if nothing had been."""

    def strike(stage: Stage) -> None:
        flat = stage.flat(evaluate_every=2, **changes)
        whole = stage.whole(flat)
        with stage.death(owner, name, number, after):
            stage.go(flat)
        assert same_end(stage.go_on(flat), whole)

    return strike


DEATHS: dict[str, Strike] = {
    "before the roll call": server_dies(Course, "_roll_call", 1),
    "after the roll call, before the first checkpoint": server_dies(Checkpoints, "save", 1),
    "before a round's messages are sent": server_dies(SelectiveStrategy, "train_messages", ROUND),
    "while replies come in": server_dies(FedPepTAO, "fold", 5 * (ROUND - 1) + 3),
    "when all have come, before its step": server_dies(FedPepTAO, "step", ROUND),
    "after its step, before the parameters are kept": server_dies(Rounds, "_tested", ROUND + 1),
    "before an evaluation over all clients": server_dies(SelectiveStrategy, "evaluate_messages", 1),
    "in an evaluation over all clients": server_dies(host, "evaluate", 3),
    "before a round's line is written": server_dies(RunFolder, "append", ROUND + 1),
    "after its line, before its checkpoint": server_dies(Checkpoints, "save", ROUND + 1),
    "after its checkpoint": server_dies(Checkpoints, "save", ROUND + 1, after=True),
    "after the last round, before the summary": server_dies(Checkpoints, "save", 5, after=True),
    "in a warm-up round": server_dies(FedPepTAO, "step", 1, ratio="plateau", warmup_rounds=2, curvature_steps=4),
    "between the warm-up and the estimate of the ratio": server_dies(
        SelectiveStrategy, "curvature_messages", 1, ratio="plateau", warmup_rounds=2, curvature_steps=4
    ),
}


# -- a client dies -----------------------------------------------------------------------------------------


def client_dies(owner: Any, name: str, after: bool) -> Strike:
    """Its message gets an error for an answer; the others go on, and it is back in the next round."""

    def strike(stage: Stage) -> None:
        flat, real = stage.flat(), getattr(owner, name)

        def deadly(*given: Any, **named: Any) -> Any:
            dies = now() == ROUND and own()
            if dies and not after:
                raise MemoryError("killed")
            answer = real(*given, **named)
            if dies:
                raise MemoryError("killed")
            return answer

        at: dict[str, int] = {}
        train = host.train

        def watched(settings: Any, ask: Any, client: int, *rest: Any) -> Any:
            at.update(round=ask.round, client=client)
            return train(settings, ask, client, *rest)

        def now() -> int:
            return at.get("round", 0)

        def own() -> bool:
            return at.get("client") == VICTIM

        with stage.patch.context() as patch:
            patch.setattr(host, "train", watched)
            patch.setattr(owner, name, deadly) if owner is not host or name != "train" else None
            ran = stage.go(flat)
        lines = ran.lines
        assert [line["accepted"] for line in lines[1:]] == [5, 4, 5, 5]
        assert list(lines[ROUND]["failed"]) == [str(VICTIM)]
        assert ran.summary["status"] == "completed"

    return strike


CLIENT_DEATHS: dict[str, Strike] = {
    "while it trains": client_dies(host, "local_update", after=False),
    "after training, before its state is kept": client_dies(host, "local_update", after=True),
    "after its state is kept, before its reply": client_dies(DiskStore, "keep", after=True),
}


def all_fail(stage: Stage) -> None:
    """The run stops with its checkpoint, and ends later as if nothing had been."""
    flat = stage.flat()
    whole = stage.whole(flat)
    with stage.patch.context() as patch:
        real = host.train

        def tired(settings: Any, ask: Any, client: int, *rest: Any) -> Any:
            if ask.round == ROUND:
                raise ValueError("tired")
            return real(settings, ask, client, *rest)

        patch.setattr(host, "train", tired)
        with pytest.raises(RunError, match=rf"round {ROUND}: no client gave an update.*tired.*--resume"):
            stage.go(flat)
    assert json.loads((stage.run / "summary.json").read_text())["status"] == "failed"
    assert same_end(stage.go_on(flat), whole)


# -- disks -------------------------------------------------------------------------------------------------


def server_disk_full(stage: Stage) -> None:
    flat = stage.flat()
    whole = stage.whole(flat)
    with stage.patch.context() as patch:
        FullDisk(patch, lambda path: path.endswith(f"checkpoints/round-{ROUND:06d}.safetensors"))
        with pytest.raises(RunError, match=rf"round {ROUND} cannot be kept.*No space left on device.*--resume"):
            stage.go(flat)
    assert sorted(path.name for path in (stage.run / "checkpoints").iterdir()) == [
        f"round-{made:06d}.safetensors" for made in (ROUND - 2, ROUND - 1)
    ]
    assert same_end(stage.go_on(flat), whole)


def client_disk_full(stage: Stage) -> None:
    with stage.patch.context() as patch:
        FullDisk(patch, lambda path: path.endswith(f"client-{VICTIM}/round-{ROUND}.safetensors"))
        ran = stage.go(stage.flat())
    why = ran.lines[ROUND]["failed"][str(VICTIM)]
    assert "No space left on device" in why
    assert [line["accepted"] for line in ran.lines[1:]] == [5, 4, 5, 5]
    assert not list(stage.state(ROUND).parent.glob(".*"))


def checkpoint_harmed(how: str) -> Strike:
    """The one before it serves."""

    def strike(stage: Stage) -> None:
        flat = stage.flat(drift_correction="server")
        whole = stage.whole(flat)
        with stage.death(FedPepTAO, "step", ROUND + 1):
            stage.go(flat)
        path = stage.run / "checkpoints" / f"round-{ROUND:06d}.safetensors"
        content = harmed(path, how)
        ran = stage.go_on(flat)
        assert (path.parent / f"{path.stem}.set-aside-1").read_bytes() == content
        assert ran.summary["resumed"][0]["round"] == ROUND - 1
        assert same_end(ran, whole)

    return strike


def checkpoint_of_another_version(stage: Stage) -> None:
    flat = stage.flat()
    with stage.death(FedPepTAO, "step", ROUND + 1):
        stage.go(flat)
    path = stage.run / "checkpoints" / f"round-{ROUND:06d}.safetensors"
    whole, content = path.read_bytes(), path.read_bytes()
    path.write_bytes(seal(tensors_of(content), {**facts_of(content), "form": "0"}))
    with pytest.raises(InputError, match="is of form 0, and this version reads"):
        stage.go_on(flat)
    path.write_bytes(whole)
    assert stage.go_on(flat).summary["status"] == "completed"


def two_servers(stage: Stage) -> None:
    flat = stage.flat()
    whole = stage.whole(flat)
    with stage.death(FedPepTAO, "step", ROUND):
        stage.go(flat)
    first = RunFolder.reopen(stage.run)
    with pytest.raises(InputError, match="a server that is alive works in this folder"):
        stage.go_on(flat)
    first.close()
    assert same_end(stage.go_on(flat), whole)


def read_only_folder(stage: Stage) -> None:
    def refused(*given: object, **named: object) -> None:
        raise OSError(30, "Read-only file system")

    with stage.patch.context() as patch:
        patch.setattr(Path, "mkdir", refused)
        with pytest.raises(InputError, match=r"runs-dir.*Read-only file system.*Name a folder that you can write to"):
            stage.go(stage.flat())
    assert not stage.run.exists()


# -- a client's state --------------------------------------------------------------------------------------


def state_harmed(harm: Callable[[Path], None], why: str) -> Strike:
    """It is set aside, and its client starts anew."""

    def strike(stage: Stage) -> None:
        flat, warned = stage.flat(), []
        real = DiskStore.resume

        def before(store: DiskStore, client: int, accepted: int) -> ClientState | None:
            if client == VICTIM and accepted == ROUND and stage.state(ROUND).exists() and not warned:
                harm(stage.state(ROUND))
                warned.append(client)
            return real(store, client, accepted)

        with stage.patch.context() as patch:
            patch.setattr(DiskStore, "resume", before)
            ran = stage.go(flat)
        assert warned
        assert [line["accepted"] for line in ran.lines[1:]] == [5, 5, 5, 5]
        assert stage.state(ROUND).with_suffix(".set-aside-1").exists()
        log = [json.loads(line) for line in (stage.run / "log.jsonl").read_text().splitlines()]
        (line,) = [line for line in log if "set aside" in line["event"]]
        assert why in line["event"]
        assert (line["client"], line["level"]) == (VICTIM, "warning")

    return strike


def from_the_future(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(seal(tensors_of(content), {**facts_of(content), "form": str(FORM + 1)}))


def foreign(path: Path) -> None:
    path.write_bytes(pack(ClientState(ROUND, 0, {}), Owner("another", VICTIM, "another")))


STATES: dict[str, Strike] = {
    "cut short": state_harmed(lambda path: void(harmed(path, "cut")), "is damaged"),
    "with a flipped bit": state_harmed(lambda path: void(harmed(path, "flip")), "is damaged"),
    "of another run": state_harmed(foreign, "belongs to run 'another'"),
    "of a later version": state_harmed(from_the_future, f"is of form {FORM + 1}"),
}


def void(value: object) -> None:
    """For harms whose result nobody needs."""


# -- what arrives is bad -----------------------------------------------------------------------------------

Spoil = Callable[[RecordDict], None]


def bad_update(spoil: Spoil, why: str) -> Strike:
    """The victim's update of one round is refused and named; the round closes with the others, and its next one counts."""

    def strike(stage: Stage) -> None:
        def spoilt(message: Message, context: Context) -> Message:
            reply = app(message, context)
            if harms(message):
                spoil(reply.content)
            return reply

        ran = stage.go(stage.flat(norm_limit=100.0), client_app=spoilt)
        reason = ran.lines[ROUND]["failed"][str(VICTIM)]
        assert reason.startswith("refused: ")
        assert why in reason
        assert [line["accepted"] for line in ran.lines[1:]] == [5, 4, 5, 5]
        assert ran.summary["refused"] == {str(VICTIM): 1}
        assert all(torch.isfinite(value).all() for value in ran.parameters.values())

    return strike


def update_of(content: RecordDict) -> Any:
    return content.array_records[f"update.{VICTIM}"]


def first(content: RecordDict, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the first array of the update."""
    update = update_of(content)
    name = sorted(update)[0]
    update[name] = Array(change(np.array(update[name].numpy())))


def said(key: str, value: int) -> Spoil:
    """Says another number."""

    def spoil(content: RecordDict) -> None:
        content.config_records[f"client.{VICTIM}"][key] = value

    return spoil


def renamed(content: RecordDict) -> None:
    update = update_of(content)
    update["prompt.99"] = update.pop(sorted(update)[0])


def filled(value: float) -> Spoil:
    """One number of it is another."""

    def spoil(content: RecordDict) -> None:
        def put(array: np.ndarray) -> np.ndarray:
            array.flat[0] = value
            return array

        first(content, put)

    return spoil


BAD_UPDATES: dict[str, Strike] = {
    "with another name": bad_update(renamed, "names"),
    "of another shape": bad_update(lambda c: first(c, lambda a: a[..., :-1].copy()), "shape"),
    "of another type": bad_update(lambda c: first(c, lambda a: a.astype(np.float64)), "float64"),
    "with NaN in it": bad_update(filled(float("nan")), "not finite"),
    "with infinity in it": bad_update(filled(float("inf")), "not finite"),
    "of a norm out of proportion": bad_update(filled(1e6), "in proportion"),
    "of no examples": bad_update(said("examples", 0), "0 examples"),
    "of a negative number of examples": bad_update(said("examples", -5), "-5 examples"),
    "of absurdly many examples": bad_update(said("examples", 10**12), "in the roll call"),
    "of absurdly many steps": bad_update(said("steps", 10**9), "in the roll call"),
    "that answers another round": bad_update(said("round", ROUND - 1), "it answers round"),
    "over the size limit": bad_update(lambda c: first(c, lambda a: np.zeros(10**6, np.float32)), "message-limit-mb"),
}


FAULTS: tuple[Fault[Stage], ...] = (
    *(
        Fault(f"server killed {when}", "gone on with, it ends with the same bits", lost, strike)
        for when, strike in DEATHS.items()
        for lost in (NOTHING if when.startswith(("after its checkpoint", "after the last")) else ITS_ROUND,)
    ),
    *(
        Fault(f"client killed {when}", "the round closes with the others; it is back in the next", ITS_PART, strike)
        for when, strike in CLIENT_DEATHS.items()
    ),
    Fault("all clients of a round fail", "the run stops, says why, and is gone on with later", ITS_ROUND, all_fail),
    Fault("disk full at the server's checkpoint", "the run stops and names the file", ITS_ROUND, server_disk_full),
    Fault(
        "disk full at a client's state", "its reply says so; the round closes without it", ITS_PART, client_disk_full
    ),
    *(
        Fault(f"newest checkpoint {what}", "set aside; the one before it serves", "the rounds after that one", strike)
        for what, strike in {
            "cut short": checkpoint_harmed("cut"),
            "with a flipped bit": checkpoint_harmed("flip"),
        }.items()
    ),
    Fault("checkpoint of another version", "refused by name, and left", NOTHING, checkpoint_of_another_version),
    Fault("two servers on one run folder", "the second is refused", NOTHING, two_servers),
    Fault("read-only run folder", "refused before any training", NOTHING, read_only_folder),
    *(
        Fault(f"client's state {what}", "set aside with a warning; the client starts anew", "what it kept", strike)
        for what, strike in STATES.items()
    ),
    *(
        Fault(f"update {what}", "refused, counted, named; the round closes without it", ITS_PART, strike)
        for what, strike in BAD_UPDATES.items()
    ),
    Fault(
        "a reply in another client's name",
        "dropped and counted; that one's own counts; the round closes without the sender's",
        "the sender's part of that round",
        faults_messages.in_anothers_name,
    ),
    Fault("replies in any order", "the same bits", NOTHING, faults_messages.in_every_order),
    Fault("each reply twice", "the second is dropped: the same bits", NOTHING, faults_messages.twice),
    Fault(
        "a reply too late",
        "dropped and counted; its client goes on from before",
        ITS_PART,
        faults_messages.unanswered(True),
    ),
    Fault("a reply that never comes", "the round closes at its deadline", ITS_PART, faults_messages.unanswered(False)),
    Fault("clock set back and forth", "the same bits", NOTHING, faults_messages.clock),
    Fault("a node joins a run that has begun", "its client takes part from then on", NOTHING, faults_coming.joins),
    *(
        Fault(f"a node leaves and returns{how}", "its client is not asked meanwhile, and goes on", ITS_ROUNDS, strike)
        for how, strike in {
            "": faults_coming.returns(FIRST),
            " under another id": faults_coming.returns(AGAIN),
        }.items()
    ),
    Fault(
        "all nodes gone, and back within `quorum-wait-s`",
        "waited for: the same bits",
        NOTHING,
        faults_coming.all_gone_for_a_while,
    ),
    Fault(
        "all nodes gone for longer",
        "the run stops, says who is not there, and is gone on with later",
        NOTHING,
        faults_coming.all_gone_too_long,
    ),
)


def play(fault: Fault[Stage]) -> float:
    """Does one in a folder of its own; returns its seconds.

    Raises:
        AssertionError: the table does not hold.
    """
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        stage = Stage(Path(folder), patch)
        with stage.quiet():
            fault.strike(stage)
    return stage.seconds


def page(rows: list[dict[str, Any]], made: dict[str, Any]) -> str:
    """docs/FAULTS.md."""
    lines = [
        "# Faults, and what becomes of a run",
        "",
        "Each row is done on purpose in a small run (5 clients, 4 rounds, a random two-layer model, the in-process grid),",
        "and is a test (`tests/test_faults.py`). *The same bits* are those of a run without the fault: shared parameters,",
        "every client's model, every round's figures. Seconds are what the fault cost there: the time of all parts less that",
        f"of the run without it (tenths are noise); where a deadline is waited for, it is {DEADLINE_S:g} s.",
        f"Made by `python -m tests.faults` on {made['cpu']}; raw: [results/faults.json](../results/faults.json).",
        "What an operator does: [RECOVERY.md](RECOVERY.md).",
        "",
        *table(rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Plays all, and writes the page and its raw figures."""
    rows = []
    for fault in FAULTS:
        seconds = play(fault)
        print(f"{seconds:6.1f} s  {fault.name}", flush=True)
        rows.append(row(fault, seconds))
    made = facts("tests.faults")
    write(RESULTS / "faults.json", {**made, "faults": rows})
    PAGE.write_text(page(rows, made), encoding="utf8")


__all__ = ["FAULTS", "DeathError", "Fault", "page", "play"]

if __name__ == "__main__":
    main()
