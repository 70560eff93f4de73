"""The Huffman code over arrays that travel."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.squeezing import most_squeezed, squeeze, unsqueeze

INT8 = np.dtype(np.int8)


@given(st.binary(max_size=2000))
def test_there_and_back(content: bytes) -> None:
    array = np.frombuffer(content, np.int8)
    coded = squeeze(array)
    assert coded.dtype == np.uint8
    assert len(coded) <= most_squeezed(len(content))
    assert np.array_equal(unsqueeze(coded, INT8, (len(content),)), array)


def test_noise_takes_little_more_and_a_bell_takes_less() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(-128, 128, 10**5).astype(np.int8)
    assert len(noise) <= len(squeeze(noise)) <= most_squeezed(len(noise))
    bell = np.clip(np.rint(rng.normal(0, 30, 10**5)), -127, 127).astype(np.int8)
    entropy = np.log2(30 * np.sqrt(2 * np.pi * np.e))  # bits, of a rounded normal
    assert entropy / 8 <= len(squeeze(bell)) / len(bell) <= entropy / 8 + 0.01


def test_a_bomb_gives_no_more_than_was_agreed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kilobyte that stands for a megabyte: the decoder is never asked for more than one byte too many."""
    bomb = np.frombuffer(zlib.compress(bytes(2**20), 9, -15), np.uint8)
    assert len(bomb) < 2**11
    asked: list[int] = []
    make = zlib.decompressobj

    class Watched:
        def __init__(self, *given: int) -> None:
            self.inner = make(*given)

        def decompress(self, data: bytes, most: int) -> bytes:
            asked.append(most)
            return self.inner.decompress(data, most)

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    monkeypatch.setattr("federation.squeezing.zlib.decompressobj", Watched)
    with pytest.raises(ValueError, match="not that of 100 numbers"):
        unsqueeze(bomb, INT8, (100,))
    assert asked == [101]
