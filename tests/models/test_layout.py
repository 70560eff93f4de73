from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from models.layout import Entry, Layout

LAYOUT = Layout(
    (
        Entry("prompt.0", 0, (2, 1, 3), 2),
        Entry("prompt.2", 2, (2, 1, 3), 2),
        Entry("head.w", None, (2, 2)),
        Entry("head.b", None, (2,)),
    )
)


def test_sizes_names_and_slices() -> None:
    assert LAYOUT.size == 18
    assert LAYOUT.names == ("prompt.0", "prompt.2", "head.w", "head.b")
    assert LAYOUT.slices == {
        "prompt.0": slice(0, 6), "prompt.2": slice(6, 12), "head.w": slice(12, 16), "head.b": slice(16, 18)
    }  # fmt: skip


def test_blocks_are_key_and_value_of_each_prompt_and_each_head_tensor() -> None:
    starts = [0, 3, 6, 9, 12, 16, 18]
    assert LAYOUT.blocks == tuple(slice(a, b) for a, b in pairwise(starts))
    row = LAYOUT.flatten(
        {
            **LAYOUT.unflatten(torch.zeros(18)),
            "prompt.2": torch.stack([torch.full((1, 3), 1.0), torch.full((1, 3), 2.0)]),
        }
    )
    assert row[LAYOUT.blocks[2]].tolist() == [1.0] * 3
    assert row[LAYOUT.blocks[3]].tolist() == [2.0] * 3


def test_select_keeps_this_order_and_first_moves_the_named_ones() -> None:
    assert LAYOUT.select(["head.b", "prompt.0"]).names == ("prompt.0", "head.b")
    assert LAYOUT.first(["head.w", "prompt.2"]).names == ("prompt.2", "head.w", "prompt.0", "head.b")
    assert LAYOUT.first([]) == LAYOUT


def test_unflatten_gives_views_and_gradients_of_a_stack_of_rows() -> None:
    rows = torch.arange(36.0).reshape(2, 18).requires_grad_()
    named = LAYOUT.unflatten(rows)
    assert named["head.w"].shape == (2, 2, 2)
    assert named["head.w"][1].tolist() == [[30.0, 31.0], [32.0, 33.0]]
    assert named["prompt.2"].untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()
    named["head.b"].sum().backward()
    assert rows.grad is not None
    assert rows.grad.nonzero()[:, 1].tolist() == [16, 17, 16, 17]


def test_flatten_is_the_inverse_in_any_order_of_entries() -> None:
    row = torch.randn(18, generator=torch.Generator().manual_seed(0))
    other = LAYOUT.first(["head.b"])
    assert torch.equal(LAYOUT.flatten(other.unflatten(other.flatten(LAYOUT.unflatten(row)))), row)
    assert not torch.equal(other.flatten(LAYOUT.unflatten(row)), row)


def test_errors_name_the_tensor_and_both_shapes() -> None:
    named = LAYOUT.unflatten(torch.zeros(18))
    with pytest.raises(ValueError, match=r"head\.b has shape \(3,\), expected \(2,\)"):
        LAYOUT.flatten({**named, "head.b": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"prompt\.2 is missing"):
        LAYOUT.flatten({name: value for name, value in named.items() if name != "prompt.2"})
    with pytest.raises(ValueError, match=r"not in the layout: prompt\.9"):
        LAYOUT.flatten({**named, "prompt.9": torch.zeros(1)})
    with pytest.raises(ValueError, match="17 values does not fit a layout of 18"):
        LAYOUT.unflatten(torch.zeros(17))
    for choose in (LAYOUT.select, LAYOUT.first):
        with pytest.raises(ValueError, match=r"prompt\.1"):
            choose(["prompt.1"])
    with pytest.raises(ValueError, match="twice"):
        Layout((LAYOUT.entries[0], LAYOUT.entries[0]))
