"""Prompts [N_p, d] made from what a text looks like, h [d]: P = W_up relu(W_down h + b_down) + b_up."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from models.layout import Entry
from models.per_client import linear
from models.technique import normal, uniform

DOWN, UP = "generator.down", "generator.up"


class Generator:
    """Its tensors and what it makes of them.

    Args:
        features: size of h.
        bottleneck: m, size of what is between.
        tokens: N_p.
        width: of each vector of a prompt.
    """

    def __init__(self, features: int, bottleneck: int, tokens: int, width: int) -> None:
        self._shape = (tokens, width)
        self.entries = (
            Entry(f"{DOWN}.weight", None, (bottleneck, features)),
            Entry(f"{DOWN}.bias", None, (bottleneck,)),
            Entry(f"{UP}.weight", None, (tokens * width, bottleneck)),
            Entry(f"{UP}.bias", None, (tokens * width,)),
        )

    def initial(self, entry: Entry, seed: int, std: float) -> Tensor:
        """W_down as torch draws a linear layer, W_up N(0, std), biases 0: first prompts are about as small as plain ones."""
        if entry.name == f"{DOWN}.weight":
            return uniform(seed, entry.name, entry.shape, 1 / math.sqrt(entry.shape[1]))
        if entry.name == f"{UP}.weight":
            return normal(seed, entry.name, entry.shape, std)
        return torch.zeros(entry.shape)

    def prompts(self, values: Mapping[str, Tensor], features: Tensor, owner: Tensor | None) -> Tensor:
        """[B, N_p, width] of features [B, d], float32."""
        hidden = linear(features.float(), values[f"{DOWN}.weight"], values[f"{DOWN}.bias"], owner).relu()
        made = linear(hidden, values[f"{UP}.weight"], values[f"{UP}.bias"], owner)
        return made.reshape(len(features), *self._shape)
