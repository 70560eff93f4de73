"""What the tests of all techniques share: a model with one on it, and checks that hold for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import techniques
from models.backbone import Backbone
from models.loading import load_backbone
from models.technique import Options
from models.tuned_model import TunedModel
from tests.models.conftest import LABELS, PROMPT_TOKENS

Folders = Callable[[str], Path]
Inputs = dict[str, Tensor]
OPTIONS = Options(prompt_tokens=PROMPT_TOKENS, bottleneck=5, lora_rank=3)
DECODERS = ("gpt2", "llama")
WORDS = ("good", "bad", "odd")


def loaded(folder: Path | str, head: str = "model") -> Backbone:
    backbone = load_backbone(str(folder))
    backbone.build_head(head, LABELS)
    return backbone


def by_words(family: str) -> Backbone:
    """A random language model; a decoder's words have several tokens."""
    backbone = load_backbone(f"random:{family}", words=WORDS, head="auto")
    backbone.build_head("auto", LABELS, WORDS)
    return backbone


def tuned(backbone: Backbone, name: str, layers: tuple[int, ...] = (0, 1), **options: Any) -> TunedModel:
    if name == "mixed-prompts":
        options = {"sources": sources(backbone, options.get("prompt_tokens", PROMPT_TOKENS)), **options}
    return TunedModel(backbone, techniques.build(name, backbone, layers, replace(OPTIONS, **options)))


def sources(backbone: Backbone, tokens: int, count: int = 2) -> tuple[Tensor, ...]:
    """Prompts of other tasks."""
    rng = torch.Generator().manual_seed(11)
    return tuple(torch.randn(tokens, backbone.embedding_size, generator=rng) for _ in range(count))


def filled(model: TunedModel, seed: int = 1, std: float = 0.5) -> Tensor:
    """A row [R] of which nothing is 0."""
    return torch.randn(model.layout.size, generator=torch.Generator().manual_seed(seed)) * std


def named(model: TunedModel, row: Tensor) -> dict[str, Tensor]:
    return model.layout.unflatten(row)


def head_of(model: TunedModel, row: Tensor) -> dict[str, Tensor]:
    """Head weights by the model's own names."""
    values = named(model, row.detach())
    return {name.removeprefix("head."): value for name, value in values.items() if name.startswith("head.")}


def scores(model: TunedModel, row: Tensor, inputs: Inputs) -> Tensor:
    model.bind(row[None])
    found = model.logits(inputs)
    model.unbind()
    return found


def weighted(scores: Tensor) -> Tensor:
    """A scalar whose gradient differs in every entry."""
    return (scores * torch.linspace(-1.0, 2.0, scores.numel()).reshape(scores.shape)).sum()


def answers(inputs: Inputs) -> Inputs:
    """With the place that decides: the last token."""
    return {**inputs, "answer_at": inputs["attention_mask"].sum(1) - 1}
