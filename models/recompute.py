"""Gradient checkpointing: activations of a block are computed again in the backward pass in place of being kept.

Written here, since transformers' own runs only in training mode, and would find the prompts gone: they lie on the modules for
one forward pass, as hooks do. So each block takes what it met along to its second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from models.attention import PromptSlot
from models.hooks import hooked


def recompute_blocks(blocks: Sequence[nn.Module], slots: Sequence[PromptSlot]) -> None:
    """Let each block (with the slot of its attention) forget its activations wherever gradients are asked for."""
    for block, slot in zip(blocks, slots, strict=True):
        block.forward = _recomputed(block.forward, slot)


def _recomputed(inner: Callable[..., Any], slot: PromptSlot) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        prompt, owner, hooks = slot.prompt, slot.owner, slot.hooks

        def again(*args: Any, **kwargs: Any) -> Any:
            before = slot.prompt, slot.owner
            slot.prompt, slot.owner = prompt, owner
            gone = () if slot.hooks else hooks
            try:
                with hooked(gone):
                    return inner(*args, **kwargs)
            finally:
                slot.prompt, slot.owner = before

        return checkpoint(again, *args, use_reentrant=False, **kwargs)

    return forward
