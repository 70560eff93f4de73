"""Whole runs whose clients lose, or cannot keep, what they have on disk: both ends stay agreed (section 2.5 of ALGORITHMS.md)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message
from torch import Tensor

from client_app.disk_store import peek
from client_app.state import ClientState
from client_app.state_file import Owner, pack
from client_app.state_folder import client_folder, state_name
from federation.messages import TRAIN
from tests.small_runs import Flat, Passed, Ran, Watched, go

pytestmark = pytest.mark.usefixtures("no_plots")
MakeFlat = Callable[..., Flat]
ALL, VICTIM, RUN, ROUND = range(5), 2, "run", 3
Harm = Callable[[Path], object]


@dataclass
class Faulty:
    """A run on one node; before the message of a round is answered, something happens to the victim's file of the round before.

    Attributes:
        kept: round -> client -> the state that was made in it.
    """

    flat: Flat
    harm: Harm = lambda path: None
    kept: dict[int, dict[int, ClientState]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(str(self.flat["runs-dir"])) / RUN / "clients"

    def go(self) -> tuple[Ran, Watched]:
        watched = Watched(self._before)
        return go(self.flat, nodes=1, client_app=watched), watched

    def _before(self, message: Message, context: Context) -> None:
        if message.metadata.message_type == TRAIN:
            coming = int(message.metadata.group_id)
            found = {client: peek(self.folder, RUN, client, coming - 1) for client in ALL}
            self.kept[coming - 1] = {client: state for client, state in found.items() if state is not None}
            if coming == ROUND:
                self.harm(client_folder(self.folder, VICTIM) / state_name(coming - 1))

    def mean_control(self, ran: Ran, made_in: int) -> Tensor:
        """sum (n_i/n) c_i over the states made in a round."""
        examples = {int(client): facts["examples"] for client, facts in ran.summary["clients"].items()}
        parts = [examples[client] * state.control for client, state in self.kept[made_in].items()]  # type: ignore[operator]
        return sum(parts, torch.zeros_like(parts[0])) / sum(examples.values())


def faulty(make_flat: MakeFlat, harm: Harm = lambda path: None, **given: str | int | float) -> Faulty:
    """All five clients in each of five rounds, with control variates on the devices."""
    told: dict[str, str | int | float] = {"rounds": 5, "clients-per-round": 5, "layers": "1", "run_name": RUN}
    return Faulty(make_flat(**{"drift-correction": "device", **told, **given}), harm)


def control_sent(passed: Passed) -> Tensor:
    """c, in the order of the layout."""
    arrays = passed.content.array_records["control"]
    return torch.cat([torch.from_numpy(array.numpy()).reshape(-1) for array in arrays.values()])


def epochs(watched: Watched) -> list[int]:
    return [int(str(passed.content["round"]["epoch"])) for passed in watched.of(TRAIN)]


def gone_on_from(watched: Watched, server_round: int) -> dict[int, int]:
    """Client -> round of the state it went on from."""
    records = watched.of(TRAIN, "up")[server_round - 1].content.config_records
    found = [record for name, record in records.items() if name.startswith("client.")]
    return {int(str(record["client"])): int(str(record["control_round"])) for record in found}


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


def foreign(path: Path) -> None:
    path.write_bytes(pack(ClientState(ROUND - 1, 0, {}), Owner("else", VICTIM, "else")))


HARMS: dict[str, Harm] = {
    "truncated": truncate,
    "a flipped bit": flip,
    "foreign": foreign,
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_a_lost_state_starts_an_epoch_and_both_ends_agree_again(make_flat: MakeFlat, harm: Harm) -> None:
    """max-lost-share = 0: c is what the clients hold before the loss, 0 right after it, and what they hold again later."""
    case = faulty(make_flat, harm)
    ran, watched = case.go()
    assert epochs(watched) == [0, 0, 0, 1, 1]
    assert gone_on_from(watched, ROUND) == {client: 0 if client == VICTIM else ROUND - 1 for client in ALL}
    sent = [control_sent(passed) for passed in watched.of(TRAIN)]
    assert torch.allclose(sent[ROUND - 1], case.mean_control(ran, ROUND - 1), atol=1e-6)
    assert float(sent[ROUND - 1].norm()) > 0.01
    assert float(sent[ROUND].norm()) == 0
    assert {state.epoch for state in case.kept[ROUND + 1].values()} == {1}
    assert torch.allclose(sent[ROUND + 1], case.mean_control(ran, ROUND + 1), atol=1e-6)
    assert [line["accepted"] for line in ran.lines[1:]] == [5] * 5
    assert set(gone_on_from(watched, ROUND + 1).values()) == {ROUND}  # the victim's new state counts


def test_a_loss_within_the_share_waits_and_stays_in_c(make_flat: MakeFlat) -> None:
    """max-lost-share = 1: no epoch; c is the mean of what the clients hold, and the victim's old share."""
    case = faulty(make_flat, truncate, max_lost_share=1.0)
    ran, watched = case.go()
    assert epochs(watched) == [0] * 5
    old = case.kept[ROUND - 1][VICTIM].control
    assert old is not None
    clients = ran.summary["clients"]
    share = clients[str(VICTIM)]["examples"] / sum(facts["examples"] for facts in clients.values())
    for server_round in (ROUND, ROUND + 1):
        sent = control_sent(watched.of(TRAIN)[server_round])
        assert torch.allclose(sent, case.mean_control(ran, server_round) + share * old, atol=1e-6)
    assert float((share * old).norm()) > 0.001


