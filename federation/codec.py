"""How a vector of parameters becomes an array that travels. Both ends go on with what the codec gives back."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Codec(Protocol):
    """One verb there, one back; `decode(encode(x))` is what both ends use."""

    def encode(self, values: Tensor) -> np.ndarray:
        """An array of any shape, as it travels."""

    def decode(self, array: np.ndarray) -> Tensor:
        """float32, of the array's shape."""


class FloatCodec:
    """IEEE floating point of a given width. float16 saturates at its largest number instead of turning infinite."""

    def __init__(self, dtype: type[np.floating]) -> None:
        self.dtype = np.dtype(dtype)

    def encode(self, values: Tensor) -> np.ndarray:
        """Rounds to nearest."""
        limit = np.finfo(self.dtype).max
        return np.clip(values.detach().cpu().to(torch.float32).numpy(), -limit, limit).astype(self.dtype)

    def decode(self, array: np.ndarray) -> Tensor:
        """Refuses an array of another type: a sender with another codec is a fault, not a guess."""
        if array.dtype != self.dtype:
            raise ValueError(f"an array of {array.dtype} arrived where {self.dtype} was agreed on (setting precision)")
        return torch.from_numpy(array.astype(np.float32))


def make_codec(precision: str) -> Codec:
    """The codec of the setting `precision`."""
    return FloatCodec(np.float16 if precision == "float16" else np.float32)


def rounded(codec: Codec, values: Tensor) -> Tensor:
    """What the other end will see of `values` (float32)."""
    return codec.decode(codec.encode(values))
