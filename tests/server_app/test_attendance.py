"""Clients that join, leave and come back between rounds, in whole small runs: who is asked, what is refused, what goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import Context, Error, Message
from safetensors.torch import load_file

from client_app.app import app
from federation import records
from federation.messages import ROLL_CALL, RollCallReply
from federation.settings import parse
from fedpeptao.errors import InputError, RunError
from server_app import attendance
from server_app.checkpoint import Checkpoints
from tests import coming, small_runs
from tests.coming import AGAIN, Coming, nodes, schedule
from tests.small_runs import Flat, Ran

pytestmark = pytest.mark.usefixtures("no_plots")
MakeFlat = Callable[..., Flat]
Change = Callable[[RollCallReply], RollCallReply]
ALL = nodes(0, 1, 2, 3, 4)
EVERYBODY: Flat = {"rounds": 4, "clients_per_round": 5, "min_clients": 3, "run_name": "run", "test_every": 5}


def events(ran: Ran, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (ran.folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


def told(ran: Ran, key: str) -> dict[int, list[int]]:
    """Round -> clients, of the lines that have the key."""
    return {line["round"]: line[key] for line in ran.lines if key in line}


def saying(changes: Mapping[int, Change]) -> Callable[[Message, Context], Message]:
    """A client app in which some clients say something else in roll calls."""

    def answer(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if message.metadata.message_type != ROLL_CALL:
            return reply
        replies = records.decode_roll_call_replies(reply.content)
        changed = [changes.get(one.client, lambda same: same)(one) for one in replies]
        return Message(records.encode_roll_call_replies(changed), reply_to=message)

    return answer


# -- who begins --------------------------------------------------------------------------------------------


def test_with_everybody_there_it_is_the_run_that_waits_for_all(make_flat: MakeFlat) -> None:
    """To the last bit and byte, and nobody is asked twice."""
    flat = make_flat(clients_per_round=3, evaluate_every=1, run_name="run")
    whole = small_runs.go({**flat, "runs-dir": f"{flat['runs-dir']}-whole"}, nodes=5)
    watched = small_runs.Watched()
    ran = small_runs.go({**flat, "min-clients": 2}, nodes=5, client_app=watched)
    assert ran.parameter_bytes == whole.parameter_bytes
    assert ran.lines_without("seconds") == whole.lines_without("seconds")
    assert ran.summary["final"] == whole.summary["final"]
    assert len(watched.of("query.roll_call")) == 5


def test_a_node_without_clients_is_asked_once(make_flat: MakeFlat) -> None:
    watched = small_runs.Watched()
    small_runs.go(make_flat(), nodes=7, client_app=watched)
    assert len(watched.of("query.roll_call")) == 7


def test_it_waits_for_min_clients_and_says_who_was_refused(make_flat: MakeFlat) -> None:
    flat = make_flat(**{**EVERYBODY, "round_timeout_s": 0.1})
    bad = saying({1: lambda reply: replace(reply, fault="no disk")})
    with pytest.raises(
        RunError, match=r"1 of the 3 clients .*\(min-clients\) .* within 0.1 s .*client 1 on node 1001: no disk"
    ):
        coming.go(flat, lambda r: nodes(0, 1), bad)


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"clients": 12, "min-clients": 13}, "only 12"), ({"min-clients": 2, "quorum": 3}, "quorum = 3")],
)
def test_min_clients_fits_the_other_numbers(make_flat: MakeFlat, changes: Flat, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        parse({**make_flat(), **changes})
    assert caught.value.key == "min-clients"


# -- joining and leaving -----------------------------------------------------------------------------------

PARTS: dict[str, Flat] = {
    "none": {"drift_correction": "none", "step_normalised": True},
    "server": {"drift_correction": "server"},
    "device": {"drift_correction": "device", "device_second_moment": "shared"},
    "released": {
        "variant": "released",
        "drift_correction": "none",
        "server_optimizer": "none",
        "restart_moments": False,
    },
}


@pytest.mark.parametrize("part", PARTS)
def test_clients_join_leave_and_come_back(make_flat: MakeFlat, part: str) -> None:
    def there(r: int) -> set[int]:
        return {1: nodes(0, 1, 2), 2: nodes(0, 1, 2), 3: nodes(0, 2, 3, 4)}.get(r, nodes(0, 1, 2, 3))

    ran, grid = coming.go(make_flat(**EVERYBODY, **PARTS[part]), there)
    assert [sorted(line["clients"] or []) for line in ran.lines[1:]] == [
        [0, 1, 2],
        [0, 1, 2],
        [0, 2, 3, 4],
        [0, 1, 2, 3],
    ]
    assert [line["accepted"] for line in ran.lines[1:]] == [3, 3, 4, 4]
    assert told(ran, "joined") == {3: [3, 4]}
    assert told(ran, "left") == {3: [1], 4: [4]}
    assert told(ran, "back") == {4: [1]}
    assert told(ran, "absent") == {3: [1], 4: [4]}
    assert sorted(ran.summary["final"]["per_client"]) == ["0", "1", "2", "3"]
    assert (ran.summary["final"]["evaluated_clients"], ran.summary["final"]["known_clients"]) == (4, 5)
    assert list(ran.summary["clients"]) == ["0", "1", "2", "3", "4"]
    assert [(e["client"], e["node"], e["round"]) for e in events(ran, "client joined")] == [(3, 1003, 3), (4, 1004, 3)]
    assert len(events(ran, "client left")) == 2
    assert grid.roll_calls() == [(1, 1000), (1, 1001), (1, 1002), (3, 1003), (3, 1004), (4, 1001)]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_c_is_the_mean_over_all_that_are_known(make_flat: MakeFlat, precision: str) -> None:
    """After a join, a departure and a return: C = sum n_i c_i, of what lies on the clients' disks."""
    flat = make_flat(**EVERYBODY, precision=precision)
    ran, _ = coming.go(flat, lambda r: {1: nodes(0, 1, 2), 3: nodes(0, 2, 3)}.get(r, nodes(0, 1, 2, 3)))
    kept = Checkpoints(ran.folder, 2).latest()
    assert kept is not None
    identity, progress = kept
    assert sorted(identity.clients) == [0, 1, 2, 3]
    assert progress.state.drift.epoch == 0
    total = torch.zeros_like(progress.state.x)
    for client, (examples, _) in identity.clients.items():
        path = ran.folder / "clients" / f"client-{client}" / f"round-{progress.state.accepted[client]}.safetensors"
        total += examples * load_file(path)["control"]
    control = progress.state.drift.control
    assert control is not None
    assert float(control.norm()) > 0
    assert torch.allclose(control, total, atol=1e-3 * float(control.abs().max()), rtol=0)


