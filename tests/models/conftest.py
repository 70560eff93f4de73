"""Checkpoints of the four random families on disk, with weights large enough that attention is not flat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.random_models import FAMILIES, random_model, random_tokenizer

LABELS = 3
PROMPT_TOKENS = 4


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a family's two-layer checkpoint (as LABELS classes were trained on it), made on first use."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(family: str) -> Path:
        where = root / family
        if not where.exists():
            model = random_model(family, 7, "sdpa", torch.float32)
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.ndim > 1:
                        weight.mul_(8)
            model.save_pretrained(where)
            random_tokenizer(family).save_pretrained(where)
        return where

    return folder


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["padded", "full", "single"])
def inputs(request: pytest.FixtureRequest) -> dict[str, torch.Tensor]:
    """A batch of byte tokens of any family: padded on the right, without padding, or of one token each."""
    lengths = {"padded": [7, 3, 5, 1], "full": [6, 6, 6], "single": [1, 1]}[request.param]
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(10, 250, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def padded_for(family: str, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with the family's padding token where the mask is 0."""
    pad = 1 if family == "roberta" else 0
    return {**inputs, "input_ids": inputs["input_ids"].where(inputs["attention_mask"] == 1, pad)}
