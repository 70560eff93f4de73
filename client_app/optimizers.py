"""The optimiser that a device's settings name, fresh for a round (section 2.4 of docs/ALGORITHMS.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from client_app.local_update import SGD, Adam, DeviceOptimizer, Moments, SharedAdam
from federation.messages import Ask
from federation.settings import Settings


def device_optimizer(
    settings: Settings, ask: Ask, blocks: Sequence[slice], device: torch.device, moments: Moments | None = None
) -> DeviceOptimizer:
    """One for this round; moments: to go on with, None for a fresh start."""
    local = settings.local
    if local.device_optimizer == "sgd":
        return SGD(local.learning_rate, local.clip_norm, local.device_momentum)
    if ask.second_moments is None:  # not shared, or the first round: the device's own v
        return Adam(local.learning_rate, local.weight_decay, local.clip_norm, moments)
    sizes = torch.tensor([block.stop - block.start for block in blocks])
    vbar = ask.second_moments.repeat_interleave(sizes).to(device)
    return SharedAdam(local.learning_rate, local.weight_decay, local.clip_norm, vbar, moments)
