"""The task head: what a sequence classification model has that its checkpoint does not hold.

Built anew once the labels are known. Its values live in the row of tuned parameters and are put in for a
forward pass; the modules only hold their places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from fedpeptao.errors import InputError
from models import per_client


class HeadLinear(nn.Linear):
    """A linear layer whose weight may also be [C, out, in]: then `owner` [B] says whose each row of the batch is.

    Works in float32 whatever the backbone's type.
    """

    owner: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """[B, ..., in] to [B, ..., out] in float32."""
        with torch.autocast(input.device.type, enabled=False):
            return self._scores(input.to(self.weight.dtype))

    def _scores(self, features: Tensor) -> Tensor:
        if self.weight.ndim == 2:
            return F.linear(features, self.weight, self.bias)
        if self.owner is None:
            raise ValueError(f"a head of {self.weight.shape[0]} clients needs an owner for each row of the batch")
        return per_client.linear(features, self.weight, self.bias, self.owner)


class FirstTokenLinear(HeadLinear):
    """Classes from the first token's features [B, T, d]: the linear head of a model whose own head has more to it."""

    def forward(self, input: Tensor, **_: Any) -> Tensor:
        """[B, T, d] to [B, classes]."""
        return super().forward(input[:, 0])


@dataclass(frozen=True)
class Head:
    """Names of the tuned parameters in the model's order; `replaced` where the model's own head had to go."""

    names: tuple[str, ...]
    replaced: bool


def held_outside_base(model: PreTrainedModel, missing: frozenset[str]) -> dict[str, Tensor]:
    """What the checkpoint holds of the parts that are not the base model, by parameter name."""
    prefix = f"{model.base_model_prefix}."
    named = model.named_parameters()
    return {name: value.detach() for name, value in named if not name.startswith(prefix) and name not in missing}


def build(
    model: PreTrainedModel, kind: str, num_labels: int, held: Mapping[str, Tensor], missing: frozenset[str]
) -> Head:
    """Give `model` a head for `num_labels` classes and name what is tuned in it (rule 5 of docs/ARCHITECTURE.md).

    kind "model" is the model's own head; "linear" is one linear layer: the model's own where that is all it has,
    else one on the first token. What the checkpoint holds (`held`, by name) is kept and frozen, except weights
    whose shape depends on the number of classes: those belong to other classes. Parameters of the base model that
    the checkpoint lacks (`missing`) are tuned as well. InputError("head", kind) where it cannot be built.
    """
    if kind not in ("linear", "model"):
        raise InputError("head", kind, "there is no such head", 'Use "linear" or "model"')
    model.config.num_labels = num_labels
    model.num_labels = num_labels  # type: ignore[assignment]
    fresh, other = _outline(model, num_labels), _outline(model, num_labels + 1)
    names = [name for name, child in fresh.items() if any(True for _ in child.parameters())]
    replaced = kind == "linear" and not (len(names) == 1 and isinstance(fresh[names[0]], nn.Linear))
    if replaced and len(names) != 1:
        problem = f"the model's own head has several parts ({', '.join(names)})"
        raise InputError("head", kind, problem, 'Use head = "model"')
    if replaced:
        hidden = model.config.get_text_config().hidden_size
        fresh[names[0]] = FirstTokenLinear(hidden, num_labels, device="meta")
    classes = _shapes(fresh).items() - _shapes(other).items()  # also everything of a replaced head
    anew = {name for name, _ in classes}
    device = next(model.parameters()).device
    for name, child in fresh.items():
        if any(True for _ in child.buffers()):
            problem = f"the model's head ({name}) holds buffers, which cannot be rebuilt"
            raise InputError("head", kind, problem, "Use another model")
        setattr(model, name, child.to_empty(device=device))
    tuned = [name for name in _shapes(fresh) if name in anew or name not in held]
    _keep(model, {name: value for name, value in held.items() if name in _shapes(fresh) and name not in tuned})
    tuned += [name for name in missing if name.startswith(f"{model.base_model_prefix}.")]
    _prepare(model, tuned)
    model.requires_grad_(False)
    return Head(tuple(name for name, _ in model.named_parameters() if name in tuned), replaced)


def _outline(model: PreTrainedModel, num_labels: int) -> dict[str, nn.Module]:
    """The parts outside the base model for so many classes, on the meta device (shapes without values)."""
    config = type(model.config).from_dict(model.config.to_dict())
    config.num_labels = num_labels
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        whole = type(model)(config)
    return {name: child for name, child in whole.named_children() if name != model.base_model_prefix}


def _shapes(children: Mapping[str, nn.Module]) -> dict[str, torch.Size]:
    return {f"{name}.{key}": value.shape for name, child in children.items() for key, value in child.named_parameters()}


def _keep(model: PreTrainedModel, held: Mapping[str, Tensor]) -> None:
    for name, value in held.items():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, nn.Parameter(value, requires_grad=False))


def _prepare(model: PreTrainedModel, tuned: list[str]) -> None:
    """Float32 for every module with a tuned parameter; linear ones become able to differ by row of the batch."""
    for path in sorted({name.rpartition(".")[0] for name in tuned}):
        module = model.get_submodule(path).float()
        if type(module) is nn.Linear:
            linear = HeadLinear(module.in_features, module.out_features, module.bias is not None, device="meta")
            linear.load_state_dict(module.state_dict(), assign=True)
            model.set_submodule(path, linear)
        elif not isinstance(module, HeadLinear):
            module.register_forward_pre_hook(_to_float32)


def _to_float32(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.float() if isinstance(value, Tensor) else value for value in inputs)
