"""The round loop in small whole runs: figures of a line, cadences, clients that fail, and rounds in which all do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message

from client_app import host
from client_app.app import app
from federation import resources
from federation.grids import InProcessGrid, count_bytes
from federation.settings import parse
from fedpeptao.errors import RunError
from server_app.lines import FIGURES
from server_app.run import run
from server_app.run_folder import read_history
from tests.small_runs import Flat, Watched, go, model_of

pytestmark = pytest.mark.usefixtures("no_plots")
MakeFlat = Callable[..., Flat]


def failing(monkeypatch: pytest.MonkeyPatch, verb: str, fails: Callable[[int, int], bool]) -> None:
    """`host.train` or `host.evaluate` that raises for (client, round)."""
    real = getattr(host, verb)

    def broken(settings: object, ask: host.Ask, client: int, *rest: object) -> object:
        if fails(client, ask.round):
            raise ValueError(f"client {client} is tired")
        return real(settings, ask, client, *rest)

    monkeypatch.setattr(host, verb, broken)


# -- a round's line ----------------------------------------------------------------------------------------


def test_every_line_has_the_same_keys_and_is_plain_json(make_flat: MakeFlat) -> None:
    ran = go(make_flat(evaluate_every=1, test_every=2, rounds=3))
    text = (ran.folder / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    assert all(tuple(sorted(json.loads(line))) == tuple(sorted(FIGURES)) for line in text)
    assert [line["round"] for line in ran.lines] == [0, 1, 2, 3]


def test_traffic_is_what_passed_and_evaluation_stands_apart(make_flat: MakeFlat) -> None:
    watched = Watched()
    ran = go(make_flat(evaluate_every=1, device_second_moment="shared"), client_app=watched)
    last = 0
    for line in ran.lines[1:]:
        kinds = {}
        for kind in ("train", "evaluate"):
            for way in ("down", "up"):
                passed = [p for p in watched.of(kind, way) if round_of(p.content) == line["round"]]
                assert len(passed) >= 1
                kinds[kind, way] = sum((count_bytes(p.content) for p in passed), Counter())
        assert line["down_detail"] == dict(kinds["train", "down"])
        assert line["up_detail"] == dict(kinds["train", "up"])
        assert line["down_bytes"] == sum(line["down_detail"].values())
        assert line["up_bytes"] == sum(line["up_detail"].values())
        assert line["evaluation_bytes"] == kinds["evaluate", "down"].total() + kinds["evaluate", "up"].total()
        assert line["cumulative_bytes"] - last == line["down_bytes"] + line["up_bytes"]
        last = line["cumulative_bytes"]
    assert ran.lines[0]["cumulative_bytes"] == 0  # the roll call is no round's


def round_of(content: object) -> int:
    records = content.config_records  # type: ignore[attr-defined]
    if "round" in records:
        return int(records["round"]["round"])
    return int(next(record["round"] for name, record in records.items() if name.startswith("client.")))


def test_figures_of_a_round_by_hand(make_flat: MakeFlat) -> None:
    """From the replies that passed: pooled accuracies, n_i-weighted loss; the norm from the parameters."""
    watched = Watched()
    ran = go(make_flat(rounds=1), client_app=watched)
    configs = {name: r for p in watched.of("train", "up") for name, r in p.content.config_records.items()}
    clients = [int(name.split(".")[1]) for name in configs if name.startswith("client.")]
    n = {c: configs[f"client.{c}"]["examples"] for c in clients}
    line = ran.lines[1]
    assert sorted(clients) == sorted(line["clients"])
    assert line["accepted"] == len(clients) == 3
    loss = sum(n[c] * configs[f"client.{c}"]["train_loss"] for c in clients) / sum(n.values())
    assert line["train_loss"] == pytest.approx(loss, rel=1e-12)
    counts = [configs[f"evaluation.{c}"] for c in clients]
    total = sum(c["examples"] for c in counts)
    assert line["personalised_examples"] == total
    assert line["personalised_accuracy"] == sum(c["correct"] for c in counts) / total
    assert line["personalised_loss"] == pytest.approx(sum(c["loss_sum"] for c in counts) / total, rel=1e-12)
    layers = tuple(ran.summary["layers"])
    _, layout, start = model_of(ran.settings, layers, 3)
    moved = float((layout.flatten(ran.parameters) - start).norm())
    assert line["update_norm"] == pytest.approx(moved, rel=1e-5)


def test_the_last_evaluation_by_hand(make_flat: MakeFlat) -> None:
    watched = Watched()
    ran = go(make_flat(), client_app=watched)
    counts = [
        record
        for passed in watched.of("evaluate", "up")
        for name, record in passed.content.config_records.items()
        if name.startswith("evaluation.")
    ]
    assert len(counts) == 5
    total = sum(c["examples"] for c in counts)  # type: ignore[misc]
    assert total == len(resources.splits(ran.settings).validation)
    final, line = ran.summary["final"], ran.lines[-1]
    assert final["personalised_accuracy"] == line["all_personalised_accuracy"]
    assert final["shared_accuracy"] == line["all_shared_accuracy"]
    assert final["personalised_accuracy"] == sum(c["correct"] for c in counts) / total  # type: ignore[misc]
    assert final["shared_accuracy"] == sum(c["shared_correct"] for c in counts) / total  # type: ignore[misc]
    assert set(final["per_client"]) == {str(client) for client in range(5)}


@pytest.mark.parametrize(
    ("test_every", "evaluate_every", "tested", "evaluated"),
    [(0, 0, [5], [5]), (2, 0, [0, 2, 4, 5], [5]), (1, 3, [0, 1, 2, 3, 4, 5], [3, 5]), (9, 2, [0, 5], [2, 4, 5])],
)
def test_cadences(
    make_flat: MakeFlat, test_every: int, evaluate_every: int, tested: list[int], evaluated: list[int]
) -> None:
    """0 is before the first round; the last round always counts."""
    ran = go(make_flat(rounds=5, test_every=test_every, evaluate_every=evaluate_every, clients_per_round=1))
    assert [line["round"] for line in ran.lines if line["global_accuracy"] is not None] == tested
    assert [line["round"] for line in ran.lines if line["all_personalised_accuracy"] is not None] == evaluated
    assert ran.summary["final"]["global_round"] == 5


def test_an_evaluation_in_between_changes_no_bit(make_flat: MakeFlat) -> None:
    one, two = go(make_flat(rounds=4)), go(make_flat(rounds=4, evaluate_every=1, test_every=0))
    assert one.parameter_bytes == two.parameter_bytes


# -- clients that fail -------------------------------------------------------------------------------------


def test_a_client_that_raises_is_counted_and_named_and_the_round_goes_on(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch, shown: list[str]
) -> None:
    flat = make_flat(clients_per_round=5)
    failing(monkeypatch, "train", lambda client, server_round: client == 3 and server_round == 1)
    ran = go(flat)
    first, second = ran.lines[1:]
    assert first["failed"] == {"3": "ValueError: client 3 is tired"}
    assert (first["accepted"], second["accepted"], second["failed"]) == (4, 5, {})
    assert ran.summary["status"] == "completed"
    (place,) = [number for number, text in enumerate(shown) if text.strip().startswith("1/2")]
    assert "1 failed: 3 (ValueError: client 3 is tired)" in "\n".join(shown[place : place + 2])


def test_its_state_is_not_lost_by_it(make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on from the round before, and no new epoch starts."""
    watched = Watched()
    failing(monkeypatch, "train", lambda client, server_round: client == 3 and server_round == 2)
    go(make_flat(clients_per_round=5, rounds=3, drift_correction="device"), client_app=watched)
    used = {
        (record["round"], record["client"]): record["control_round"]
        for passed in watched.of("train", "up")
        for record in (
            passed.content.config_records[n] for n in passed.content.config_records if n.startswith("client.")
        )
        if not record["fault"]
    }
    assert used[1, 3] == 0
    assert (2, 3) not in used
    assert used[3, 3] == 1
    assert used[3, 2] == 2
    assert {passed.content["round"]["epoch"] for passed in watched.of("train")} == {0}


