"""A row of parameters per client that the server keeps: displacements of the server correction, c_i of the released arithmetic.

At 10^5 clients of half a million parameters they are 200 GB, so they lie in one sparse file, read and written row by row at its
place: memory holds one row, disk only clients that were ever sampled. Positioned reads and writes, not a memory map: a page
fault for each 4 kB makes first writes many times slower (experiments/state_store.py measures both).

A client has one slot more than accepted rows that stay, as in client_app/state.py: a row is written to a slot that holds none
of those, so that a server which dies in a round, and goes on from a state before it, finds the rows of that state.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fedpeptao.errors import RunError

_MAGIC, _VERSION, _PAGE = b"fedpeptao rows\0\0", 2, 4096
_HEADER = struct.Struct("<16sqqqq")  # magic, version, clients, size, slots


class ClientRows(Protocol):
    """The port: two verbs."""

    def read(self, client: int, accepted: int) -> Tensor | None:
        """The row [R] written for a client in round `accepted`, its last accepted one; None if there is none."""

    def write(self, client: int, server_round: int, row: Tensor, accepted: int) -> None:
        """Keeps the row of a round that has not ended; that of round `accepted` stays."""


def kept_row(rows: ClientRows, client: int, accepted: int, since: int) -> Tensor | None:
    """The client's row [R]; None for a client that had no reply accepted after round `since`, when all rows began anew.

    Raises:
        RunError: a reply of the client was accepted, and its row is gone.
    """
    row = rows.read(client, accepted)
    if row is None and accepted > since:
        raise RunError(
            f"client {client}: its row of round {accepted} is not among the rows kept per client (client_rows.bin in the run "
            "folder was removed, or is another run's): going on without it would bias every later round. Start another run"
        )
    return row


class MemoryRows:
    """In memory, of any dtype: for tests and small problems."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[int, Tensor]] = {}

    def read(self, client: int, accepted: int) -> Tensor | None:
        """See ClientRows."""
        return self._rows.get(client, {}).get(accepted)

    def write(self, client: int, server_round: int, row: Tensor, accepted: int) -> None:
        """See ClientRows."""
        kept = {made: old for made, old in self._rows.get(client, {}).items() if made == accepted}
        self._rows[client] = {**kept, server_round: row.clone()}


class FileRows:
    """In one sparse file, float32.

    Args:
        path: the file; made if it is not there, gone on with if it is.
        clients: N; a client is a number below it.
        size: R.
        kept: accepted rows that stay, at least 1.

    Raises:
        RunError: the file is not one of these, or of other numbers, or the disk does not take it.
    """

    _file = -1  # none open

    def __init__(self, path: Path, clients: int, size: int, kept: int = 1) -> None:
        self.path, self.clients, self.size, self._kept = path, clients, size, kept
        self._slots = kept + 1
        self._tag = struct.Struct(f"<{self._slots}q")  # the round of each slot's row; 0 for none
        self._tags_at = _PAGE
        self._rows_at = _pages(self._tags_at + clients * self._tag.size)
        self._stride = _pages(4 * size)
        self._length = (
            self._rows_at + self._slots * clients * self._stride
        )  # apparent: a block is taken when it is written
        header = _HEADER.pack(_MAGIC, _VERSION, clients, size, self._slots)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if not os.fstat(self._file).st_size:
                os.ftruncate(self._file, self._length)
                _write_whole(self._file, header, 0)
        except OSError as error:
            raise self._refused(error) from error
        self._check(header)

    def read(self, client: int, accepted: int) -> Tensor | None:
        """See ClientRows."""
        tags = self._tags(client)
        if not accepted or accepted not in tags:
            return None
        row = torch.empty(self.size, dtype=torch.float32)
        _read_whole(self._file, row.numpy().data.cast("B"), self._place(client, tags.index(accepted)), self.path)
        return row

    def write(self, client: int, server_round: int, row: Tensor, accepted: int) -> None:
        """See ClientRows. ValueError for a row of another size or not finite, RunError if the disk is full."""
        values = row.detach().cpu().to(torch.float32).contiguous()
        if values.shape != (self.size,):
            raise ValueError(f"client {client}: a row of shape {tuple(values.shape)} is none of {self.size} parameters")
        if not math.isfinite(float(values.sum())) and not torch.isfinite(values).all():  # a sum is the cheaper question
            raise ValueError(f"client {client}: a row that is not finite")
        tags = [
            tag if tag <= accepted else 0 for tag in self._tags(client)
        ]  # later ones are of rounds that were gone back on
        stay = sorted((number for number, tag in enumerate(tags) if tag), key=tags.__getitem__)[-self._kept :]
        slot = next(number for number in range(self._slots) if number not in stay)
        place = self._tags_at + client * self._tag.size
        try:
            tags[slot] = 0
            _write_whole(self._file, self._tag.pack(*tags), place)  # no tag vouches for a row that is half written
            _write_whole(self._file, values.numpy().data.cast("B"), self._place(client, slot))
            tags[slot] = server_round
            _write_whole(self._file, self._tag.pack(*tags), place)
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Nothing can be read or written any more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()

    def _check(self, header: bytes) -> None:
        found = os.pread(self._file, _HEADER.size, 0)
        what = ""
        if found[:16] != _MAGIC or len(found) < _HEADER.size:
            what = "is not a file of client rows"
        elif found != header:
            _, version, clients, size, slots = _HEADER.unpack(found)
            what = f"holds rows of {size} parameters for {clients} clients ({slots} each, version {version})"
        elif os.fstat(self._file).st_size < self._length:
            what = "was cut short"
        if what:
            self.close()
            wanted = f"rows of {self.size} parameters for {self.clients} clients"
            raise RunError(f"{self.path} {what}; {wanted} are wanted: move it away, or start another run")

    def _refused(self, error: OSError) -> RunError:
        whole = self._length / 1e9
        return RunError(
            f"{self.path}: {error.strerror or error}. Rows of all {self.clients} clients take {whole:.1f} GB there: "
            "make room, or set runs-dir to a folder on another disk"
        )

    def _tags(self, client: int) -> tuple[int, ...]:
        if not 0 <= client < self.clients:
            raise ValueError(f"client {client} is none of 0 to {self.clients - 1}")
        size = self._tag.size
        return self._tag.unpack(os.pread(self._file, size, self._tags_at + client * size))

    def _place(self, client: int, slot: int) -> int:
        return self._rows_at + (self._slots * client + slot) * self._stride


def _pages(size: int) -> int:
    """Rounded up to whole pages."""
    return -(-size // _PAGE) * _PAGE


def _read_whole(file: int, into: memoryview, place: int, path: Path) -> None:
    done = 0
    while done < len(into):
        count = os.preadv(file, [into[done:]], place + done)
        if not count:
            raise RunError(f"{path} was cut short at {place + done} bytes")
        done += count


def _write_whole(file: int, content: bytes | memoryview, place: int) -> None:
    done = 0
    view = memoryview(content)
    while done < len(view):
        done += os.pwrite(file, view[done:], place + done)
