"""Deep prompts as PEFT's prefix tuning, and back.

PEFT keeps all prompts in one matrix [N_p, L * 2 * kv_heads * head_dim], so its format holds only models with a prompt on each
layer, and it hands them over as past keys and values, which some models do not take.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from peft import PeftConfig, PrefixTuningConfig
from torch import Tensor

if TYPE_CHECKING:
    from models.deep_prompts import DeepPrompts

PROMPTS = "prompt_embeddings"
"""PEFT's name for the matrix."""


def to_peft(prompts: DeepPrompts, named: Mapping[str, Tensor]) -> tuple[PeftConfig, dict[str, Tensor]] | str:
    """Configuration and tensors of an adapter, or what PEFT cannot hold. named: the prompts of all layers, by name."""
    backbone = prompts.backbone
    if "past_key_values" not in inspect.signature(backbone.model.base_model.forward).parameters:
        name = type(backbone.model.base_model).__name__
        return f"{name} takes no past keys and values, which prompts are to PEFT"
    if without := sorted(set(range(backbone.num_layers)) - set(prompts.layers)):
        return f"PEFT's prefix tuning puts a prompt on every layer, and layers {without} have none"
    config = PrefixTuningConfig(
        num_virtual_tokens=prompts.prompt_tokens,
        num_layers=backbone.num_layers,
        num_attention_heads=backbone.kv_heads,  # of keys and values: fewer than of queries where they are grouped
        token_dim=backbone.kv_heads * backbone.head_dim,
        num_transformer_submodules=1,
        encoder_hidden_size=backbone.hidden_size,
    )
    return config, {PROMPTS: _to_matrix(torch.stack([named[entry.name] for entry in prompts.entries]))}


def shape(prompts: DeepPrompts) -> tuple[int, int]:
    """Of PEFT's matrix."""
    backbone = prompts.backbone
    return prompts.prompt_tokens, backbone.num_layers * 2 * backbone.kv_heads * backbone.head_dim


def prompts_of(prompts: DeepPrompts, matrix: Tensor) -> dict[str, Tensor]:
    """Prompts by name, of PEFT's matrix."""
    found = _from_matrix(matrix, prompts.backbone.num_layers, prompts.backbone.kv_heads)
    return {entry.name: found[place] for place, entry in enumerate(prompts.entries)}


def _to_matrix(prompts: Tensor) -> Tensor:
    """[L, 2, kv_heads, N_p, head_dim] to PEFT's [N_p, L * 2 * kv_heads * head_dim]."""
    return prompts.flatten(0, 1).permute(2, 0, 1, 3).flatten(1).contiguous()


def _from_matrix(matrix: Tensor, layers: int, kv_heads: int) -> Tensor:
    """Inverse of `_to_matrix`."""
    return matrix.reshape(len(matrix), layers, 2, kv_heads, -1).permute(1, 2, 3, 0, 4)
