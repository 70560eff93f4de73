"""Leaving out the lower layers of a frozen model in one forward pass, for every family whose blocks pass hidden states on.

What else a block is given (masks, rotary embeddings) is made outside of the blocks, from shapes alone, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


class Reached(Exception):  # noqa: N818 - nothing went wrong
    """Ends a forward pass at the block it was to reach."""


@dataclass
class Caught:
    """What enters a block, and how the blocks before it return what they make: alone, or first in a tuple."""

    states: Tensor | None = None
    as_tuple: bool = False


@contextmanager
def stop_before(blocks: Sequence[nn.Module], layer: int) -> Iterator[Caught]:
    """A forward pass inside ends, with Reached, before the block of `layer` runs."""
    caught = Caught()

    def enter(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        found = given[0] if given else named.get("hidden_states")
        if not isinstance(found, Tensor):
            raise RuntimeError(f"{type(module).__name__} is not given hidden states first")
        caught.states = found
        raise Reached

    def leave(module: nn.Module, given: object, output: object) -> None:
        caught.as_tuple = isinstance(output, tuple)

    hooks = [
        blocks[0].register_forward_hook(leave),
        blocks[layer].register_forward_pre_hook(enter, with_kwargs=True),
    ]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def skip_to(blocks: Sequence[nn.Module], layer: int, states: Tensor, as_tuple: bool) -> Iterator[None]:
    """A forward pass inside runs none of the blocks below `layer`; `states` [B, T, d] enter it."""

    def forward(*given: Any, **named: Any) -> Tensor | tuple[Tensor]:
        return (states,) if as_tuple else states

    lower = blocks[:layer]
    own = [vars(block).pop("forward", None) for block in lower]  # gradient checkpointing has one in place
    try:
        for block in lower:
            block.forward = forward
        yield
    finally:
        for block, before in zip(lower, own, strict=True):
            del block.forward
            if before is not None:
                block.forward = before
