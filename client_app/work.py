"""What a client does in a round, before it takes a step: which batches, and which of its parameters they move (section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client_app import batching
from client_app.fisher import information, updated, with_momentum
from client_app.own_share import update_share
from client_app.start import Start
from client_app.state import DIFFICULTY, FISHER, UPDATE_SHARE
from data.batches import Encoded
from federation.evaluation import by_length, stack_losses_on
from federation.messages import Ask
from federation.settings import Settings
from models.layout import Layout
from models.technique_names import matrix_of


@dataclass(frozen=True)
class Work:
    """A client's round.

    Attributes:
        batches: examples of each step.
        places: which parameters move, int64, ascending; None: all.
        memory: what it keeps of it by name.
    """

    batches: list[list[int]]
    places: Tensor | None
    memory: Mapping[str, Tensor]


def work_of(settings: Settings, ask: Ask, client: int, begun: Start, shard: Encoded) -> Work:
    """Of a client that begins a round; its model is bound to nothing afterwards."""
    order, memory = None, {}
    if settings.curriculum.curriculum != "none":
        difficulty, chooses = begun.kept.get(DIFFICULTY), batching.leaves_out(settings, len(shard), ask.round)
        if difficulty is None and chooses and batching.needs_difficulties(settings):
            difficulty = batching.difficulties(settings, begun.model, shard, ask.labels)
        memory = {} if difficulty is None else {DIFFICULTY: difficulty}
        order = batching.in_order(settings, client, shard, difficulty if chooses else None)
    batches = batching.of_round(settings, shard, client, ask.round, order)
    in_part = _in_part(begun.layout, ask, settings)
    share = update_share(settings, ask, client, begun, shard, in_part) if in_part else 1.0
    if in_part and share is not None and settings.local.share_estimator:  # none is known while all layers travel
        memory |= {UPDATE_SHARE: torch.tensor([share])}
    if share == 1:
        return Work(batches, moving(settings, begun.layout), memory)
    first = batches[: min(settings.local.fisher_batches, len(batches) // settings.local.local_epochs)]
    fisher = _information(settings, ask, begun, shard, first)
    memory |= {f"{FISHER}{name}": value for name, value in fisher.items()}
    places = updated(begun.layout, fisher, 1.0 if share is None else share, frozen(settings, begun.layout))
    return Work(batches, places, memory)


def moving(settings: Settings, layout: Layout) -> Tensor | None:
    """What training may move in any round; None: all."""
    still = frozen(settings, layout)
    return updated(layout, {}, 1.0, still) if still else None


def frozen(settings: Settings, layout: Layout) -> list[str]:
    """What stays as it begins, on all clients alike."""
    return [name for name in layout.names if settings.model.lora_train == "B" and matrix_of(name) == "A"]


def _in_part(layout: Layout, ask: Ask, settings: Settings) -> list[str]:
    """The matrices of the layers outside S that are trained."""
    still = frozen(settings, layout)
    outside = [entry.name for entry in layout.entries if entry.layer is not None and entry.layer not in ask.layers]
    return [name for name in outside if matrix_of(name) and name not in still]


def _information(
    settings: Settings, ask: Ask, begun: Start, shard: Encoded, batches: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """F of those matrices, by name: of this visit and those before."""
    model, layout, prior = begun.model, begun.layout, begun.log_prior
    size, device = settings.local.batch_size, model.backbone.device
    losses = stack_losses_on(model, shard, ask.labels, layout, None if prior is None else prior.expand(size, -1))
    part, slices = layout.select(_in_part(layout, ask, settings)), layout.slices
    row = begun.row.to(device)
    where = torch.cat([torch.arange(slices[name].start, slices[name].stop) for name in part.names]).to(device)

    def losses_of_part(values: Tensor, batch: Sequence[Sequence[int]]) -> Tensor:
        """Of their values alone, so that no gradient goes further down than to the lowest of them."""
        return losses(row.expand(len(values), -1).index_copy(1, where, values), batch)

    examples = [place for batch in batches for place in batch]  # a mean over them is the same in any groups
    groups = by_length(shard, examples, size)
    try:
        new = information(row[where], losses_of_part, groups, together=not model.of_one_client()).cpu()
    finally:
        model.unbind()
    gamma = settings.local.fisher_momentum
    return {
        name: with_momentum(begun.kept.get(f"{FISHER}{name}"), value, gamma)
        for name, value in part.unflatten(new).items()
    }
