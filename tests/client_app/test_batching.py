"""A client's batches under a curriculum: difficulties one by one, their order, and how many a round sees (section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from client_app import batching
from client_app.start import shard_of
from data.batches import Encoded
from federation import resources
from federation.evaluation import losses_on
from federation.settings import Settings, parse
from tests.small_runs import Flat

MakeFlat = Callable[..., Flat]
LABELS = ("animals", "colours", "verbs")
LORA = {"tuned": "lora", "lora_rank": 2, "curriculum": "linear", "rounds": 10, "batch_size": 4, "clients": 2}


def settings_of(make_flat: MakeFlat, **given: Any) -> Settings:
    return parse(make_flat(**{**LORA, "clients_per_round": 2, **given}))


@pytest.mark.parametrize("model", ["random:bert", "random:llama"])
@pytest.mark.parametrize("head", ["linear", "model"])
def test_difficulties_are_those_of_one_example_at_a_time(make_flat: MakeFlat, model: str, head: str) -> None:
    """The trace of the diagonal Fisher information, against the loop; LoRA's parameters alone, at their beginning."""
    settings = settings_of(make_flat, model=model, head=head)
    shard, tuned = shard_of(settings, 0)[0], resources.tuned(settings, (0, 1), LABELS)
    found = batching.difficulties(settings, tuned, shard, LABELS)
    losses, row = losses_on(tuned, shard, LABELS), tuned.initial(settings.federation.seed)[None]
    size = sum(entry.size for entry in tuned.layout.entries if entry.layer is not None)
    for place in range(len(shard)):
        leaf = row.clone().requires_grad_()
        (grad,) = torch.autograd.grad(losses(leaf, [place]).sum(), leaf)
        assert float(found[place]) == pytest.approx(float(grad[0, :size].square().sum()), rel=1e-4)
    assert float(found.min()) > 0
    assert float(found.max()) > 1.01 * float(found.min())


def texts(lengths: list[int]) -> Encoded:
    return Encoded([[1] * length for length in lengths], None, ["a"] * len(lengths), 0)


def test_easy_hard_and_short_ones_first_by_the_mean_of_a_batch(make_flat: MakeFlat) -> None:
    """Nine examples in three batches, the last of one."""
    difficulty = torch.tensor([5.0, 1.0, 4.0, 2.0, 9.0, 3.0, 8.0, 7.0, 6.0])
    lengths = [3, 9, 1, 4, 7, 8, 2, 5, 6]
    orders = {}
    for order in ("easy", "hard", "short", "random"):
        settings = settings_of(make_flat, curriculum_order=order)
        orders[order] = batching.in_order(settings, 0, texts(lengths), difficulty)
    cut = orders["random"]
    assert sorted(map(len, cut)) == [1, 4, 4]
    assert sorted(place for batch in cut for place in batch) == list(range(9))
    assert cut != [[0, 1, 2, 3], [4, 5, 6, 7], [8]]

    def mean(values: list[float], batch: list[int]) -> float:
        return sum(values[place] for place in batch) / len(batch)

    hardness = difficulty.tolist()
    assert orders["easy"] == sorted(cut, key=lambda batch: mean(hardness, batch))
    assert orders["hard"] == orders["easy"][::-1]
    assert orders["short"] == sorted(cut, key=lambda batch: mean(lengths, batch))
    assert orders["short"] != orders["easy"]
    assert orders["easy"] != sorted(cut, key=lambda batch: sum(hardness[place] for place in batch))


def test_ties_stay_in_the_order_they_were_cut_in(make_flat: MakeFlat) -> None:
    cut = batching.in_order(settings_of(make_flat, curriculum_order="random"), 0, texts([1] * 9), None)
    for order in ("easy", "hard", "short"):
        settings = settings_of(make_flat, curriculum_order=order)
        assert batching.in_order(settings, 0, texts([1] * 9), torch.ones(9)) == cut


def test_the_batches_are_cut_by_seed_and_client_alone(make_flat: MakeFlat) -> None:
    settings = settings_of(make_flat, curriculum_order="random")
    other = replace(settings, federation=replace(settings.federation, seed=5))
    cuts = [
        batching.in_order(one, client, texts([1] * 20), None)
        for one, client in ((settings, 0), (settings, 1), (other, 0))
    ]
    assert cuts[0] == batching.in_order(settings, 0, texts([1] * 20), None)
    assert all(a != b for number, a in enumerate(cuts) for b in cuts[:number])


def test_a_round_trains_on_the_first_ones_alone_reshuffled(make_flat: MakeFlat) -> None:
    settings = settings_of(make_flat, local_epochs=3)
    order = [[2 * number, 2 * number + 1] for number in range(20)]
    for server_round, count in ((1, 12), (2, 13), (9, 20), (10, 20)):
        found = batching.of_round(settings, texts([1] * 40), 0, server_round, order)
        epochs = [found[start : start + count] for start in range(0, len(found), count)]
        assert len(epochs) == 3
        assert all(sorted(epoch) == order[:count] for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2]


def test_a_client_with_fewer_examples_than_a_batch_sees_them_all_from_the_beginning(make_flat: MakeFlat) -> None:
    settings = settings_of(make_flat, local_epochs=2)
    order = batching.in_order(settings, 0, texts([1, 2, 3]), torch.tensor([3.0, 1.0, 2.0]))
    assert len(order) == 1
    assert batching.of_round(settings, texts([1, 2, 3]), 0, 1, order) == order * 2
    assert settings.steps_in(1, 3) == 2
