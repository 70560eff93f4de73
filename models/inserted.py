"""Vectors in the sequence of a text: the model reads placeholders in their places, and meets the vectors.

A placeholder repeats the text's first token, never padding, so that decoders find the last token and RoBERTa's positions
count. In an encoder the vectors stand behind the first token, whose state its heads read; in a decoder in front, where every
token sees them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.backbone import Backbone
from models.hooks import hooked
from models.technique import Forward


def place_of(backbone: Backbone) -> int:
    """How many of a text's tokens stand before what is inserted."""
    return 0 if backbone.is_causal else 1


def widened(inputs: dict[str, Tensor], count: int, at: int) -> dict[str, Tensor]:
    """The inputs [B, T] with `count` placeholders at place `at`: input_ids, attention_mask and token_type_ids, [B, T + count]."""
    given = {"attention_mask": torch.ones_like(inputs["input_ids"]), **inputs}
    keys = ("input_ids", "attention_mask", "token_type_ids")
    return {key: insert(given[key], given[key][:, :1].expand(-1, count), at) for key in keys if key in given}


def insert(sequence: Tensor, vectors: Tensor, at: int) -> Tensor:
    """[B, T, ...] with [B, N, ...] of it from place `at` on: [B, T + N, ...] of the sequence's type."""
    return torch.cat([sequence[:, :at], vectors.to(sequence.dtype), sequence[:, at:]], dim=1)


@contextmanager
def inserted(backbone: Backbone, inputs: dict[str, Tensor], vectors: Tensor) -> Iterator[Forward]:
    """A forward pass over texts with `vectors` [B, N, d] among their token embeddings [B, T, d]; positions count them."""
    at, count = place_of(backbone), vectors.shape[1]

    def put(module: nn.Module, given: object, embedded: Tensor) -> Tensor:
        return torch.cat([embedded[:, :at], vectors.to(embedded.dtype), embedded[:, at + count :]], dim=1)

    with hooked([(backbone.model.get_input_embeddings(), put)]):
        yield Forward(backbone.shifted_arguments(widened(inputs, count, at), 0))


def text_mask(inputs: dict[str, Tensor]) -> Tensor:
    """[B, T], 1 at the tokens of the text itself: what follows it to be scored (a label word) tells a prompt nothing."""
    mask = inputs.get("text_mask", inputs.get("attention_mask"))
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


def mean_over(states: Tensor, mask: Tensor) -> Tensor:
    """Mean [B, d] float32 of states [B, T, d] where mask [B, T] is 1."""
    weight = mask[..., None].float()
    return (states.float() * weight).sum(1) / weight.sum(1)
