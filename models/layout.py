"""The order of named tensors in one flat row of parameters.

Everything that is trained, sent or stored is a row (or a stack [C, R] of rows), so that optimisers and the
server's equations are written once, on plain tensors, and know nothing of layers or heads.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, cat


@dataclass(frozen=True)
class Entry:
    """One named tensor of a row.

    Attributes:
        name: its own.
        layer: None for what belongs to no layer, such as the head.
        shape: without clients.
        parts: equal parts along the first axis, each a block of the shared second moments: key and value of a prompt.
    """

    name: str
    layer: int | None
    shape: tuple[int, ...]
    parts: int = 1

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Entries of a row, in order."""

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.entries):
            raise ValueError(f"names occur twice in a layout: {self.names}")

    @property
    def size(self) -> int:
        """Length R of a row."""
        return sum(entry.size for entry in self.entries)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in row order."""
        return tuple(entry.name for entry in self.entries)

    @property
    def slices(self) -> dict[str, slice]:
        """Where each entry lies in a row."""
        found, start = {}, 0
        for entry in self.entries:
            found[entry.name] = slice(start, start + entry.size)
            start += entry.size
        return found

    @property
    def blocks(self) -> tuple[slice, ...]:
        """Blocks of the shared second moments (section 2.4 of docs/ALGORITHMS.md), in row order, covering the row."""
        found, slices = [], self.slices
        for entry in self.entries:
            start, size = slices[entry.name].start, entry.size // entry.parts
            found += [slice(start + part * size, start + (part + 1) * size) for part in range(entry.parts)]
        return tuple(found)

    def select(self, names: Collection[str]) -> Layout:
        """The layout of the named entries alone, in this layout's order; ValueError for a name that is not here."""
        self._known(names)
        return Layout(tuple(entry for entry in self.entries if entry.name in set(names)))

    def first(self, names: Collection[str]) -> Layout:
        """The same entries, the named ones first, each group in this layout's order."""
        self._known(names)
        chosen = set(names)
        return Layout(tuple(sorted(self.entries, key=lambda entry: entry.name not in chosen)))

    def unflatten(self, rows: Tensor) -> dict[str, Tensor]:
        """Views [..., *shape] of rows [..., R] by name; autograd flows back into rows."""
        if rows.shape[-1] != self.size:
            raise ValueError(f"a row of {rows.shape[-1]} values does not fit a layout of {self.size}")
        slices = self.slices
        return {
            entry.name: rows[..., slices[entry.name]].reshape(*rows.shape[:-1], *entry.shape) for entry in self.entries
        }

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """One row [R] of the named tensors; ValueError names a tensor that is missing, unknown or of another shape."""
        if unknown := sorted(set(values) - set(self.names)):
            raise ValueError(f"not in the layout: {', '.join(unknown)}")
        parts = []
        for entry in self.entries:
            if entry.name not in values:
                raise ValueError(f"{entry.name} is missing, expected shape {entry.shape}")
            if (shape := tuple(values[entry.name].shape)) != entry.shape:
                raise ValueError(f"{entry.name} has shape {shape}, expected {entry.shape}")
            parts.append(values[entry.name].reshape(-1))
        return cat(parts)

    def _known(self, names: Collection[str]) -> None:
        if unknown := sorted(set(names) - set(self.names)):
            raise ValueError(f"not in the layout: {', '.join(unknown)}")
