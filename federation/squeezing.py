"""A Huffman code over the bytes of an array: int8 numbers of prompts take some 7 % less (docs/COSTS.md).

What comes out never takes more room than was agreed on, whatever arrives. The code is zlib's, without its search for
repetitions, of which there are none.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

_RAW = -zlib.MAX_WBITS  # deflate without header and checksum: Flower's transport has its own


def squeeze(array: np.ndarray) -> np.ndarray:
    """The array's bytes, coded: uint8 [n]."""
    coder = zlib.compressobj(9, zlib.DEFLATED, _RAW, zlib.DEF_MEM_LEVEL, zlib.Z_HUFFMAN_ONLY)
    return np.frombuffer(coder.compress(array.tobytes()) + coder.flush(), np.uint8)


def most_squeezed(size: int) -> int:
    """Bytes that so many can come to: a little more where there is nothing to gain."""
    return size + size // 1000 + 64


def unsqueeze(coded: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Inverse of `squeeze`, read-only; ValueError if it is not an array of this type and shape, and nothing behind it."""
    size = dtype.itemsize * math.prod(shape)
    decoder = zlib.decompressobj(_RAW)
    try:
        content = decoder.decompress(coded.tobytes(), size + 1)
    except zlib.error as error:
        raise ValueError(f"its code cannot be read ({error})") from error
    if len(content) != size or not decoder.eof or decoder.unused_data:
        raise ValueError(f"its code is not that of {math.prod(shape)} numbers of {dtype}")
    return np.frombuffer(content, dtype).reshape(shape)
