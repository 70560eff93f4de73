"""Padding left out: where tokens stand, when it pays, and that the blocks really see none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from models import techniques
from models.backbone import Backbone
from models.deep_prompts import prompted
from models.loading import load_backbone
from models.technique import Options
from models.technique_names import BY_LAYER, WHOLE
from models.tuned_model import TunedModel
from models.unpadding import LEAST_PADDING, Unpadded

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])


def test_packing_keeps_real_tokens_in_order_and_padding_them_again_puts_zeros_elsewhere() -> None:
    tokens = Unpadded.of(MASK)
    assert tokens.places.tolist() == [0, 1, 2, 4, 8, 9, 10, 11]
    states = torch.arange(1.0, 25.0).view(3, 4, 2)
    packed = tokens.pack(states)
    assert packed.shape == (1, 8, 2)
    assert packed[0, 3].tolist() == states[1, 0].tolist()
    torch.testing.assert_close(tokens.pad(packed), states * MASK[..., None])


def test_gradients_go_through_both_ways() -> None:
    tokens, states = Unpadded.of(MASK), torch.ones(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tokens.pad(tokens.pack(x)), states)
    assert torch.autograd.gradgradcheck(lambda x: tokens.pad(tokens.pack(x)).square(), states)


@pytest.fixture
def backbone() -> Backbone:
    found = load_backbone("random:llama", unpadding=True)
    found.build_head("linear", 2)
    return found


def rows_seen(backbone: Backbone, lengths: list[int], owners: bool = False) -> list[tuple[int, ...]]:
    """The first two sizes of the states that each block but the first is given."""
    model, seen = prompted(backbone, (0, 1), 2), []
    most = max(lengths)
    mask = (torch.arange(most)[None] < torch.tensor(lengths)[:, None]).long()
    ids = torch.full((len(lengths), most), 9)

    def note(module: nn.Module, given: Any, named: Any) -> None:
        seen.append(tuple((given[0] if given else named["hidden_states"]).shape[:2]))

    rows = model.initial(0)[None].repeat(2 if owners else 1, 1)
    model.bind(rows, owner=torch.arange(len(lengths)) % 2 if owners else None)
    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in backbone.blocks[1:]]
    try:
        model.logits({"input_ids": ids, "attention_mask": mask})
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_blocks_see_the_real_tokens_alone(backbone: Backbone) -> None:
    assert rows_seen(backbone, [6, 2, 3]) == [(1, 11)]


def test_a_batch_with_little_padding_stays_as_it_is(backbone: Backbone) -> None:
    assert LEAST_PADDING == 0.1
    assert rows_seen(backbone, [10, 9]) == [(2, 10)]
    assert rows_seen(backbone, [10, 7]) == [(1, 17)]


def test_texts_of_several_clients_are_packed_too(backbone: Backbone) -> None:
    assert rows_seen(backbone, [6, 2], owners=True) == [(1, 8)]


@pytest.mark.parametrize("kind", [*BY_LAYER, *WHOLE[:3]])
def test_each_clients_gradient_is_that_with_padding(kind: str) -> None:
    """Three clients with parameters of their own, whose texts lie among each other's."""
    lengths, owner = torch.tensor([7, 2, 4, 9, 1]), torch.tensor([2, 0, 1, 0, 2])
    mask = (torch.arange(9)[None] < lengths[:, None]).long()
    ids = torch.randint(5, 60, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    found = []
    for without in (True, False):
        backbone = load_backbone("random:bert", unpadding=without)
        backbone.build_head("linear", 3)
        model = TunedModel(backbone, techniques.build(kind, backbone, (0, 1), Options(prompt_tokens=3, lora_rank=2)))
        drawn = torch.randn(3, model.layout.size, generator=torch.Generator().manual_seed(1))
        rows = (model.initial(0) + 0.1 * drawn).requires_grad_()
        model.bind(rows, owner=owner)
        loss = model.loss({"input_ids": ids, "attention_mask": mask}, owner, "sum")
        found.append(torch.autograd.grad(loss, rows)[0])
    assert found[0].abs().max(dim=1).values.min() > 1e-3
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_where_blocks_cannot_do_without_padding_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with a family: measured before anything trains."""
    wrong = Unpadded.pad
    monkeypatch.setattr(Unpadded, "pad", lambda own, packed: wrong(own, packed.flip(1)))
    assert not load_backbone("random:bert", unpadding=True).leaves_out_padding

    def refuses(own: Unpadded, packed: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such shape")

    monkeypatch.setattr(Unpadded, "pad", refuses)
    assert not load_backbone("random:bert", unpadding=True).leaves_out_padding


def test_activations_that_are_computed_again_keep_their_padding() -> None:
    assert not load_backbone("random:bert", unpadding=True, gradient_checkpointing=True).leaves_out_padding
