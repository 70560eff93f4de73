"""What a client trains for itself: a second model beside the shared one (Ditto), and its own after the last round.

Neither travels, so neither is corrected for drift, and Adam's moments start anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from client_app.batching import whole_epochs
from client_app.dropout import in_training
from client_app.local_update import DeviceOptimizer, Pull, local_update
from client_app.optimizers import device_optimizer
from client_app.sparse import Sparse
from client_app.start import Start
from client_app.work import moving
from data.batches import Encoded
from federation.evaluation import losses_on
from federation.messages import Ask
from federation.settings import Settings


def trained_alone(settings: Settings, ask: Ask, client: int, begun: Start, shard: Encoded) -> Tensor:
    """All that the client trains [R], after its final local epochs; uncorrected, with moments that start anew."""
    model, after = begun.model, ask.round + 1
    with in_training(settings, model, client, after):
        result = local_update(
            begun.personal[None].to(model.backbone.device),
            whole_epochs(settings, shard, client, after, settings.local.final_local_epochs),
            losses_on(model, shard, ask.labels, begun.layout, begun.log_prior),
            _moving(settings, [begun], device_optimizer(settings, ask, (), model.backbone.device)),
        )
    return result.rows[0].cpu()


def ditto(
    settings: Settings,
    ask: Ask,
    begun: Sequence[Start],
    batches: Iterator[list[list[int]]],
    losses: Callable[[Tensor, list[list[int]]], Tensor],
) -> Tensor | None:
    """Each client's personal model [C, R] after the same batches, pulled towards the shared one (Ditto, arXiv 2012.04221).

    v_i <- v_i - eta ( grad f_i(v_i) + lambda (v_i - x) )
    """
    if not settings.personal.ditto:
        return None
    first, device = begun[0], begun[0].model.backbone.device
    centre = torch.stack([one.row for one in begun]).to(device)
    optimizer = _moving(settings, begun, device_optimizer(settings, replace(ask, second_moments=None), (), device))
    pull = Pull(settings.personal.ditto, first.shared, centre)
    rows = torch.stack([one.personal for one in begun]).to(device)
    return local_update(rows, batches, losses, optimizer, pull=pull, active=len).rows


def _moving(settings: Settings, begun: Sequence[Start], optimizer: DeviceOptimizer) -> DeviceOptimizer:
    """The optimiser on what training may move at all."""
    layout, places = begun[0].layout, moving(settings, begun[0].layout)
    if places is None:
        return optimizer
    return Sparse(optimizer, [places.to(begun[0].model.backbone.device)] * len(begun), layout.size)
