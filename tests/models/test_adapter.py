from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedpeptao.errors import InputError
from tests.models.conftest import padded_for
from tests.models.reference import plain_model
from tests.models.techniques import Folders, filled, head_of, loaded, named, scores, tuned, weighted


def blocks_of(model: torch.nn.Module, family: str) -> torch.nn.ModuleList:
    inner = model.base_model
    return inner.h if family == "gpt2" else inner.layers if family == "llama" else inner.encoder.layer


@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_scores_and_gradients_are_those_of_the_equation(
    checkpoint: Folders, family: str, inputs: dict[str, Tensor], layers: tuple[int, ...]
) -> None:
    """h + W_up gelu(W_down h + b_down) + b_up behind each block of the plain model."""
    inputs = padded_for(family, inputs)
    model = tuned(loaded(checkpoint(family)), "adapter", layers)
    row, leaf = filled(model).requires_grad_(), filled(model).requires_grad_()
    parts = named(model, leaf)

    def behind(layer: int):  # type: ignore[no-untyped-def]
        def hook(module: object, given: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            h = output if isinstance(output, Tensor) else output[0]
            down = h @ parts[f"adapter.{layer}.down.weight"].T + parts[f"adapter.{layer}.down.bias"]
            h = h + functional.gelu(down) @ parts[f"adapter.{layer}.up.weight"].T + parts[f"adapter.{layer}.up.bias"]
            return h if isinstance(output, Tensor) else (h, *output[1:])

        return hook

    plain = plain_model(checkpoint(family), head_of(model, row))
    for layer in layers:
        blocks_of(plain, family)[layer].register_forward_hook(behind(layer))
    found, expected = scores(model, row, inputs), plain(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weighted(found).backward()
    weighted(expected).backward()
    assert row.grad is not None
    assert leaf.grad is not None
    tuned_part = sum(entry.size for entry in model.technique.entries)
    assert (row.grad[:tuned_part] != 0).float().mean() > 0.5  # gelu is flat far below 0
    torch.testing.assert_close(row.grad[:tuned_part], leaf.grad[:tuned_part], rtol=1e-3, atol=1e-4)


def test_it_begins_as_the_frozen_model(checkpoint: Folders, family: str) -> None:
    inputs = {"input_ids": torch.arange(20, 32).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    model = tuned(loaded(checkpoint(family)), "adapter")
    row = model.initial(4, std=0.1)
    own = plain_model(checkpoint(family), head_of(model, row))(**inputs).logits
    torch.testing.assert_close(scores(model, row, inputs), own, rtol=1e-5, atol=1e-6)
    assert 0.05 < float(named(model, row)["adapter.0.down.weight"].std()) < 0.15


def test_names_shapes_and_layers() -> None:
    model = tuned(loaded("random:bert"), "adapter", (1,), bottleneck=7)
    assert {entry.name: entry.shape for entry in model.technique.entries} == {
        "adapter.1.down.weight": (7, 32),
        "adapter.1.down.bias": (7,),
        "adapter.1.up.weight": (32, 7),
        "adapter.1.up.bias": (32,),
    }
    assert [entry.layer for entry in model.technique.entries] == [1] * 4
    with pytest.raises(InputError, match="no layer 2"):
        tuned(model.backbone, "adapter", (2,))
    assert "bottleneck adapters" in str(model.technique.to_peft({}))
