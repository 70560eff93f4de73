"""How numbers become an array that travels, and how much is lost on the way (section 2.8 of docs/ALGORITHMS.md).

`rounded` may lose something, and may draw lots for it: whoever owns the numbers calls it once, and goes on with what it gives.
`encode` of that loses nothing, so that both ends hold the same bits without knowing of each other's random numbers.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BLOCK = 256
_MOST, _NO_NUMBER = 127, -128  # codes
_LEAST_EXPONENT, _MOST_EXPONENT = -126, 121  # 2^k and 127 x 2^k are ordinary float32 numbers

Shape = tuple[int, ...]


class Codec(Protocol):
    """Numbers of any shape as an array, and back.

    Attributes:
        squeezed: whether the array's bytes travel in a Huffman code.
    """

    squeezed: bool

    def rounded(self, values: Tensor, rng: np.random.Generator) -> Tensor:
        """What the other end will see of `values`: float32, of their shape."""

    def encode(self, values: Tensor) -> np.ndarray:
        """The array that travels: exact for what `rounded` gave, else to the nearest."""

    def form(self, shape: Shape) -> tuple[np.dtype, Shape]:
        """Type and shape of the array that travels for values of this shape."""

    def decode(self, array: np.ndarray, shape: Shape) -> Tensor:
        """float32 [shape]; array: of the type and shape of `form`. ValueError: it holds what no sender writes."""


class FloatCodec:
    """IEEE floating point of a given width. float16 saturates at its largest number instead of turning infinite."""

    squeezed = False

    def __init__(self, dtype: type[np.floating]) -> None:
        self.dtype = np.dtype(dtype)

    def rounded(self, values: Tensor, rng: np.random.Generator) -> Tensor:
        """To the nearest; draws nothing."""
        return self.decode(self.encode(values), tuple(values.shape))

    def encode(self, values: Tensor) -> np.ndarray:
        """In the values' shape."""
        limit = np.finfo(self.dtype).max
        return np.clip(values.detach().cpu().to(torch.float32).numpy(), -limit, limit).astype(self.dtype)

    def form(self, shape: Shape) -> tuple[np.dtype, Shape]:
        """The same shape."""
        return self.dtype, shape

    def decode(self, array: np.ndarray, shape: Shape) -> Tensor:
        """Exact."""
        return torch.from_numpy(array.astype(np.float32))


class Int8Codec:
    """Whole numbers q from -127 to 127 times 2^k, with a k for each block of so many numbers.

    k is the smallest with max |v| <= 127 x 2^k in the block, so that what was rounded once is a multiple of every scale it can be
    given again: encoding it is exact. One int8 array holds all k, then all q, in 1 + 1/block bytes a number,
    before they are squeezed.
    """

    squeezed = True

    def __init__(self, block: int = BLOCK) -> None:
        self.block = block

    def rounded(self, values: Tensor, rng: np.random.Generator) -> Tensor:
        """Up with the probability of what is left over, else down: right on average. A block that is not finite turns NaN."""
        units, exponents = self._units(values)
        low, lots = np.floor(units), np.ones_like(units)
        lots.reshape(-1)[: values.numel()] = rng.random(values.numel(), dtype=np.float32)
        return self.decode(self._packed(low + (lots < units - low), exponents, values.numel()), tuple(values.shape))

    def encode(self, values: Tensor) -> np.ndarray:
        """To the nearest."""
        units, exponents = self._units(values)
        return self._packed(np.rint(units), exponents, values.numel())

    def form(self, shape: Shape) -> tuple[np.dtype, Shape]:
        """One row of int8."""
        size = math.prod(shape)
        return np.dtype(np.int8), (self._blocks(size) + size,)

    def decode(self, array: np.ndarray, shape: Shape) -> Tensor:
        """q x 2^k, exact; NaN where the sender had no finite numbers."""
        size = math.prod(shape)
        exponents, codes = np.split(array, [self._blocks(size)])
        if ((exponents < _LEAST_EXPONENT) | (exponents > _MOST_EXPONENT)).any():
            raise ValueError("a scale of an int8 block is not finite and above 0")
        values = np.where(codes == _NO_NUMBER, np.float32(np.nan), codes.astype(np.float32))
        return torch.from_numpy(np.ldexp(values, np.repeat(exponents.astype(np.int32), self.block)[:size])).reshape(
            shape
        )

    def _units(self, values: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """v / 2^k [blocks, block], and k [blocks]; NaN in blocks that are not finite."""
        flat = values.detach().cpu().to(torch.float32).numpy().reshape(-1)
        blocks = np.zeros((self._blocks(flat.size), self.block), np.float32)
        blocks.reshape(-1)[: flat.size] = flat
        largest = np.abs(blocks).max(1)
        finite = np.isfinite(largest)
        fraction, power = np.frexp(
            np.where(finite, largest, 0)
        )  # largest = fraction 2^power, fraction from .5 to below 1
        exponents = np.clip(power - 7 + (fraction > _MOST / 128), _LEAST_EXPONENT, _MOST_EXPONENT)
        blocks[~finite] = np.nan
        return np.ldexp(blocks, -exponents[:, None]), exponents

    def _packed(self, codes: np.ndarray, exponents: np.ndarray, size: int) -> np.ndarray:
        limited = np.nan_to_num(np.clip(codes, -_MOST, _MOST), nan=_NO_NUMBER).reshape(-1)[:size]
        return np.concatenate([exponents.astype(np.int8), limited.astype(np.int8)])

    def _blocks(self, size: int) -> int:
        return -(-size // self.block)


def make_codec(precision: str) -> Codec:
    """The codec of a precision."""
    match precision:
        case "float32":
            return FloatCodec(np.float32)
        case "float16":
            return FloatCodec(np.float16)
        case "int8":
            return Int8Codec()
        case other:
            raise AssertionError(f"settings let precision = {other!r} through")
