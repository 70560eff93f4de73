"""What travels as rows of parameters: x and c down, updates up. Each has a codec, and random numbers of its own to round with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from federation.codec import Codec, make_codec
from federation.randomness import generator
from federation.settings import Settings
from models.layout import Entry, Layout


@dataclass(frozen=True)
class Channel:
    """One of them.

    Attributes:
        codec: of its arrays.
        layout: the names that travel, in the order of a row.
        stream: the seed, and what the random numbers are for.
    """

    codec: Codec
    layout: Layout
    stream: tuple[int, str, str]

    def as_sent(self, row: Tensor, *number: int) -> Tensor:
        """What the other end will see of a row [R], float32. Both ends go on with that.

        number: the round it is of, and the client if each sends its own; the same number gives the same bits.
        """
        rng = generator(*self.stream, *number)
        return torch.cat([self.codec.rounded(row[place], rng) for place in self.layout.slices.values()])

    def bytes_of(self, entry: Entry) -> int:
        """Of its array, without the framing of numpy's file format, and before it is squeezed."""
        dtype, shape = self.codec.form(entry.shape)
        return dtype.itemsize * math.prod(shape)


@dataclass(frozen=True)
class Channels:
    """All of a run, over one layout: x, c and Delta_i."""

    model: Channel
    control: Channel
    update: Channel

    @property
    def layout(self) -> Layout:
        """The names that travel."""
        return self.model.layout


def make_channels(settings: Settings, layout: Layout) -> Channels:
    """As the settings `precision` and `model-`, `control-` and `update-precision` say."""

    def channel(what: str) -> Channel:
        codec = make_codec(settings.server.precision_of(what))
        return Channel(codec, layout, (settings.federation.seed, "rounding", what))

    return Channels(channel("model"), channel("control"), channel("update"))