def test_what_was_damaged_lies_beside_the_new_state(make_flat: MakeFlat, caplog: pytest.LogCaptureFixture) -> None:
    case = faulty(make_flat, truncate)
    case.go()
    names = {path.name for path in client_folder(case.folder, VICTIM).iterdir()}
    assert {f"round-{ROUND - 1}.set-aside-1", "round-5.safetensors"} <= names
    assert f"round-{ROUND - 1}.safetensors" not in names
    warnings = [message for message in caplog.messages if "set aside" in message]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"client {VICTIM}: ")


def test_a_clock_that_jumps_changes_no_bit(make_flat: MakeFlat) -> None:
    """All of a client's files are suddenly of 1970."""
    jumped = faulty(make_flat, lambda path: [os.utime(one, (0, 0)) for one in path.parent.iterdir()])
    assert jumped.go()[0].parameter_bytes == go({**jumped.flat, "run-name": "nuj"}, nodes=1).parameter_bytes


def full_disk(monkeypatch: pytest.MonkeyPatch, since: Callable[[], bool]) -> None:
    """No file of the victim gets onto the disk while `since` says so."""
    fsync = os.fsync

    def refuse(handle: int) -> None:
        if since() and f"/client-{VICTIM}/" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)


def test_a_full_disk_costs_the_round_and_nothing_else(make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's reply of that round is a fault; it goes on from the state before, and no control variate is lost."""
    full: list[bool] = [False]
    case = faulty(make_flat, lambda path: full.append(True))
    full_disk(monkeypatch, lambda: full[-1])
    emptied = Watched()
    real = case._before

    def instead(message: Message, context: Context) -> None:
        if message.metadata.group_id == str(ROUND + 1):
            full.append(False)
        real(message, context)

    emptied.instead = instead
    ran = go(case.flat, nodes=1, client_app=emptied)
    path = client_folder(case.folder, VICTIM) / state_name(ROUND)
    why = f"StateError: client {VICTIM}: its state cannot be kept in {path}: [Errno 28] No space left on device"
    assert ran.lines[ROUND]["failed"] == {str(VICTIM): why}
    assert [line["accepted"] for line in ran.lines[1:]] == [5, 5, 4, 5, 5]
    assert ran.summary["status"] == "completed"
    assert gone_on_from(emptied, ROUND + 1)[VICTIM] == ROUND - 1
    assert epochs(emptied) == [0] * 5
    names = {path.name for path in client_folder(case.folder, VICTIM).iterdir()}
    assert "round-5.safetensors" in names
    assert not [name for name in names if name.startswith((".", f"round-{ROUND}."))]  # nothing of the write that failed


@pytest.mark.parametrize("moment", ["before training", "after training"])
def test_a_client_that_is_killed_costs_the_round_and_nothing_else(make_flat: MakeFlat, moment: str) -> None:
    """After training its new state is on disk, and nobody will accept it."""
    case = faulty(make_flat)

    def dies(message: Message, context: Context) -> None:
        from client_app.app import app

        if message.metadata.group_id == str(ROUND) and context.node_config["partition-id"] == VICTIM:
            if moment == "after training":
                app(message, context)
            raise RuntimeError("killed")

    watched = Watched(dies)
    ran = go(case.flat, nodes=5, client_app=watched)
    assert list(ran.lines[ROUND]["failed"]) == [str(VICTIM)]
    assert [line["accepted"] for line in ran.lines[1:]] == [5, 5, 4, 5, 5]
    assert epochs(watched) == [0] * 25
    assert peek(case.folder, RUN, VICTIM, 5) is not None


def test_a_bound_that_is_too_low_stops_the_run_in_its_first_round_and_is_named(make_flat: MakeFlat) -> None:
    """A part of 1 MB / 5 clients; a state of 200 prompt tokens has about 100 kB."""
    from fedpeptao.errors import RunError

    with pytest.raises(
        RunError, match=r"round 1: no client gave an update.*more than its part of state-disk-mb, 209715 "
    ):
        faulty(make_flat, state_disk_mb=1, prompt_tokens=250).go()
    ran, _ = faulty(make_flat, state_disk_mb=1, run_name="fits").go()
    assert ran.summary["status"] == "completed"
