"""LoRA: an update of low rank beside each of some linear layers of the attention (arXiv 2106.09685, equation 3).

    W x + b  becomes  W x + b + (alpha / r) B A x                   A [r, in], B [out, r]; B = 0 at first

By forward hooks, so that several clients share a pass and the frozen model stays as it is; the file that a run leaves is PEFT's.
Without dropout on x.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedpeptao.errors import InputError
from models.backbone import Backbone
from models.hooks import Hook, hooked
from models.layout import Entry
from models.per_client import linear
from models.technique import Forward, known_layers, uniform


class LowRank:
    """Implements `models.technique.Technique`.

    Args:
        targets: names of linear layers within each attention module; () for query and value, or the one that holds all.

    Raises:
        InputError: of layers, lora-targets that the model does not have, or a lora-rank above a size of one of them.
    """

    def __init__(
        self, backbone: Backbone, layers: Sequence[int], rank: int, alpha: float, targets: Sequence[str]
    ) -> None:
        self.backbone, self.rank, self.alpha = backbone, rank, alpha
        self.layers = known_layers(layers, backbone.num_layers)
        self._modules = {
            f"lora.{layer}.{name}": (layer, module)
            for layer in self.layers
            for name, module in _targets(backbone.attention[layer], targets).items()
        }
        for name, (_, module) in self._modules.items():
            if rank > (most := min(_sizes(module))):
                problem = f"{name.split('.', 2)[2]} of {backbone.name} has no more than {most} rows and columns"
                raise InputError("lora-rank", rank, problem, f"Use {most} or less")
        self.entries = tuple(
            Entry(f"{name}.{part}", layer, shape)
            for name, (layer, module) in self._modules.items()
            for part, shape in (("A", (rank, _sizes(module)[0])), ("B", (_sizes(module)[1], rank)))
        )
        self.begins_at = self.layers[0] if self.layers else 0
        self.shift = self.inserted = 0

    def initial(self, entry: Entry, seed: int, std: float) -> Tensor:
        """A as PEFT draws it (Kaiming's uniform for a = sqrt 5), from (seed, name); B = 0."""
        if entry.name.endswith(".B"):
            return torch.zeros(entry.shape)
        return uniform(seed, entry.name, entry.shape, 1 / math.sqrt(entry.shape[1]))

    def of_one_client(self) -> list[str]:
        """Nothing."""
        return []

    @contextmanager
    def running(
        self, values: Mapping[str, Tensor], inputs: dict[str, Tensor], owner: Tensor | None
    ) -> Iterator[Forward]:
        """Hooks on the linear layers, which their slots know too, for who computes a layer again."""
        begin = self.backbone.beginning(self.begins_at, inputs)
        places = [(layer, module, self._update(values, name, owner)) for name, (layer, module) in self._modules.items()]
        slots = {layer: self.backbone.slots[layer] for layer in self.layers}
        try:
            for layer, slot in slots.items():
                slot.hooks = tuple((module, hook) for at, module, hook in places if at == layer)
            with hooked((module, hook) for _, module, hook in places), begin:
                yield Forward(self.backbone.shifted_arguments(inputs, 0))
        finally:
            for slot in slots.values():
                slot.hooks = ()

    def _update(self, values: Mapping[str, Tensor], name: str, owner: Tensor | None) -> Hook:
        a, b, slot = values[f"{name}.A"], values[f"{name}.B"], self.backbone.slots[self._modules[name][0]]

        def update(states: Tensor) -> Tensor:
            return linear(linear(states.to(a.dtype), a, None, owner), b, None, owner) * (self.alpha / self.rank)

        def hook(module: nn.Module, given: Any, output: Tensor) -> Tensor:
            return output + slot.for_owners(update, given[0], owner).to(output.dtype)

        return hook

    def to_peft(self, named: Mapping[str, Tensor]) -> tuple[PeftConfig, dict[str, Tensor]] | str:
        """LoRA, on modules that are named in full: so it lies on the tuned layers alone."""
        paths = {module: path for path, module in self.backbone.model.named_modules()}
        prefix = f"{self.backbone.model.base_model_prefix}."
        modules = {name: (paths[module], module) for name, (_, module) in self._modules.items()}
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            target_modules=[path.removeprefix(prefix) for path, _ in modules.values()],
            fan_in_fan_out=any(isinstance(module, Conv1D) for _, module in modules.values()),
        )
        return config, {
            f"{path}.lora_{part}.weight": named[f"{name}.{part}"].contiguous()
            for name, (path, _) in modules.items()
            for part in ("A", "B")
        }


def _targets(attention: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """By name: those that are asked for; else query and value; else the widest, which is query, key and value in one."""
    found = {name: part for name, part in attention.named_modules() if isinstance(part, (nn.Linear, Conv1D))}
    if unknown := [name for name in names if name not in found]:
        problem = f"the model's attention has no linear layer {unknown[0]}"
        raise InputError("lora-targets", ",".join(names), problem, f"It has {', '.join(found)}")
    if not found:
        raise InputError("tuned", "lora", "the model's attention has no linear layers", "Use another technique")
    if any(name.startswith("v") for name in found):
        names = names or [name for name in found if name.startswith(("q", "v"))]
    names = names or [max(found, key=lambda name: _sizes(found[name])[1])]
    return {name: found[name] for name in names}


def _sizes(module: nn.Module) -> tuple[int, int]:
    """(in, out); GPT-2's Conv1D is a linear layer that holds its weight the other way round."""
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features
