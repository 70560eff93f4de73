"""How much of what does not travel a client updates: one share for all, or r_i by its own curvature (section 3).

By the estimators of the layers' ratio (section 2.2), at what the client trains. At B = 0 the Hessian is degenerate: before each B
outside S has moved nothing is estimated, and all of it moves. That is a client's first visit, where no warm-up came before it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from client_app.curvature import curvature
from client_app.optimizers import device_optimizer
from client_app.start import Start
from client_app.state import UPDATE_SHARE
from data.batches import Encoded
from federation.evaluation import losses_on
from federation.logs import event
from federation.messages import Ask
from federation.settings import Settings
from models.technique_names import matrix_of


def update_share(
    settings: Settings, ask: Ask, client: int, begun: Start, shard: Encoded, outside: Sequence[str]
) -> float | None:
    """The share of rows of B and columns of A; None while it cannot be told.

    Args:
        outside: the matrices of the layers outside S.

    Raises:
        ValueError: a product, or a gradient, was not finite.
    """
    told, estimator = settings.local.update_share, settings.local.share_estimator
    if estimator is None:
        return float(told)
    if (known := begun.kept.get(UPDATE_SHARE)) is not None:
        return float(known)
    values = begun.layout.unflatten(begun.row)
    if not all(values[name].any() for name in outside if matrix_of(name) == "B"):
        return None
    return _estimated(settings, estimator, ask, client, begun, shard)


def _estimated(settings: Settings, estimator: str, ask: Ask, client: int, begun: Start, shard: Encoded) -> float:
    """r_i, to float32: what is kept of it is that."""
    started, model = time.monotonic(), begun.model
    losses = losses_on(model, shard, ask.labels, log_prior=begun.log_prior)
    optimizer = device_optimizer(settings, replace(ask, second_moments=None), (), model.backbone.device)
    found = curvature(settings, estimator, client, model, shard, losses, begun.of_model(), optimizer).estimate
    event("share of updates", share=found.ratio, found=found.found, seconds=round(time.monotonic() - started, 3))
    return float(torch.tensor(found.ratio))