def test_a_node_that_dies_fails_its_clients(make_flat: MakeFlat) -> None:
    def dies(message: Message, context: Context) -> Message | None:
        if message.metadata.message_type == "train" and context.node_id == 1001:
            raise MemoryError("killed")
        return None

    ran = go(make_flat(clients_per_round=5), client_app=Watched(dies))
    why = "node error 2: MemoryError: killed"
    assert ran.lines[1]["failed"] == {"1": why, "3": why}
    assert ran.lines[1]["accepted"] == 3


def test_a_client_that_cannot_evaluate_is_named_and_left_out(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch, shown: list[str]
) -> None:
    failing(monkeypatch, "evaluate", lambda client, server_round: client == 0)
    ran = go(make_flat())
    assert ran.lines[-1]["evaluation_failed"] == {"0": "ValueError: client 0 is tired"}
    assert set(ran.summary["final"]["per_client"]) == {"1", "2", "3", "4"}
    assert any("1 failed to" in text for text in shown)  # the line has no room for the name as well


def test_when_all_fail_the_run_fails_and_its_folder_says_so(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = make_flat(run_name="bad", rounds=4)
    failing(monkeypatch, "train", lambda client, server_round: server_round == 2)
    with pytest.raises(RunError, match=r"round 2: no client gave an update. Client \d: ValueError: client \d is tired"):
        go(flat)
    folder = Path(str(flat["runs-dir"])) / "bad"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf8"))
    assert (summary["status"], summary["rounds"]) == ("failed", 2)
    assert summary["layers"]
    lines = read_history(folder)
    assert [line["round"] for line in lines] == [0, 1, 2]
    assert (lines[-1]["accepted"], len(lines[-1]["failed"])) == (0, 3)
    assert lines[-1]["train_loss"] is None


class Deaf(InProcessGrid):
    """No reply to training from some nodes, ever."""

    lost: frozenset[int] = frozenset({1000, 1001})

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        return [r for r in replies if r.metadata.message_type != "train" or r.metadata.src_node_id not in self.lost]


def test_when_all_are_missing_at_the_deadline_the_run_fails(make_flat: MakeFlat) -> None:
    flat = make_flat(run_name="deaf", round_timeout_s=1.0)
    with pytest.raises(RunError, match=r"None of 3 replied before the round's deadline \(round-timeout-s\)"):
        run(Deaf(app, flat, 1), parse(flat))
    lines = read_history(Path(str(flat["runs-dir"])) / "deaf")
    assert sorted(lines[-1]["missing"]) == sorted(lines[-1]["clients"])
    assert lines[-1]["seconds"] >= 1


def test_a_round_closes_at_its_deadline_with_the_replies_it_has(make_flat: MakeFlat, shown: list[str]) -> None:
    class HalfDeaf(Deaf):
        lost = frozenset({1001})

    flat = make_flat(rounds=1, clients_per_round=5, round_timeout_s=3.0)
    settings = parse(flat)
    resources.tokenised(settings)  # loaded before the clock runs
    summary = run(HalfDeaf(app, flat, 2), settings)
    (line,) = [line for line in read_history(Path(str(summary["paths"]["run_folder"]))) if line["round"] == 1]
    assert (sorted(line["missing"]), line["accepted"], line["failed"]) == ([1, 3], 3, {})
    assert any("2 missing: " in text for text in shown)


# -- what is kept ------------------------------------------------------------------------------------------


def test_the_parameters_of_each_finished_round_are_on_disk(make_flat: MakeFlat) -> None:
    """As the next round's messages find them."""
    seen = []
    flat = make_flat(run_name="kept", rounds=3)
    file = Path(str(flat["runs-dir"])) / "kept" / "parameters.safetensors"

    def look(message: Message, context: Context) -> Message | None:
        if message.metadata.message_type == "train":
            seen.append((message.content["round"]["round"], file.read_bytes() if file.exists() else None))
        return None

    ran = go(flat, client_app=Watched(look))
    by_round = dict(seen)
    assert by_round[1] is None
    assert by_round[2] is not None
    assert len({by_round[2], by_round[3], ran.parameter_bytes}) == 3
    assert not list(ran.folder.glob(".*"))
    assert all(value.dtype == torch.float32 for value in ran.parameters.values())
