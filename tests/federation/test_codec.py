from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from federation.codec import FloatCodec, make_codec, rounded

LARGEST_HALF = 65504.0


def test_float32_gives_back_the_bits() -> None:
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(make_codec("float32"), values), values)


def test_float64_is_rounded_to_what_travels() -> None:
    values = torch.tensor([1 / 3, 1e-30], dtype=torch.float64)
    assert torch.equal(rounded(make_codec("float32"), values), values.to(torch.float32))


def test_float16_rounds_to_the_nearest() -> None:
    seen = rounded(make_codec("float16"), torch.tensor([1 / 3, 2049.0, 2051.0, 1e-9, -0.1]))
    assert seen.dtype == torch.float32
    assert seen.tolist() == [float(np.float16(1 / 3)), 2048, 2052, 0, float(np.float16(-0.1))]


def test_float16_saturates_instead_of_turning_infinite() -> None:
    seen = rounded(make_codec("float16"), torch.tensor([65504.0, 65519.0, 65520.0, 1e30, -1e30]))
    assert seen.tolist() == [LARGEST_HALF] * 4 + [-LARGEST_HALF]


def test_what_is_no_number_stays_none() -> None:
    """So that whoever receives it can refuse it."""
    assert math.isnan(rounded(make_codec("float16"), torch.tensor([math.nan])).item())


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("float16", 2)])
def test_encoded_arrays_have_the_shape_and_the_promised_width(precision: str, size: int) -> None:
    array = make_codec(precision).encode(torch.ones(2, 3, requires_grad=True))
    assert (array.shape, array.dtype, array.nbytes) == ((2, 3), np.dtype(precision), 6 * size)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_encoding_twice_changes_nothing(precision: str) -> None:
    """Both ends go on with the decoded values: sending those again must give the same."""
    codec = make_codec(precision)
    once = rounded(codec, torch.randn(50, generator=torch.Generator().manual_seed(1)) * 1e4)
    assert torch.equal(rounded(codec, once), once)


def test_neither_end_shares_memory_with_what_travels() -> None:
    codec, values = make_codec("float32"), torch.ones(3)
    array = codec.encode(values)
    decoded = codec.decode(array)
    array += 1
    assert values.tolist() == [1, 1, 1]
    assert decoded.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("agreed", "sent"), [(np.float32, np.float16), (np.float16, np.float32), (np.float32, np.int64)]
)
def test_an_array_of_another_type_is_refused(agreed: type[np.floating], sent: type[np.generic]) -> None:
    with pytest.raises(ValueError, match=rf"{np.dtype(sent)}.*{np.dtype(agreed)}.*precision"):
        FloatCodec(agreed).decode(np.ones(2, dtype=sent))
