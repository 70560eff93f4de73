"""Every technique on every family that works: padded or alone the same scores, a step lowers the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.families import FAMILIES, WORDS, load, save, texts
from models.technique_names import TECHNIQUES
from tests.models.techniques import filled, tuned
from tests.models.test_families import WORKS


@pytest.mark.parametrize("name", WORKS)
def test_every_technique(name: str, tmp_path: Path) -> None:
    backbone = load(save(FAMILIES[name], tmp_path / "base"), head="auto", words=WORDS)
    backbone.build_head("auto", len(WORDS), WORDS)
    for technique in TECHNIQUES:
        model = tuned(backbone, technique, prompt_tokens=2)
        inputs = texts(model)
        row = filled(model, std=0.3).requires_grad_()
        model.bind(row[None])
        together = model.logits(inputs)
        for at, size in enumerate(inputs["attention_mask"].sum(1).tolist()):
            alone = {
                key: value[at : at + 1, :size] if value.ndim > 1 else value[at : at + 1]
                for key, value in inputs.items()
            }
            torch.testing.assert_close(model.logits(alone)[0], together[at], rtol=1e-4, atol=1e-4, msg=technique)
        wanted = torch.tensor([0, 1, 2, 1])
        before = model.loss(inputs, wanted)
        (gradient,) = torch.autograd.grad(before, row)
        assert float(gradient.norm()) > 0, technique
        model.bind((row - 0.004 * gradient / gradient.norm())[None])
        assert model.loss(inputs, wanted) < before, technique
