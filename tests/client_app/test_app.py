"""The ClientApp over the grid in this process: who answers, who is refused, where state goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import Array, Message, RecordDict

from client_app import host
from client_app.app import app
from federation import records
from federation.channels import make_channels
from federation.grids import InProcessGrid, exchanges
from federation.messages import (
    EVALUATE,
    ROLL_CALL,
    TRAIN,
    Ask,
    EvaluateReply,
    RollCallAsk,
    RollCallReply,
    TrainReply,
)
from federation.settings import parse
from tests.small_runs import Flat, model_of

MakeFlat = Callable[..., Flat]
LABELS, NODES = ("animals", "colours", "verbs"), 2  # clients 0, 2, 4 on node 1000 and 1, 3 on node 1001


def ask_content(flat: Flat, clients: tuple[int, ...], run: str = "run", server_round: int = 1) -> RecordDict:
    settings = parse(flat)
    _, layout, shared = model_of(settings, (1,), len(LABELS))
    ask = Ask(run, server_round, LABELS, (1,), clients, (0,) * len(clients), 0, False, shared, torch.zeros_like(shared))
    return records.encode_ask(ask, make_channels(settings, layout))


def answer(flat: Flat, content: RecordDict, node: int, kind: str = TRAIN, state_dir: Path | None = None) -> Message:
    grid = InProcessGrid(app, flat, NODES, {"state-dir": str(state_dir)} if state_dir else None)
    (found,) = exchanges(grid, [Message(content, node, kind)], 60)
    return found.reply


def trained(flat: Flat, reply: Message) -> dict[int, TrainReply]:
    _, layout, _ = model_of(parse(flat), (1,), len(LABELS))
    found = records.decode_train_replies(reply.content, make_channels(parse(flat), layout))
    return {r.client: r for r in found}


def roll_call(flat: Flat, nodes: int, score: bool = False) -> dict[int, list[RollCallReply]]:
    grid = InProcessGrid(app, flat, nodes)
    ask = records.encode_roll_call(RollCallAsk("run", score))
    found = exchanges(grid, [Message(ask, node, ROLL_CALL) for node in grid.get_node_ids()], 60)
    return {e.node: records.decode_roll_call_replies(e.reply.content) for e in found}


@pytest.mark.parametrize("nodes", [1, 2, 7])
def test_every_client_answers_the_roll_call_on_its_node(make_flat: MakeFlat, nodes: int) -> None:
    flat = make_flat()
    found = roll_call(flat, nodes)
    assert {node: [r.client for r in replies] for node, replies in found.items()} == {
        1000 + node: host.clients_of_node(5, node, nodes) for node in range(nodes)
    }
    settings = parse(flat)
    assert all(r == host.roll_call(settings, r.client, False) for replies in found.values() for r in replies)


def test_scores_come_if_they_are_asked_for(make_flat: MakeFlat) -> None:
    assert all(len(r.scores) == 2 for replies in roll_call(make_flat(), 2, score=True).values() for r in replies)


def test_the_clients_that_are_named_train_and_keep_their_state_under_the_run(make_flat: MakeFlat) -> None:
    flat = make_flat()
    found = trained(flat, answer(flat, ask_content(flat, (4, 0), run="my-run"), 1000))
    assert list(found) == [4, 0]
    assert all(r.fault == "" and r.delta is not None for r in found.values())
    folders = sorted(path.name for path in (Path(str(flat["runs-dir"])) / "my-run" / "clients").glob("client-*"))
    assert folders == ["client-0", "client-4"]


def test_a_nodes_own_state_folder_goes_before_the_runs(make_flat: MakeFlat, tmp_path: Path) -> None:
    flat = make_flat()
    answer(flat, ask_content(flat, (1,)), 1001, state_dir=tmp_path / "mine")
    assert (tmp_path / "mine" / "run" / "clients" / "client-1" / "round-1.safetensors").exists()
    assert not Path(str(flat["runs-dir"])).exists()


def test_state_goes_on_from_message_to_message(make_flat: MakeFlat) -> None:
    """Each message may meet a new process: nothing but the folder carries it."""
    flat = make_flat()
    answer(flat, ask_content(flat, (0,)), 1000)
    content = ask_content(flat, (0,), server_round=2)
    content = records.address(content, [0], [1])
    assert trained(flat, answer(flat, content, 1000))[0].control_round == 1


def test_evaluation_answers_for_each_client(make_flat: MakeFlat) -> None:
    flat = make_flat()
    found = records.decode_evaluate_replies(
        answer(flat, ask_content(flat, (2, 4), server_round=0), 1000, EVALUATE).content
    )
    assert [r.client for r in found] == [2, 4]
    assert all(r.fault == "" and r.evaluation.examples > 0 for r in found)


@pytest.mark.parametrize(("kind", "verb"), [(TRAIN, "train"), (EVALUATE, "evaluate"), (ROLL_CALL, "roll_call")])
def test_a_client_that_raises_answers_with_why_and_the_others_as_usual(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch, kind: str, verb: str
) -> None:
    flat, real = make_flat(), getattr(host, verb)

    def broken(settings: object, *rest: object) -> object:
        client = rest[0] if verb == "roll_call" else rest[1]
        if client == 2:
            raise OSError("disk full")
        return real(settings, *rest)

    monkeypatch.setattr(host, verb, broken)
    content = records.encode_roll_call(RollCallAsk("run", False))
    content = content if verb == "roll_call" else ask_content(flat, (0, 2, 4))
    reply = answer(flat, content, 1000, kind)
    assert not reply.has_error()
    found: dict[int, TrainReply] | dict[int, EvaluateReply] | dict[int, RollCallReply]
    if verb == "train":
        found = trained(flat, reply)
    elif verb == "evaluate":
        found = {r.client: r for r in records.decode_evaluate_replies(reply.content)}
    else:
        found = {r.client: r for r in records.decode_roll_call_replies(reply.content)}
    assert {client: r.fault for client, r in found.items()} == {0: "", 2: "OSError: disk full", 4: ""}


@pytest.mark.parametrize("clients", [(1,), (0, 1), (5,), (-1,)])
@pytest.mark.parametrize("kind", [TRAIN, EVALUATE])
def test_a_message_for_a_stranger_is_refused_whole(make_flat: MakeFlat, clients: tuple[int, ...], kind: str) -> None:
    """Client 1 lives on the other node; 5 and -1 do not live at all."""
    flat = make_flat()
    reply = answer(flat, ask_content(flat, clients), 1000, kind)
    assert reply.has_error()
    strangers = [client for client in clients if client != 0]
    assert reply.error.reason == f"MessageError: clients {strangers} do not live on this node"
    assert not Path(str(flat["runs-dir"])).exists()


def test_a_message_that_is_not_as_agreed_is_refused(make_flat: MakeFlat) -> None:
    flat = make_flat()
    content = ask_content(flat, (0,))
    prompt = content.array_records["shared"]["prompt.1"]
    content.array_records["shared"]["prompt.0"] = prompt
    assert "names in 'shared' are not those agreed on: prompt.0" in str(answer(flat, content, 1000).error.reason)
    content = ask_content(flat, (0,))
    content.array_records["shared"]["prompt.1"] = Array(prompt.numpy()[:, :1])
    assert "prompt.1 in 'shared': it has shape" in str(answer(flat, content, 1000).error.reason)
    content = ask_content(flat, (0,))
    content["round"]["layers"] = [0]
    assert "are not those agreed on: prompt.0, prompt.1" in str(answer(flat, content, 1000).error.reason)
    content = ask_content(flat, (0,))
    content["round"]["labels"] = ["a", "b"]
    assert "has shape" in str(answer(flat, content, 1000).error.reason)


@pytest.mark.parametrize("run", ["", ".", "..", "../outside", "a/b", "/absolute"])
def test_a_run_name_that_leads_elsewhere_is_refused(make_flat: MakeFlat, tmp_path: Path, run: str) -> None:
    flat = make_flat()
    reply = answer(flat, ask_content(flat, (0,), run=run), 1000)
    assert "is not a run's name" in str(reply.error.reason)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_question_that_nobody_knows_is_an_error(make_flat: MakeFlat) -> None:
    flat = make_flat()
    assert answer(flat, ask_content(flat, (0,)), 1000, "query.password").has_error()


def test_a_state_of_another_model_is_set_aside(make_flat: MakeFlat, tmp_path: Path) -> None:
    """A node that serves a run of the same name with other settings; more layers in S are no other model."""
    flat = make_flat()
    answer(flat, ask_content(flat, (0,)), 1000)
    again = records.address(ask_content(flat, (0,), server_round=2), [0], [1])
    assert trained(flat, answer(flat, again, 1000))[0].control_round == 1
    other = make_flat(prompt_tokens=4)
    third = records.address(ask_content(other, (0,), server_round=3), [0], [2])
    assert trained(other, answer(other, third, 1000))[0].control_round == 0
    names = {path.name for path in (tmp_path / "runs" / "run" / "clients" / "client-0").iterdir()}
    assert names == {"round-1.safetensors", "round-2.set-aside-1", "round-3.safetensors"}
