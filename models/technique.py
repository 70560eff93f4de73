"""The protocol of a technique: what is tuned beside the head, and where it takes effect in a frozen model.

`models.tuned_model.TunedModel` is the same for all of them. A new one is a file with a class like this, and its name in
`models.technique_names` and `models.techniques`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from peft import PeftConfig
from torch import Tensor

from fedpeptao.errors import InputError
from models.layout import Entry


@dataclass(frozen=True)
class Options:
    """What techniques can be told; each takes what it knows.

    Attributes:
        prompt_tokens: N_p.
        prompt_init: "normal" or "vocabulary", what prompts begin with.
        prompt_layer: of late prompts; -1 for the middle.
        bottleneck: of generators and adapters.
        sources: prompts [N_p, d] of earlier runs, to be mixed.
        lora_rank, lora_alpha: r and alpha.
        lora_targets: names of linear layers in the attention; () for the usual ones.
    """

    prompt_tokens: int = 20
    prompt_init: str = "normal"
    prompt_layer: int = -1
    bottleneck: int = 64
    sources: tuple[Tensor, ...] = ()
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forward:
    """One forward pass of the frozen model.

    Attributes:
        arguments: of the model's `forward`.
        parameters: values in the place of the model's own, by the names of those.
    """

    arguments: dict[str, Tensor]
    parameters: dict[str, Tensor] = field(default_factory=dict)


class Technique(Protocol):
    """What is tuned beside the head."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers on which it has tensors, ascending; () where its tensors belong to none."""
        ...

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Names, layers and shapes of its tensors. A name begins with the kind under which its bytes are counted."""
        ...

    @property
    def begins_at(self) -> int:
        """The lowest layer that depends on it: what enters that layer is the same whatever the tensors are."""
        ...

    @property
    def shift(self) -> int:
        """By how much the positions of a text's tokens are shifted below `begins_at`."""
        ...

    @property
    def inserted(self) -> int:
        """By how many places a text's tokens, but for the first of an encoder's, stand later in the model's output."""
        ...

    def initial(self, entry: Entry, seed: int, std: float) -> Tensor:
        """Initial value of one of `entries`, float32 on the CPU, a function of the arguments alone."""
        ...

    def of_one_client(self) -> list[str]:
        """Names of what cannot differ by row of a batch; [] where several clients can share a forward pass."""
        ...

    def running(
        self, values: Mapping[str, Tensor], inputs: dict[str, Tensor], owner: Tensor | None
    ) -> AbstractContextManager[Forward]:
        """Everything in place for one forward pass, and nothing left behind after it.

        Args:
            values: [C, *shape] by the names of `entries`; autograd flows back into them.
            inputs: input_ids and attention_mask int64 [B, T], padded on the right; perhaps token_type_ids, and `entering`
                [B, T, d], what enters the layer `begins_at`, and `text_mask` [B, T], 1 at the text's own tokens where a label
                word follows them.
            owner: int64 [B], whose row each text meets; None for C = 1.
        """
        ...

    def to_peft(self, named: Mapping[str, Tensor]) -> tuple[PeftConfig, dict[str, Tensor]] | str:
        """As PEFT holds it: a configuration, to which whoever writes it adds model, task and head, and tensors by PEFT's names.

        Args:
            named: values [*shape] by the names of `entries`; others may be among them.

        Returns:
            That, or a line that says why PEFT cannot hold it.
        """
        ...


def normal(seed: int, name: str, shape: tuple[int, ...], std: float) -> Tensor:
    """N(0, std) float32 of that shape, drawn from (seed, name) alone."""
    return torch.randn(shape, generator=random_generator(seed, name)) * std


def uniform(seed: int, name: str, shape: tuple[int, ...], bound: float) -> Tensor:
    """U(-bound, bound) float32 of that shape, drawn from (seed, name) alone."""
    return (2 * torch.rand(shape, generator=random_generator(seed, name)) - 1) * bound


def known_layers(layers: Sequence[int], count: int) -> tuple[int, ...]:
    """Ascending, each once; InputError for one that a model of so many layers does not have."""
    if wrong := [layer for layer in layers if not 0 <= layer < count]:
        listed = ",".join(str(layer) for layer in layers)
        raise InputError("layers", listed, f"the model has no layer {wrong[0]}", f"Use layers from 0 to {count - 1}")
    return tuple(sorted(set(layers)))


def random_generator(seed: int, name: str) -> torch.Generator:
    """Of (seed, name) alone, on the CPU."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