def test_a_client_under_another_node_is_the_same_client(make_flat: MakeFlat) -> None:
    """Its SuperNode was restarted: the run has the bits of one in which nothing happened, and no line says more than that."""
    flat = make_flat(**EVERYBODY)
    whole, _ = coming.go({**flat, "runs-dir": f"{flat['runs-dir']}-whole"}, lambda r: ALL)
    ran, grid = coming.go(flat, lambda r: ALL if r < 3 else nodes(0, 1, 3, 4) | nodes(2, first=AGAIN))
    assert ran.parameter_bytes == whole.parameter_bytes
    assert ran.lines_without("seconds") == whole.lines_without("seconds")
    assert grid.roll_calls()[5:] == [(3, AGAIN + 2)]
    (moved,) = events(ran, "client moved")
    assert (moved["client"], moved["node"], moved["before"]) == (2, AGAIN + 2, 1002)


def test_the_second_of_two_nodes_with_one_client_waits_until_the_first_is_gone(make_flat: MakeFlat) -> None:
    flat = make_flat(**EVERYBODY)
    twice = ALL | nodes(2, first=AGAIN)
    ran, grid = coming.go(flat, lambda r: {1: ALL, 2: twice, 3: twice}.get(r, twice - {1002}))
    (why,) = events(ran, "may not take part")
    assert (why["client"], why["node"], why["round"]) == (2, AGAIN + 2, 2)
    assert "it lives on node 1002" in why["why"]
    assert grid.roll_calls()[5:] == [(2, AGAIN + 2), (4, AGAIN + 2)]
    assert [line["accepted"] for line in ran.lines[1:]] == [5, 5, 5, 5]
    assert {node for r, kind, node in grid.asked if r == 4 and kind == "train"} == twice - {1002}
    assert not told(ran, "left")


# -- who may not take part ---------------------------------------------------------------------------------

