"""Rows of parameters to Flower's array records and back.

What arrives is compared with what was agreed on before it is read: names, type, shape and number of bytes. So a message
can ask for no more memory than it brings, and nothing in it is ever executed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from federation.channels import Channel
from federation.codec import FloatCodec, Shape
from federation.messages import MessageError
from federation.squeezing import most_squeezed, squeeze, unsqueeze

_HEADER_LIMIT = 512  # numpy's own take 128 bytes
_VECTOR = FloatCodec(np.float32)


def write_row(row: Tensor, channel: Channel) -> ArrayRecord:
    """A row [R], an array a name; exact for what the channel's `as_sent` gave."""
    parts = channel.layout.unflatten(row)
    arrays = {name: channel.codec.encode(part) for name, part in parts.items()}
    squeezed = channel.codec.squeezed
    return ArrayRecord({name: Array(squeeze(array) if squeezed else array) for name, array in arrays.items()})


def read_row(arrays: Mapping[str, Array], record: str, channel: Channel) -> Tensor:
    """The row [R] float32; record: its name, for messages.

    Raises:
        MessageError: other names, types, shapes or sizes than agreed on, or numbers that are not finite.
    """
    layout = channel.layout
    if set(arrays) != set(layout.names):
        odd = sorted(set(arrays) ^ set(layout.names))
        raise MessageError(f"the names in {record!r} are not those agreed on: {', '.join(odd[:4])}")
    parts = {}
    for entry in layout.entries:
        try:
            dtype, shape = channel.codec.form(entry.shape)
            find = _unsqueezed if channel.codec.squeezed else _checked
            found = find(arrays[entry.name], dtype, shape)
            parts[entry.name] = channel.codec.decode(found, entry.shape)
        except ValueError as error:
            raise MessageError(f"{entry.name} in {record!r}: {error}") from error
        if not math.isfinite(float(parts[entry.name].sum(dtype=torch.float64))):  # a quarter of torch.isfinite's time
            raise MessageError(f"{entry.name} in {record!r} holds numbers that are not finite")
    return layout.flatten(parts)


def write_vector(values: Tensor) -> ArrayRecord:
    """A few numbers, float32 whatever the precision."""
    return ArrayRecord({"values": Array(values.detach().cpu().to(torch.float32).numpy())})


def read_vector(arrays: Mapping[str, Array] | None, record: str, size: int) -> Tensor:
    """So many finite float32 numbers of at least 0; MessageError if they are not that."""
    if arrays is None or set(arrays) != {"values"}:
        raise MessageError(f"{record!r} does not hold one vector")
    wrong = f"{record!r} is not {size} finite float32 numbers of at least 0"
    try:
        values = _VECTOR.decode(_checked(arrays["values"], *_VECTOR.form((size,))), (size,))
    except ValueError as error:
        raise MessageError(f"{wrong}: {error}") from error
    if not (values.isfinite() & (values >= 0)).all():
        raise MessageError(wrong)
    return values


def _checked(array: Array, dtype: np.dtype, shape: Shape) -> np.ndarray:
    """The array, read-only, if its header and its length are as agreed on; ValueError if not."""
    found_dtype, found_shape, start = _header(array.data)
    if found_dtype != dtype:
        raise ValueError(f"an array of {found_dtype} arrived where {dtype} was agreed on (setting precision)")
    if found_shape != shape:
        raise ValueError(f"it has shape {found_shape}, not {shape}")
    if len(array.data) - start != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{len(array.data) - start} bytes are not {math.prod(shape)} numbers of {dtype}")
    return np.frombuffer(array.data, dtype, offset=start).reshape(shape)


def _unsqueezed(array: Array, dtype: np.dtype, shape: Shape) -> np.ndarray:
    """The same of an array whose bytes are coded."""
    _, coded_shape, start = _header(array.data)
    most = most_squeezed(dtype.itemsize * math.prod(shape))
    if len(coded_shape) == 1 and coded_shape[0] > most:
        raise ValueError(f"{coded_shape[0]} bytes of code are more than {math.prod(shape)} numbers of {dtype} have")
    coded = _checked(array, np.dtype(np.uint8), (len(array.data) - start,))
    return unsqueeze(coded, dtype, shape)


def _header(data: bytes) -> tuple[np.dtype, Shape, int]:
    """Type, shape, and where the numbers begin, of an array in numpy's file format (version 1.0, in C order)."""
    file = io.BytesIO(data[:_HEADER_LIMIT])
    try:
        if (version := np.lib.format.read_magic(file)) != (1, 0):
            raise ValueError(f"version {version}")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_HEADER_LIMIT)
    except Exception as error:  # numpy parses a literal there, which can fail in many ways
        raise ValueError(f"it is no array that can be read ({type(error).__name__}: {error})") from error
    if fortran_order:
        raise ValueError("it is not in C order")
    return dtype, shape, file.tell()
