from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from torch import Tensor

from federation.codec import BLOCK, Codec, Int8Codec, make_codec
from federation.setting_kinds import PRECISIONS

LARGEST_HALF, LARGEST_INT8 = 65504.0, 127 * 2.0**121


def rounded(precision: str, values: Tensor, seed: int = 0) -> Tensor:
    return make_codec(precision).rounded(values, np.random.default_rng(seed))


def there_and_back(codec: Codec, values: Tensor) -> Tensor:
    return codec.decode(codec.encode(values), tuple(values.shape))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- floating point ----------------------------------------------------------------------------------------


def test_float32_gives_back_the_bits() -> None:
    values = normal(3, 5)
    assert torch.equal(rounded("float32", values), values)


def test_float64_is_rounded_to_what_travels() -> None:
    values = torch.tensor([1 / 3, 1e-30], dtype=torch.float64)
    assert torch.equal(rounded("float32", values), values.to(torch.float32))


def test_float16_rounds_to_the_nearest() -> None:
    seen = rounded("float16", torch.tensor([1 / 3, 2049.0, 2051.0, 1e-9, -0.1]))
    assert seen.dtype == torch.float32
    assert seen.tolist() == [float(np.float16(1 / 3)), 2048, 2052, 0, float(np.float16(-0.1))]


def test_float16_saturates_instead_of_turning_infinite() -> None:
    seen = rounded("float16", torch.tensor([65504.0, 65519.0, 65520.0, 1e30, -1e30]))
    assert seen.tolist() == [LARGEST_HALF] * 4 + [-LARGEST_HALF]


# -- int8 by hand ------------------------------------------------------------------------------------------


def test_int8_of_one_block_by_hand() -> None:
    """Up to 127 in a unit of 1, above in a unit of 2; to the nearest where nothing is drawn."""
    codec = make_codec("int8")
    assert codec.encode(torch.tensor([127.0, -3.4, 0.0])).tolist() == [0, 127, -3, 0]
    assert codec.encode(torch.tensor([127.1, -3.4, 0.0])).tolist() == [1, 64, -2, 0]
    assert codec.encode(torch.tensor([63.5, 0.25])).tolist() == [-1, 127, 0]  # 0.25 is half a unit: to the even
    assert codec.encode(torch.tensor([0.0, -0.0])).tolist()[1:] == [0, 0]
    assert codec.decode(np.array([-3, 8, -127], np.int8), (2,)).tolist() == [1.0, -127 / 8]


