"""Rows as they are sent: block by block within a name, with lots of their own."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from federation.channels import Channels, make_channels
from federation.codec import BLOCK
from federation.settings import Scalar, defaults, parse
from models.layout import Entry, Layout

LAYOUT = Layout((Entry("prompt.1", 1, (2, 3, BLOCK), 2), Entry("head.w", None, (2, 300)), Entry("head.b", None, (2,))))


def made(layout: Layout = LAYOUT, **changes: Scalar) -> Channels:
    return make_channels(parse({**defaults(), **{k.replace("_", "-"): v for k, v in changes.items()}}), layout)


def row(seed: int = 0) -> Tensor:
    return torch.randn(LAYOUT.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_float32_is_the_row_itself() -> None:
    assert torch.equal(made().model.as_sent(row(), 1), row().to(torch.float32))


def test_no_block_reaches_into_another_name() -> None:
    """As if each name's numbers were alone: a large one in head.w takes no digits from head.b."""
    values = row() * 1e-3
    values[LAYOUT.slices["head.w"]] = 1000.0
    seen = LAYOUT.unflatten(made(precision="int8").update.as_sent(values, 1, 1))
    torch.testing.assert_close(seen["head.b"].double(), LAYOUT.unflatten(values)["head.b"], rtol=0.03, atol=0)


def test_the_same_number_gives_the_same_bits_and_another_other_ones() -> None:
    """Of round, client, seed, and of what travels."""
    own, other = made(precision="int8"), made(precision="int8", seed=1)
    seen = [
        own.update.as_sent(row(), 3, 7),
        own.update.as_sent(row(), 4, 7),
        own.update.as_sent(row(), 3, 8),
        own.update.as_sent(row(), 37),
        other.update.as_sent(row(), 3, 7),
        own.model.as_sent(row(), 7),
        own.control.as_sent(row(), 7),
    ]
    assert not any(torch.equal(a, b) for a, b in combinations(seen, 2))
    assert torch.equal(made(precision="int8").update.as_sent(row(), 3, 7), seen[0])


@pytest.mark.parametrize(("precision", "size"), [("float32", 8), ("float16", 4), ("int8", 3)])
def test_bytes_are_those_of_the_array(precision: str, size: int) -> None:
    channel = made(precision=precision).control
    assert channel.bytes_of(LAYOUT.entries[2]) == size
    arrays = [channel.codec.encode(part).nbytes for part in LAYOUT.unflatten(row()).values()]
    assert [channel.bytes_of(entry) for entry in LAYOUT.entries] == arrays
