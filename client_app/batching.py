"""The batches of a client's round: all its examples in company that changes, or those that a curriculum has come to (section 3).

A curriculum's batches are cut once by (seed, client) and put in order; a round trains on the first n_t of them, reshuffled.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from client_app.fisher import squared_gradients
from data.batches import Encoded, fixed_batches, length_batches
from federation.evaluation import by_length, stack_losses_on
from federation.randomness import generator
from federation.settings import Settings
from models.tuned_model import TunedModel

Batches = list[list[int]]


def difficulties(settings: Settings, model: TunedModel, shard: Encoded, labels: Sequence[str]) -> Tensor:
    """f(s) = ||grad log p(y|s)||^2 of each example in what is tuned on the layers, [n] float32, at the run's initial values."""
    row = model.initial(settings.federation.seed, settings.model.prompt_init_std).to(model.backbone.device)
    size = sum(entry.size for entry in model.technique.entries)
    losses = stack_losses_on(model, shard, labels)
    found = torch.zeros(len(shard))
    try:
        for places in by_length(shard, range(len(shard)), settings.local.batch_size):
            squares = squared_gradients(row, losses, places, together=not model.of_one_client())
            found[places] = squares[:, :size].sum(dim=1).cpu()
    finally:
        model.unbind()
    return found


def leaves_out(settings: Settings, examples: int, server_round: int) -> bool:
    """Whether a client with so many examples has batches that it does not see in a round."""
    count = -(-examples // settings.local.batch_size)
    return settings.pacing.batches(count, server_round) < count


def needs_difficulties(settings: Settings) -> bool:
    """Whether the order of a client's batches follows from them."""
    return settings.curriculum.curriculum != "none" and settings.curriculum.curriculum_order in ("easy", "hard")


def in_order(settings: Settings, client: int, shard: Encoded, difficulty: Tensor | None) -> Batches:
    """A client's fixed batches as its curriculum comes to them: by the mean over their examples, ties by index.

    difficulty: f(s) of each example, [n], where the order follows from it; None where the client sees all of them.
    """
    rng = generator(settings.federation.seed, "curriculum", client)
    batches = fixed_batches(len(shard), settings.local.batch_size, rng)
    match settings.curriculum.curriculum_order:
        case "short":
            keys = np.array([len(ids) for ids in shard.input_ids], dtype=np.float64)
        case "easy" | "hard" as order if difficulty is not None:
            keys = difficulty.double().numpy() * (-1 if order == "hard" else 1)
        case _:  # as they were shuffled
            return batches
    return sorted(batches, key=lambda batch: float(keys[batch].mean()))  # Python's sort keeps ties as they are


def of_round(settings: Settings, shard: Encoded, client: int, server_round: int, order: Batches | None) -> Batches:
    """A client's batches, step by step; order: `in_order`, or None without a curriculum."""
    epochs = settings.local.local_epochs
    if order is None:
        return list(whole_epochs(settings, shard, client, server_round, epochs))
    first = order[: settings.pacing.batches(len(order), server_round)]
    found: Batches = []
    for epoch in range(epochs):
        rng = _lots(settings, client, server_round, epoch)
        found += [first[place] for place in rng.permutation(len(first))]
    return found


def whole_epochs(
    settings: Settings, shard: Encoded, client: int, server_round: int, epochs: int
) -> Iterator[list[int]]:
    """So many epochs in batches of similar length, in an order of (seed, client, round, epoch)."""
    lengths = [len(ids) for ids in shard.input_ids]
    for epoch in range(epochs):
        rng = _lots(settings, client, server_round, epoch)
        yield from length_batches(lengths, settings.local.batch_size, rng)


def _lots(settings: Settings, client: int, server_round: int, epoch: int) -> np.random.Generator:
    return generator(settings.federation.seed, "batches", client, server_round, epoch)


def stacked(each: Sequence[Batches], shards: Sequence[Encoded]) -> Iterator[Batches]:
    """Step by step the batch of each client that has one left, the longest first. Places in the joined shards."""
    *begins, _ = itertools.accumulate(map(len, shards), initial=0)
    for step in itertools.zip_longest(*each):
        pairs = zip(begins, step, strict=True)
        yield [[begin + place for place in batch] for begin, batch in pairs if batch is not None]
