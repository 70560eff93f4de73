"""Hidden states that enter the lowest prompted layer, computed once per text and kept (section 6 of docs/ALGORITHMS.md).

Below that layer nothing depends on what is tuned, so a text's states there are the same in every step, epoch and round. Each
text's are computed alone, not in the batch it came in: whatever the order of work, the same bits.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, ClassVar, cast

import torch
from torch import Tensor

from models.backbone import Backbone

Ids = Sequence[int]
Key = tuple[bytes, bytes]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

logger = logging.getLogger("fedpeptao")


@dataclass(frozen=True)
class Place:
    """Where a spilled text's states lie in the file."""

    offset: int
    length: int


class StateCache:
    """Tensors [T, d] by text: in memory up to a bound, then in a file up to another, then not at all.

    The file has no name: it is gone with the process, however that ends. Once the disk did not take a text, the file grows no
    more: others need what room is left there.

    Args:
        dtype: of what is kept.
        memory_bytes: bound on the tensors in memory.
        disk_bytes: bound on the file.
    """

    _told: ClassVar[bool] = False  # one line in the log is enough of a process

    def __init__(self, dtype: torch.dtype, memory_bytes: int, disk_bytes: int) -> None:
        self.dtype, self.memory_bytes, self.disk_bytes = dtype, memory_bytes, disk_bytes
        self.in_memory = self.on_disk = 0  # bytes
        self._kept: dict[Key, Tensor | Place] = {}
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, width: int) -> Tensor | None:
        """[T, width] of the kept type on the CPU, or None."""
        found = self._kept.get(key)
        if not isinstance(found, Place):
            return found
        assert self._file is not None
        content = bytearray(found.length)
        if os.preadv(self._file.fileno(), [content], found.offset) < found.length:
            raise OSError("the file of hidden states was cut short")
        return torch.frombuffer(content, dtype=self.dtype).reshape(-1, width)

    def put(self, key: Key, states: Tensor) -> None:
        """Keeps [T, d], if there is room."""
        kept = states.detach().to("cpu", self.dtype).contiguous()
        size = kept.numel() * kept.element_size()
        if self.in_memory + size <= self.memory_bytes:
            self._kept[key] = kept
            self.in_memory += size
        elif self.on_disk + size <= self.disk_bytes:
            try:
                self._append(kept.flatten().view(torch.uint8).numpy().data)
            except OSError as error:
                self._give_up(error)
            else:
                self._kept[key] = Place(self.on_disk, size)
                self.on_disk += size

    def _append(self, content: memoryview) -> None:
        """All of it, behind what is kept: the system may take a part of a write, and says so by its length alone."""
        self._file = self._file or cast(BinaryIO, tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - kept open
        done = 0
        while done < len(content):
            taken = os.pwrite(self._file.fileno(), content[done:], self.on_disk + done)
            if not taken:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            done += taken

    def _give_up(self, error: OSError) -> None:
        """What is kept stays; what was written of another text gives its room back."""
        self.disk_bytes = self.on_disk
        if self._file is not None:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), self.on_disk)
        if not StateCache._told:
            StateCache._told = True
            why = error.strerror or error
            logger.warning("no room for hidden states in %s (%s): what is not kept is computed again", _place(), why)


class LowerLayers:
    """The layers below `layer` of a backbone, run once per text.

    Args:
        backbone: without dropout, or in evaluation mode whenever this is used.
        layer: the lowest that is tuned, above 0.
        shift: of the positions below it, as in a forward pass.
        cache: whose states are those of this backbone, layer and shift.
    """

    def __init__(self, backbone: Backbone, layer: int, shift: int, cache: StateCache) -> None:
        if not 0 < layer < backbone.num_layers:
            raise ValueError(f"layer {layer} has no layers below it, or is none of {backbone.num_layers}")
        self.backbone, self.layer, self.shift, self.cache = backbone, layer, shift, cache

    def states(self, texts: Sequence[Ids], types: Sequence[Ids] | None) -> Tensor:
        """What enters the layer, [B, longest, d] in the backbone's type and on its device; 0 behind each text.

        Args:
            texts: token ids of each, not padded.
            types: their token types, where the model has them.
        """
        rows = [self._one(ids, None if types is None else types[row]) for row, ids in enumerate(texts)]
        device, dtype = self.backbone.device, self.backbone.model.dtype
        batch = torch.zeros(len(rows), max(map(len, rows)), rows[0].shape[1], dtype=dtype)
        for place, row in zip(batch, rows, strict=True):
            place[: len(row)] = row
        return batch.to(device)

    def _one(self, ids: Ids, types: Ids | None) -> Tensor:
        key = _key(ids, types)
        kept = self.cache.get(key, self.backbone.hidden_size)
        if kept is None:
            inputs = {"input_ids": torch.tensor([list(ids)])}
            if types is not None:
                inputs["token_type_ids"] = torch.tensor([list(types)])
            kept = self.backbone.states_entering(self.layer, inputs, self.shift)[0]
            kept = kept.to("cpu", self.cache.dtype)  # also where there is no room: the same bits, kept or not
            self.cache.put(key, kept)
        return kept


def _place() -> str:
    """The folder of temporary files; the system's words where there is none."""
    try:
        return tempfile.gettempdir()
    except OSError:
        return "a temporary file"


def _key(ids: Ids, types: Ids | None) -> Key:
    return array("i", ids).tobytes(), b"" if types is None else array("i", types).tobytes()
