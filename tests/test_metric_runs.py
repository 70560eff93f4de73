"""A run's figure by its task's own metric, against the clients' predictions one by one; and that accuracy costs no byte more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message
from sklearn.metrics import matthews_corrcoef

from client_app import host
from client_app.app import app
from data.batches import Encoded
from federation import evaluation, resources
from federation.settings import parse
from tests.small_runs import Flat, Ran, Watched, examples, go, write_jsonl

pytestmark = pytest.mark.usefixtures("no_plots")
MakeFlat = Callable[..., Flat]
TASK = 'template: "{a} . It is [MASK] ."\nmetric: matthews\nlabels: [colours, animals]\n'


@pytest.fixture
def two_classes(make_flat: MakeFlat, tmp_path: Path) -> MakeFlat:
    """Run-configs of a task whose metric is Matthews, with classes that are not in the order of the alphabet."""
    data = write_jsonl(tmp_path / "two.jsonl", [row for row in examples(150) if row["label"] != "verbs"])
    task = tmp_path / "things.yaml"
    task.write_text(TASK, encoding="utf8")
    return lambda **overrides: make_flat(dataset=str(data), task=str(task), head="linear", **overrides)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], list[str]]]:
    """(labels, predicted labels) of each evaluation, with scores drawn at random: a model of random weights knows one class."""
    kept: list[tuple[list[str], list[str]]] = []
    rng = torch.Generator().manual_seed(0)

    def scored(model: object, encoded: Encoded, size: int) -> Iterator[tuple[list[int], torch.Tensor]]:
        logits = torch.randn(len(encoded), 2, generator=rng)
        logits[:, 0] -= 0.8
        kept.append((encoded.labels, [("colours", "animals")[at] for at in logits.argmax(dim=1)]))
        rows = list(range(len(encoded)))
        for start in range(0, len(rows), size):
            yield rows[start : start + size], logits[start : start + size]

    monkeypatch.setattr(evaluation, "scored", scored)
    return kept


def pooled(seen: list[tuple[list[str], list[str]]]) -> float:
    true, found = ([label for one in seen for label in one[side]] for side in (0, 1))
    return float(matthews_corrcoef(true, found))


def test_every_figure_is_that_of_the_predictions(
    two_classes: MakeFlat, seen: list[tuple[list[str], list[str]]]
) -> None:
    ran = go(two_classes(clients=4, clients_per_round=4, rounds=3))
    assert ran.summary["metric"] == "matthews"
    assert ran.summary["labels"] == ["colours", "animals"]
    assert (
        len(seen) == 1 + 3 * 5 + 8
    )  # the test set; each round its clients, then the test set; all clients, both models
    tested, before = seen[:16:5], [seen[5 * r + 1 : 5 * r + 5] for r in range(3)]
    for line, own in zip(ran.lines[1:], before, strict=True):
        assert line["personalised_matthews"] == pytest.approx(pooled(own))
    last = seen[16:]  # own prompts, then the shared model
    final, line = ran.summary["final"], ran.lines[-1]
    assert final["personalised_matthews"] == line["all_personalised_matthews"] == pytest.approx(pooled(last[::2]))
    assert final["shared_matthews"] == line["all_shared_matthews"] == pytest.approx(pooled(last[1::2]))
    assert [line["global_matthews"] for line in ran.lines] == pytest.approx([pooled([one]) for one in tested])
    assert final["global_matthews"] == ran.lines[-1]["global_matthews"]
    assert final["personalised_accuracy"] == line["all_personalised_accuracy"]
    assert len({line["global_matthews"] for line in ran.lines}) > 1  # or the test would say little
    counts = {"examples", "correct", "loss_sum", "shared_correct", "shared_loss_sum"}
    assert all(set(found) == counts for found in final["per_client"].values())


def test_by_accuracy_replies_hold_what_they_held(make_flat: MakeFlat, two_classes: MakeFlat) -> None:
    """And by another metric they differ in the matrices alone, as the runs do in their figures."""
    counts = {"examples", "correct", "loss_sum", "shared_correct", "shared_loss_sum"}
    plain, other = Watched(), Watched()
    a, b = go(two_classes(metric="accuracy"), client_app=plain), go(two_classes(), client_app=other)
    for kind, more in (("train", {"confusion"}), ("evaluate", {"confusion", "shared_confusion"})):
        for watched, wanted in ((plain, counts), (other, counts | more)):
            held = [
                set(record)
                for passed in watched.of(kind, "up")
                for name, record in passed.content.config_records.items()
                if name.startswith("evaluation.")
            ]
            assert held
            assert all(keys == wanted for keys in held)
    assert a.parameter_bytes == b.parameter_bytes
    assert not any("matthews" in key for line in a.lines for key in line)
    assert go(make_flat()).summary["metric"] == "accuracy"


def test_a_reply_with_a_wrong_matrix_is_refused(two_classes: MakeFlat) -> None:
    def instead(message: Message, context: Context) -> Message | None:
        if message.metadata.message_type != "train":
            return None
        reply = app(message, context)
        for name, record in reply.content.config_records.items():
            if name == "evaluation.0":
                record["confusion"] = [*record["confusion"][:-1], record["confusion"][-1] + 1]  # type: ignore[index, operator]
        return reply

    ran = go(two_classes(clients=3, rounds=1), client_app=Watched(instead))
    assert ran.lines[1]["failed"]["0"].startswith("refused: by confusion ")
    assert ran.lines[1]["accepted"] == 2


def floor(ran: Ran, classes: list[str]) -> float:
    """By hand, from the shards."""
    right = total = 0
    for client in range(ran.settings.federation.clients):
        train, validation = host.shard_of(ran.settings, client)
        counts = Counter(train.labels)
        best = next(label for label in classes if counts[label] == max(counts.values()))
        right, total = right + validation.labels.count(best), total + len(validation)
    return right / total


@pytest.mark.parametrize("labels", ["", "verbs,colours,animals"])
def test_the_floor_by_hand(make_flat: MakeFlat, labels: str) -> None:
    ran = go(make_flat(rounds=1, alpha=5.0, clients=7, labels=labels))
    classes = labels.split(",") if labels else ["animals", "colours", "verbs"]
    assert ran.summary["floor"] == {"commonest_label_accuracy": pytest.approx(floor(ran, classes))}


def test_a_tie_goes_to_the_first_class(two_classes: MakeFlat, make_flat: MakeFlat) -> None:
    assert host.commonest_label(parse(two_classes()), ["animals", "colours"]) == "colours"
    assert host.commonest_label(parse(make_flat()), ["colours", "animals"]) == "animals"
    assert host.commonest_label(parse(make_flat(labels="verbs, colours,animals")), ["animals", "colours"]) == "colours"
    assert host.commonest_label(parse(make_flat()), ["colours", "animals", "colours"]) == "colours"


def test_the_metric_that_is_named_goes_before_the_tasks_own(two_classes: MakeFlat, make_flat: MakeFlat) -> None:
    assert resources.metric(parse(two_classes())) == "matthews"
    assert resources.metric(parse(two_classes(metric="f1"))) == "f1"
    assert resources.metric(parse(make_flat())) == "accuracy"
    assert resources.metric(parse(make_flat(task="mrpc"))) == "accuracy-and-f1"
