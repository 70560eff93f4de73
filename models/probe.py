"""One forward pass at start that proves a model can carry deep prompts.

Some families accept a custom attention function and never call it, others call it from one module for all layers, or give it
terms that it would drop: prompts would be trained that nothing reads, on another model. So nothing is believed; it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedpeptao.errors import InputError
from models.attention import NAME, PromptSlot, Recorder
from models.unpadding import unpadded

if TYPE_CHECKING:
    from models.backbone import Backbone

MEND = (
    "Use a model whose attention goes through transformers' attention interface with a layer index, "
    "such as BERT, RoBERTa, GPT-2 or Llama"
)
_UNFIT = (IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What blocks raise that are given more by token than states and rotary positions, where padding is left out."""
_EXACT, _HALF = 1e-4, 0.05  # relative, of outputs in float32 and in half precision


@dataclass(frozen=True)
class Probed:
    """What the probe found: slots, attention and block modules by layer, and the shape of keys."""

    slots: tuple[PromptSlot, ...]
    attention: tuple[nn.Module, ...]
    blocks: tuple[nn.Module, ...]
    kv_heads: int
    head_dim: int


def probe(model: PreTrainedModel, name: str) -> Probed:
    """Run `model` once and place a slot on the attention module of each layer.

    Raises InputError("model", name) where the attention function is never called, is called not once a layer or without a
    way to tell layers apart, gives another output than the family's own, or where the model refuses to run with it.
    """
    if model.config.is_encoder_decoder:
        raise _refusal(name, "it is an encoder-decoder, which has two kinds of attention in a layer")
    layers = model.config.get_text_config().num_hidden_layers
    calls, ours = _record(model, name)
    if not calls:
        raise _refusal(name, "it never called the attention function, so prompts would have no effect")
    found = _by_layer([module for module, _, _ in calls], name)
    if sorted(found) != list(range(layers)):
        raise _refusal(name, f"layers {sorted(found)} called the attention function, expected 0 to {layers - 1}")
    shapes = {shape[1::2] for _, key, value in calls for shape in (key, value)}
    if len(shapes) != 1:
        raise _refusal(name, f"its keys and values differ in shape: (heads, size) {sorted(shapes)}")
    ((kv_heads, head_dim),) = shapes
    _check_agreement(model, ours, name)
    slots = tuple(PromptSlot() for _ in range(layers))
    for index, slot in enumerate(slots):
        found[index].prompt_slot = slot  # type: ignore[assignment]
    attention = tuple(found[index] for index in range(layers))
    return Probed(slots, attention, _blocks(model, found, name), kv_heads, head_dim)


@torch.no_grad()
def can_do_without_padding(backbone: Backbone) -> bool:
    """Measured: whether two texts of other lengths end, without padding, in the states that they have with it."""
    mask = torch.tensor([[1] * 7, [1] * 3 + [0] * 4], device=backbone.device)
    ids = torch.arange(3, 17, device=backbone.device).view(2, 7)
    ids = ids.where(mask.bool(), int(backbone.tokenizer.pad_token_id or 0))
    inputs = {"input_ids": ids, "attention_mask": mask}
    states = backbone.last_states(inputs)
    try:
        with unpadded(backbone.blocks, backbone.slots, mask):
            other = backbone.last_states(inputs)
    except _UNFIT:
        return False
    real = mask.bool()
    return _differ(states[real], other[real]) <= _tolerance(backbone.model.dtype)


def _by_layer(modules: Sequence[nn.Module], name: str) -> dict[int, nn.Module]:
    """Attention modules, in the order of their calls, by layer index; where none has one (DistilBERT), by that order."""
    indices = [getattr(module, "layer_idx", None) for module in modules]
    if all(index is None for index in indices):
        if len(set(modules)) < len(modules):
            raise _refusal(
                name, f"its layers share one attention module ({type(modules[0]).__name__}), without layer index"
            )
        return dict(enumerate(modules))
    found: dict[int, nn.Module] = {}
    for index, module in zip(indices, modules, strict=True):
        if not isinstance(index, int) or isinstance(index, bool):
            raise _refusal(name, f"its attention ({type(module).__name__}) has no layer index")
        if index in found:
            raise _refusal(name, f"layer {index} called the attention function more than once")
        found[index] = module
    return found


def _record(
    model: PreTrainedModel, name: str
) -> tuple[list[tuple[nn.Module, tuple[int, ...], tuple[int, ...]]], Tensor]:
    """Calls of the attention function in one forward pass of the base model over one short text, and its output [1, T, d]."""
    recorder = Recorder()
    for module in model.modules():
        module.prompt_slot = recorder  # type: ignore[assignment]
    try:
        output = _output(model)
    except Exception as error:  # whatever a modelling file raises means the same: it cannot run like this
        reason = str(error).splitlines()[0] if str(error) else ""
        raise _refusal(name, f"it refuses the attention function ({type(error).__name__}: {reason})") from error
    finally:
        for module in model.modules():
            del module.prompt_slot
    return recorder.calls, output


@torch.no_grad()
def _output(model: PreTrainedModel) -> Tensor:
    """[1, T, d] for one text of 5 tokens, which differ: attention over equal ones is the same however it weighs them."""
    ids = torch.arange(3, 8, device=model.device)[None]
    output: Tensor = model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
    return output.float()


def _check_agreement(model: PreTrainedModel, ours: Tensor, name: str) -> None:
    """Without prompts, the output has to be that of the family's own attention: some have a term that others would drop."""
    model.set_attn_implementation("eager")
    try:
        own = _output(model)
    finally:
        model.set_attn_implementation(NAME)
    away = _differ(ours, own)
    if not away <= _tolerance(model.dtype):
        raise _refusal(name, f"its own attention has terms that are lost here (outputs differ by {away:.0%})")


def _differ(one: Tensor, other: Tensor) -> float:
    """By how much, of the second one's norm."""
    return float((one.float() - other.float()).norm() / other.float().norm())


def _tolerance(dtype: torch.dtype) -> float:
    """Up to which two outputs are the same but for the order of sums."""
    return _EXACT if dtype == torch.float32 else _HALF


def _blocks(model: PreTrainedModel, attention: dict[int, nn.Module], name: str) -> tuple[nn.Module, ...]:
    """The block of each layer: the outermost list element that holds the layer's attention module."""
    paths = {module: path for path, module in model.named_modules()}
    found = []
    for index in sorted(attention):
        parts = paths[attention[index]].split(".")
        parents = [model.get_submodule(".".join(parts[:end])) for end in range(len(parts))]
        lists = [end for end, parent in enumerate(parents) if isinstance(parent, nn.ModuleList)]
        if not lists:
            raise _refusal(name, f"the block of layer {index} could not be found")
        found.append(model.get_submodule(".".join(parts[: lists[0] + 1])))
    if len(set(found)) != len(found):
        raise _refusal(name, "several layers share one block")
    return tuple(found)


def _refusal(name: str, problem: str) -> InputError:
    return InputError("model", name, problem, MEND)
