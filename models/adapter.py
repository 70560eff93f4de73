"""Adapters: a bottleneck behind each layer (Houlsby et al., arXiv 1902.00751, section 2).

    h <- h + W_up gelu(W_down h + b_down) + b_up                    h [d]: the layer's output

One in a layer, behind its feed-forward part (as in arXiv 2005.00247; the first paper has a second one behind the attention),
and no norm of its own. W_up is 0 at first: the frozen model as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft import PeftConfig
from torch import Tensor
from torch.nn import functional

from models.backbone import Backbone
from models.hooks import Hook, hooked, on_states
from models.layout import Entry
from models.per_client import linear
from models.technique import Forward, known_layers, normal


class Adapters:
    """Implements `models.technique.Technique`; InputError of layers that the model does not have."""

    def __init__(self, backbone: Backbone, layers: Sequence[int], bottleneck: int) -> None:
        self.backbone, size = backbone, backbone.hidden_size
        self.layers = known_layers(layers, backbone.num_layers)
        self.entries = tuple(
            Entry(f"adapter.{layer}.{name}", layer, shape)
            for layer in self.layers
            for name, shape in (
                ("down.weight", (bottleneck, size)),
                ("down.bias", (bottleneck,)),
                ("up.weight", (size, bottleneck)),
                ("up.bias", (size,)),
            )
        )
        self.begins_at = self.layers[0] if self.layers else 0
        self.shift = self.inserted = 0

    def initial(self, entry: Entry, seed: int, std: float) -> Tensor:
        """W_down N(0, std), all else 0."""
        if entry.name.endswith("down.weight"):
            return normal(seed, entry.name, entry.shape, std)
        return torch.zeros(entry.shape)

    def of_one_client(self) -> list[str]:
        """Nothing."""
        return []

    @contextmanager
    def running(
        self, values: Mapping[str, Tensor], inputs: dict[str, Tensor], owner: Tensor | None
    ) -> Iterator[Forward]:
        """Hooks behind the layers."""
        begin = self.backbone.beginning(self.begins_at, inputs)
        behind = [(self.backbone.blocks[layer], self._adapted(values, layer, owner)) for layer in self.layers]
        with hooked(behind), begin:
            yield Forward(self.backbone.shifted_arguments(inputs, 0))

    def _adapted(self, values: Mapping[str, Tensor], layer: int, owner: Tensor | None) -> Hook:
        name, slot = f"adapter.{layer}", self.backbone.slots[layer]

        def added(states: Tensor) -> Tensor:
            hidden = linear(states.float(), values[f"{name}.down.weight"], values[f"{name}.down.bias"], owner)
            return linear(functional.gelu(hidden), values[f"{name}.up.weight"], values[f"{name}.up.bias"], owner)

        return on_states(lambda states: states + slot.for_owners(added, states, owner).to(states.dtype))

    def to_peft(self, named: Mapping[str, Tensor]) -> tuple[PeftConfig, dict[str, Tensor]] | str:
        """PEFT has no such technique."""
        return "PEFT has no bottleneck adapters"