def test_int8_has_a_scale_for_each_block() -> None:
    """So that a large number costs its neighbours their digits, and nobody else."""
    values = torch.ones(3 * BLOCK // 2) * 1e-3
    values[0] = 1000.0
    seen = rounded("int8", values)
    assert set(seen[1:BLOCK].tolist()) <= {0.0, 8.0}
    torch.testing.assert_close(seen[BLOCK:], values[BLOCK:], rtol=1 / 64, atol=0)
    assert make_codec("int8").encode(values)[:2].tolist() == [3, -16]


@pytest.mark.parametrize("shape", [(1,), (BLOCK,), (BLOCK + 1,), (2, 3 * BLOCK, 5), (3, 7)])
def test_int8_takes_a_byte_a_number_and_one_a_block(shape: tuple[int, ...]) -> None:
    codec, size = Int8Codec(), math.prod(shape)
    array = codec.encode(normal(*shape))
    assert codec.form(shape) == (array.dtype, array.shape) == (np.dtype(np.int8), (size + math.ceil(size / BLOCK),))
    assert there_and_back(codec, normal(*shape)).shape == shape


def test_int8_is_right_on_average() -> None:
    """Over 4000 draws the mean is within five standard errors, and no draw is a whole unit off."""
    values = torch.tensor([0.1, -0.37, 0.9, 50.03, -126.9, 127.0])
    draws = torch.stack([rounded("int8", values, seed) for seed in range(4000)])
    assert float((draws - values).abs().max()) < 1
    assert float((draws.double().mean(0) - values).abs().max()) < 5 * 0.5 / math.sqrt(4000)
    nearest = there_and_back(make_codec("int8"), values)
    assert float((nearest - values).abs().max()) > 0.3  # what rounding to the nearest is off each time


def test_int8_draws_the_same_from_the_same_generator_and_else_others() -> None:
    values = normal(1000)
    assert torch.equal(rounded("int8", values, 1), rounded("int8", values, 1))
    assert not torch.equal(rounded("int8", values, 1), rounded("int8", values, 2))


def test_neighbouring_numbers_are_rounded_independently() -> None:
    """One lot a block would round all up or all down together."""
    values = torch.full((BLOCK,), 0.5)
    values[0] = 127.0
    ups = torch.stack([rounded("int8", values, seed)[1:] for seed in range(50)]).mean(1)
    assert float(ups.min()) > 0.2
    assert float(ups.max()) < 0.8


def test_int8_keeps_what_is_tiny_or_huge_finite() -> None:
    huge = rounded("int8", torch.tensor([3.4028e38, -3.4028e38]))
    assert huge.tolist() == [LARGEST_INT8, -LARGEST_INT8]
    assert float(rounded("int8", torch.tensor([1e-45, 1e-42])).abs().max()) <= 2.0**-126
    assert rounded("int8", torch.zeros(5)).tolist() == [0.0] * 5


# -- all -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_no_number_stays_none(precision: str) -> None:
    """So that whoever receives it can refuse it."""
    seen = rounded(precision, torch.tensor([1.0, math.nan, 2.0]))
    assert math.isnan(seen[1].item())
    assert math.isnan(there_and_back(make_codec(precision), seen).sum().item())


def test_an_infinite_number_is_none_in_int8() -> None:
    """There is no scale for its block; another block knows nothing of it."""
    values = torch.ones(BLOCK + 1)
    values[3] = -math.inf
    seen = rounded("int8", values)
    assert bool(seen[:BLOCK].isnan().all())
    assert seen[BLOCK].item() == 1


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("float16", 2)])
def test_encoded_arrays_have_the_shape_and_the_promised_width(precision: str, size: int) -> None:
    codec = make_codec(precision)
    array = codec.encode(torch.ones(2, 3, requires_grad=True))
    assert (array.shape, array.dtype, array.nbytes) == ((2, 3), np.dtype(precision), 6 * size)
    assert codec.form((2, 3)) == (array.dtype, array.shape)


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("precision", PRECISIONS)
@profile(max_examples=150, derandomize=True, deadline=None)
@given(values=st.lists(numbers, min_size=1, max_size=2 * BLOCK), seed=st.integers(0, 99))
def test_what_was_rounded_travels_without_loss(precision: str, values: list[float], seed: int) -> None:
    """Whatever the numbers and the lots: encoding needs no lots of its own, and rounding again changes nothing."""
    once = rounded(precision, torch.tensor(values, dtype=torch.float32), seed)
    assert torch.equal(there_and_back(make_codec(precision), once), once)
    assert torch.equal(rounded(precision, once, seed + 1), once)


@profile(max_examples=100, derandomize=True, deadline=None)
@given(values=st.lists(numbers, min_size=1, max_size=2 * BLOCK), seed=st.integers(0, 99))
def test_int8_is_off_by_less_than_a_unit_of_its_block(values: list[float], seed: int) -> None:
    """A unit: less than 1/63 of the largest number, or the smallest ordinary float32 number."""
    exact = torch.tensor(values, dtype=torch.float32).clamp(-LARGEST_INT8, LARGEST_INT8)
    seen = rounded("int8", exact, seed)
    for block, there in zip(exact.double().split(BLOCK), seen.double().split(BLOCK), strict=True):
        assert float((block - there).abs().max()) < max(float(block.abs().max()) / 63, 2.0**-126)


def test_neither_end_shares_memory_with_what_travels() -> None:
    for precision in PRECISIONS:
        codec, values = make_codec(precision), torch.ones(3)
        array = codec.encode(values)
        decoded = codec.decode(array, (3,))
        array += 1
        assert values.tolist() == [1, 1, 1]
        assert decoded.tolist() == [1, 1, 1]


@pytest.mark.parametrize("exponent", [-128, -127, 122, 127])
def test_a_scale_that_no_sender_writes_is_refused(exponent: int) -> None:
    with pytest.raises(ValueError, match="scale"):
        Int8Codec().decode(np.array([exponent, 1], np.int8), (1,))