REFUSED: dict[int, tuple[Change, str]] = {
    1: (lambda reply: replace(reply, model="another"), "another version of the model"),
    2: (lambda reply: RollCallReply(reply.client, fault="it has no training examples"), "no training examples"),
    3: (lambda reply: replace(reply, data="another"), "another version of the data set"),
    4: (
        lambda reply: replace(reply, labels=[*reply.labels, "plants "]),
        "labels that the run does not know: 'plants '",
    ),
    5: (lambda reply: replace(reply, steps=99), "takes 99 steps"),
}


def test_who_may_not_join_is_named_once_and_not_asked_again(make_flat: MakeFlat, shown: list[str]) -> None:
    told_before = {"labels": "animals,colours,verbs", "min_clients": 1}  # client 0 alone does not see them all
    flat = make_flat(**{**EVERYBODY, "clients": 7, "clients_per_round": 7, "rounds": 3, **told_before})
    changes = {client: change for client, (change, _) in REFUSED.items()}
    ran, grid = coming.go(flat, lambda r: nodes(*range(7)) if r > 1 else nodes(0), saying(changes))
    assert told(ran, "joined") == {2: [6]}
    assert [line["accepted"] for line in ran.lines[1:]] == [1, 2, 2]
    assert grid.roll_calls()[1:] == [(2, 1000 + client) for client in (1, 2, 3, 4, 5, 6)]
    lines = {line["node"]: line for line in events(ran, "may not take part")}
    assert len(events(ran, "may not take part")) == len(REFUSED)
    for client, (_, why) in REFUSED.items():
        assert why in lines[1000 + client]["why"]
        assert lines[1000 + client]["level"] == "warning"
        assert sum(f"node {1000 + client} may not take part" in text for text in shown) == 1
        assert str(client) not in ran.summary["clients"]


def test_a_node_that_was_mended_is_asked_when_it_is_back(make_flat: MakeFlat) -> None:
    """And one that fails in the roll call stops nobody."""
    broken = {"is": True}

    def mended(message: Message, context: Context) -> Message:
        if message.metadata.message_type == ROLL_CALL and context.node_id == 1004 and broken["is"]:
            broken["is"] = False
            raise OSError("no such model")
        return app(message, context)

    ran, grid = coming.go(make_flat(**EVERYBODY), lambda r: ALL - {1004} if r == 3 else ALL, mended)
    assert grid.roll_calls()[5:] == [(4, 1004)]
    assert told(ran, "joined") == {4: [4]}
    assert "no such model" in events(ran, "may not take part")[0]["why"]


