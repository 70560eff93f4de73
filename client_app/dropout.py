"""A model in training: its dropout is drawn for a client and a round, whichever process trains them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from federation.randomness import torch_seed
from federation.settings import Settings
from models.tuned_model import TunedModel


@contextmanager
def in_training(settings: Settings, model: TunedModel, client: int, round_number: int) -> Iterator[None]:
    """Dropout, where there is any, from (seed, client, round)."""
    torch.manual_seed(torch_seed(settings.federation.seed, "dropout", client, round_number))
    model.backbone.train(True)
    try:
        yield
    finally:
        model.backbone.train(False)
        model.unbind()
