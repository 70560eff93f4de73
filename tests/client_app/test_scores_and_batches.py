"""The batches that a node draws for a client: behind its score and its spectrum, and in its epochs (sections 2.1, 2.2, 2.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from client_app import host
from client_app.batching import whole_epochs
from client_app.curvature import spectrum_of
from client_app.state import MemoryStore
from data.batches import Encoded, score_batches
from federation import resources
from federation.evaluation import batch_inputs
from federation.messages import Ask
from federation.randomness import generator
from federation.settings import Settings, parse
from strategies.selection import SCORE_BATCH, batch_score
from tests.small_runs import Flat, model_of

MakeFlat = Callable[..., Flat]
LABELS = ("animals", "colours", "verbs")


@pytest.fixture
def settings(make_flat: MakeFlat) -> Settings:
    return parse(make_flat(clients=2, clients_per_round=2, local_epochs=3, batch_size=4))


def shard(settings: Settings, client: int) -> Encoded:
    return host.shard_of(settings, client)[0]


def batches(settings: Settings, client: int, server_round: int) -> list[list[list[int]]]:
    """Per epoch: the batches, by place in client 0's shard whoever asks."""
    train = shard(settings, 0)
    found = list(whole_epochs(settings, train, client, server_round, settings.local.local_epochs))
    per_epoch = len(found) // settings.local.local_epochs
    return [found[start : start + per_epoch] for start in range(0, len(found), per_epoch)]


def test_a_score_is_the_mean_over_all_its_batches(settings: Settings) -> None:
    several = replace(settings, selection=replace(settings.selection, score_batches=3))
    train, backbone = shard(several, 0), resources.backbone(several)
    drawn = score_batches(train, SCORE_BATCH, 3, generator(several.federation.seed, "score", 0))
    assert len(drawn) > 1
    per_batch = []
    for rows in drawn:
        inputs = batch_inputs(backbone, train, rows)
        per_batch.append([batch_score(h, inputs["attention_mask"]) for h in backbone.block_outputs(inputs)])
    wanted = [sum(layer) / len(drawn) for layer in zip(*per_batch, strict=True)]
    assert host.layer_scores(several, 0, train) == pytest.approx(wanted)
    assert wanted != pytest.approx(per_batch[-1], rel=1e-3)


def test_a_client_whose_loss_has_no_gradient_gives_no_score(make_flat: MakeFlat) -> None:
    """One class in the head: its probability is 1."""
    told = parse(make_flat(score="perturbation", tuned="lora", lora_rank=2))
    train = shard(told, 0)
    assert all(host.layer_scores(told, 0, train))
    one = replace(told, data=replace(told.data, labels=LABELS[0]))
    assert host.layer_scores(one, 0, replace(train, labels=[LABELS[0]] * len(train))) == []


def test_the_batch_behind_a_spectrum_is_the_same_each_time(settings: Settings) -> None:
    """Three of many examples."""
    few = replace(
        settings, selection=replace(settings.selection, ratio="plateau", curvature_examples=3, curvature_steps=3)
    )
    _, _, shared = model_of(few, (0, 1), len(LABELS))
    ask = Ask("run", 7, LABELS, (0, 1), (0,), (7,), 0, True, shared)
    one, two = (spectrum_of(few, ask, 0, 0, MemoryStore()) for _ in range(2))
    assert one.batch == 3 < len(shard(few, 0))
    assert one.theta == two.theta


def test_each_epoch_holds_every_example_once(settings: Settings) -> None:
    epochs = batches(settings, 0, 1)
    assert len(epochs) == 3
    for epoch in epochs:
        assert sorted(row for batch in epoch for row in batch) == list(range(len(shard(settings, 0))))


def test_epochs_rounds_and_clients_have_an_order_of_their_own(settings: Settings) -> None:
    first, second, third = batches(settings, 0, 1)
    orders = [first, second, third, batches(settings, 0, 2)[0], batches(settings, 1, 1)[0]]
    assert all(a != b for place, a in enumerate(orders) for b in orders[:place])
    assert batches(settings, 0, 1) == [first, second, third]