def test_a_node_that_was_mended_between_two_looks_is_asked_again(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was restarted under its id, and no look missed it. Until then it is named once."""
    monkeypatch.setattr(attendance, "ASK_AGAIN_S", 0.0)
    asked = [0]

    def mended(reply: RollCallReply) -> RollCallReply:
        asked[0] += 1
        return reply if asked[0] > 2 else replace(reply, fault="no disk")

    ran, grid = coming.go(make_flat(**EVERYBODY), lambda r: ALL, saying({4: mended}))
    assert grid.roll_calls()[5:] == [(1, 1004), (2, 1004)], "nobody else, and no more once it is let in"
    assert len(events(ran, "may not take part")) == 1
    assert told(ran, "joined") == {2: [4]}
    assert [line["accepted"] for line in ran.lines[1:]] == [4, 5, 5, 5]


def test_a_client_that_comes_back_with_other_data_is_refused(make_flat: MakeFlat) -> None:
    """Its n_i is part of C for good."""
    seen: list[int] = []

    def fewer(reply: RollCallReply) -> RollCallReply:
        seen.append(reply.examples)
        return reply if len(seen) == 1 else replace(reply, examples=8, steps=1)

    ran, _ = coming.go(make_flat(**EVERYBODY), lambda r: ALL - {1001} if r == 2 else ALL, saying({1: fewer}))
    assert f"it began with {seen[0]} examples" in events(ran, "may not take part")[0]["why"]
    assert told(ran, "absent") == {2: [1], 3: [1], 4: [1]}
    assert [line["accepted"] for line in ran.lines[1:]] == [5, 4, 4, 4]


def test_a_roll_call_that_the_network_lost_is_repeated(make_flat: MakeFlat) -> None:
    lost: list[int] = []

    def once(message: Message, context: Context) -> Message:
        if message.metadata.message_type == ROLL_CALL and context.node_id == 1003 and not lost:
            lost.append(1003)
            return Message(Error(5, "node unavailable"), reply_to=message)
        return app(message, context)

    ran, grid = coming.go(make_flat(**EVERYBODY), lambda r: nodes(0, 1, 2) if r == 1 else ALL, once)
    assert told(ran, "joined") == {2: [4], 3: [3]} or told(ran, "joined") == {2: [3, 4]}
    assert not events(ran, "may not take part")
    assert grid.roll_calls().count((2, 1003)) + grid.roll_calls().count((3, 1003)) == 2


class Slow(Coming):
    """A node whose answer to the roll call comes two rounds after the question."""

    def pull_messages(self, message_ids: Any) -> Any:
        ids = list(message_ids)
        if self.coming < 4:
            ids = [one for one in ids if one not in self.held]
        return super().pull_messages(ids)

    def push_messages(self, messages: Any) -> Any:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        self.held |= {
            one
            for one, m in zip(ids, messages, strict=True)
            if (m.metadata.dst_node_id, m.metadata.message_type) == (1004, ROLL_CALL)
        }
        return ids

    held: frozenset[str] | set[str] = frozenset()


def test_nobody_waits_for_a_node_that_answers_late(make_flat: MakeFlat) -> None:
    flat = make_flat(**EVERYBODY)
    grid = Slow(flat, lambda r: nodes(0, 1, 2) if r == 1 else ALL)
    ran = coming.run_on(grid, flat)
    assert told(ran, "joined") == {2: [3], 4: [4]}
    assert grid.roll_calls()[3:] == [(2, 1003), (2, 1004)]
    assert all(line["late"] == 0 for line in ran.lines[1:])


# -- going on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "last"), [("server", 1), ("device", 3)])
def test_gone_on_with_it_has_the_same_bits(make_flat: MakeFlat, part: str, last: int) -> None:
    """Stopped after any round, while clients come and go: known ones that are not there, new ones, and ones at another place."""
    flat = make_flat(**{**EVERYBODY, "rounds": 5, "clients_per_round": 3}, **PARTS[part], evaluate_every=1)
    whole, _ = coming.go({**flat, "runs-dir": f"{flat['runs-dir']}-whole"}, schedule)
    begun, _ = coming.go({**flat, "rounds": last}, schedule)
    ran, _ = coming.go({**flat, "resume": str(begun.folder)}, schedule)
    assert ran.parameter_bytes == whole.parameter_bytes
    assert ran.lines_without("seconds", "global") == whole.lines_without("seconds", "global")
    assert ran.summary["final"] == whole.summary["final"]
    assert ran.summary["clients"].keys() == whole.summary["clients"].keys()


def test_a_run_goes_on_without_some_where_min_clients_says_so(make_flat: MakeFlat) -> None:
    """By default all have to be there again."""
    flat = make_flat(rounds=2, clients_per_round=5, run_name="run")
    begun, _ = coming.go(flat, lambda r: ALL)
    more: Flat = {**flat, "rounds": 3, "resume": str(begun.folder)}
    with pytest.raises(RunError, match="1 of 5 clients did not answer the roll call: 2"):
        coming.go(more, lambda r: ALL - {1002})
    ran, _ = coming.go({**more, "min-clients": 4}, lambda r: ALL - {1002})
    assert (told(ran, "left"), told(ran, "absent")) == ({3: [2]}, {3: [2]})
    assert sorted(ran.lines[3]["clients"]) == [0, 1, 3, 4]


def test_the_estimate_of_the_ratio_does_without_who_is_gone(make_flat: MakeFlat) -> None:
    """And is not kept for other runs."""
    flat = make_flat(**EVERYBODY, ratio="plateau", warmup_rounds=2, curvature_steps=4)
    begun, _ = coming.go({**flat, "rounds": 3}, lambda r: ALL if r < 3 else ALL - {1001})
    assert begun.summary["ratio"]["clients"] == 4
    assert json.loads((begun.folder / "spectrum.json").read_text())["missing"] == [1]
    assert not (begun.folder.parent / ".curvature").exists()
    assert sorted(begun.lines[3]["clients"]) == [0, 2, 3, 4]
    assert told(begun, "left") == {3: [1]}
