"""Padding left out of everything that a model does token by token.

A padded batch [B, T, d] enters the blocks as one row of its N real tokens [1, N, d]. Attention alone sees a batch again, with its
masks and prompts (models/attention.py); behind the last block so does all the rest. Texts of one batch differ in length, and
linear layers are most of the work: what padding costs there is gone. Results are those with padding, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from models.hooks import on_states

if TYPE_CHECKING:
    from models.attention import PromptSlot

Given = tuple[Any, ...]
Named = dict[str, Any]
LEAST_PADDING = 0.1
"""Share of a batch below which it stays as it is: taking it apart costs something too."""


@dataclass(frozen=True)
class Unpadded:
    """Where the N real tokens of a batch [B, T] stand; `places` int64 [N] count row by row."""

    places: Tensor
    batch: int
    length: int

    @classmethod
    def of(cls, mask: Tensor) -> Unpadded:
        """mask: [B, T], 1 at real tokens."""
        return cls(mask.flatten().nonzero()[:, 0], *mask.shape)

    def pack(self, padded: Tensor) -> Tensor:
        """[B, T, ..] to [1, N, ..]."""
        return padded.flatten(0, 1).index_select(0, self.places)[None]

    def pad(self, packed: Tensor) -> Tensor:
        """[1, N, ..] to [B, T, ..], with zeros at padding."""
        rest = packed.shape[2:]
        empty = packed.new_zeros((self.batch * self.length, *rest))
        return empty.index_copy(0, self.places, packed[0]).view(self.batch, self.length, *rest)

    def by_text(self, work: Callable[[Tensor], Tensor], packed: Tensor) -> Tensor:
        """What treats each text in a way of its own, [B, T, ..] to [B, T, ..], on packed states."""
        return self.pack(work(self.pad(packed)))


@contextmanager
def unpadded(blocks: Sequence[nn.Module], slots: Sequence[PromptSlot], mask: Tensor) -> Iterator[None]:
    """While it is open, a batch with this mask [B, T] goes through these blocks (the model's last ones) without padding."""
    tokens = Unpadded.of(mask)

    def enter(module: nn.Module, given: Given, named: Named) -> tuple[Given, Named]:
        if module is blocks[0] and given:
            given = (tokens.pack(given[0]), *given[1:])
        elif module is blocks[0]:
            named = {**named, "hidden_states": tokens.pack(named["hidden_states"])}
        if (rotary := named.get("position_embeddings")) is not None:  # cosine and sine, [B or 1, T, ..]
            packed = tuple(tokens.pack(part.expand(tokens.batch, -1, -1)) for part in rotary)
            named = {**named, "position_embeddings": packed}
        return given, named

    handles = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(on_states(tokens.pad)))
    try:
        for slot in slots:
            slot.unpadded = tokens
        yield
    finally:
        for slot in slots:
            slot.unpadded = None
        for handle in handles:
            handle.remove()
