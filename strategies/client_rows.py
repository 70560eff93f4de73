"""A row of parameters per client that the server keeps: displacements of the server correction, c_i of the released arithmetic.

At 10^5 clients of half a million parameters they are 200 GB for each row that a client has, so they lie in one sparse file, read
and written row by row at its place: memory holds one row, disk only clients that were ever sampled. Positioned reads and writes,
not a memory map: a page fault for each 4 kB makes first writes many times slower (experiments/state_store.py measures both).

A client has one slot more than accepted rows that stay, as in client_app/state.py: a row is written to a slot that holds none
of those, so that a server which dies in a round, and goes on from a state before it, finds the rows of that state. As many stay
as `checkpoints`: by default a client that was sampled three times has three rows, 600 GB for all of those above. A file that
was made for more rows serves with its own slots; one that was made for fewer is written anew, beside the old one, when it is
gone on with.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from federation.durable import sync_folder
from fedpeptao.errors import RunError

_MAGIC, _VERSION, _PAGE = b"fedpeptao rows\0\0", 2, 4096
_HEADER = struct.Struct("<16sqqqq")  # magic, version, clients, size, slots
_NEW = ".new"  # beside the file, until it takes its place


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


@dataclass(frozen=True)
class _Form:
    """Where what lies in a file: a header's page, the tags of all clients, then their rows from whole pages on."""

    clients: int
    size: int
    slots: int

    @property
    def header(self) -> bytes:
        return _HEADER.pack(_MAGIC, _VERSION, self.clients, self.size, self.slots)

    @property
    def tag(self) -> struct.Struct:
        """The round of each slot's row; 0 for none."""
        return struct.Struct(f"<{self.slots}q")

    @property
    def length(self) -> int:
        """Apparent: a block is taken when it is written."""
        return self.place(self.clients, 0)

    def tags_at(self, client: int) -> int:
        return _PAGE + 8 * self.slots * client

    def place(self, client: int, slot: int) -> int:
        return _pages(self.tags_at(self.clients)) + (self.slots * client + slot) * _pages(4 * self.size)

    def with_slots(self, slots: int) -> _Form:
        return _Form(self.clients, self.size, slots)


class FileRows:
    """In one sparse file, float32.

    Args:
        path: the file; made if it is not there, gone on with if it is.
        clients: N; a client is a number below it.
        size: R.
        kept: accepted rows that stay, at least 1; may be another number than that of the process before.

    Raises:
        RunError: the file is not one of these, or of other numbers, or the disk does not take it.
    """

    _file = -1  # none open

    def __init__(self, path: Path, clients: int, size: int, kept: int = 1) -> None:
        self.path, self.clients, self.size, self._kept = path, clients, size, kept
        self._form = _Form(clients, size, kept + 1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if not os.fstat(self._file).st_size:
                _begin(self._file, self._form)
            slots = self._slots_of_file()
            if slots < self._form.slots:
                self._grow(self._form.with_slots(slots))
            else:
                self._form = self._form.with_slots(slots)
        except OSError as error:
            raise self._refused(error) from error

    def read(self, client: int, accepted: int) -> Tensor | None:
        """See ClientRows."""
        tags = self._tags(client)
        if not accepted or accepted not in tags:
            return None
        row = torch.empty(self.size, dtype=torch.float32)
        _read_whole(self._file, row.numpy().data.cast("B"), self._form.place(client, tags.index(accepted)), self.path)
        return row

    def write(self, client: int, server_round: int, row: Tensor, accepted: int) -> None:
        """See ClientRows. ValueError for a row of another size or not finite, RunError if the disk is full."""
        values = row.detach().cpu().to(torch.float32).contiguous()
        if values.shape != (self.size,):
            raise ValueError(f"client {client}: a row of shape {tuple(values.shape)} is none of {self.size} parameters")
        if not math.isfinite(float(values.sum())) and not torch.isfinite(values).all():  # a sum is the cheaper question
            raise ValueError(f"client {client}: a row that is not finite")
        # tags above what was accepted are of rounds that did not end, or were gone back on
        tags = [tag if tag <= accepted else 0 for tag in self._tags(client)]
        stay = sorted((number for number, tag in enumerate(tags) if tag), key=tags.__getitem__)[-self._kept :]
        slot = next(number for number in range(self._form.slots) if number not in stay)
        place, tag = self._form.tags_at(client), self._form.tag
        try:
            tags[slot] = 0
            _write_whole(self._file, tag.pack(*tags), place)  # no tag vouches for a row that is half written
            _write_whole(self._file, values.numpy().data.cast("B"), self._form.place(client, slot))
            tags[slot] = server_round
            _write_whole(self._file, tag.pack(*tags), place)
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Nothing can be read or written any more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()

    def _slots_of_file(self) -> int:
        """A client's, of a file that is whole and of these numbers; RunError where it is not."""
        found = os.pread(self._file, _HEADER.size, 0)
        what, slots = "", 0
        if found[:16] != _MAGIC or len(found) < _HEADER.size:
            what = "is not a file of client rows"
        else:
            _, version, clients, size, slots = _HEADER.unpack(found)
            if found != self._form.with_slots(slots).header or slots < 2:
                what = f"holds rows of {size} parameters for {clients} clients ({slots} each, version {version})"
            elif os.fstat(self._file).st_size < self._form.with_slots(slots).length:
                what = "was cut short"
        if what:
            self.close()
            wanted = f"rows of {self.size} parameters for {self.clients} clients"
            raise RunError(f"{self.path} {what}; {wanted} are wanted: move it away, or start another run")
        return int(slots)

    def _grow(self, old: _Form) -> None:
        """A file with more slots, and all rows of the old one, in its place; whatever happens, one of the two is there whole."""
        beside = self.path.with_name(self.path.name + _NEW)
        file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _begin(file, self._form)
            self._copy(old, file)
            os.fsync(file)
            os.replace(beside, self.path)
        except BaseException:
            os.close(file)
            beside.unlink(missing_ok=True)
            raise
        self._file, before = file, self._file
        os.close(before)
        sync_folder(self.path.parent)

    def _copy(self, old: _Form, to: int) -> None:
        """Every row that has a tag, to the slot of the same number."""
        row = memoryview(bytearray(4 * self.size))
        for client in range(self.clients):
            tags = old.tag.unpack(os.pread(self._file, old.tag.size, old.tags_at(client)))
            if not any(tags):
                continue
            for slot, tag in enumerate(tags):
                if tag:
                    _read_whole(self._file, row, old.place(client, slot), self.path)
                    _write_whole(to, row, self._form.place(client, slot))
            more = (0,) * (self._form.slots - old.slots)
            _write_whole(to, self._form.tag.pack(*tags, *more), self._form.tags_at(client))

    def _refused(self, error: OSError) -> RunError:
        whole = self._form.length / 1e9
        return RunError(
            f"{self.path}: {error.strerror or error}. Rows of all {self.clients} clients take {whole:.1f} GB there: "
            "make room, or set runs-dir to a folder on another disk"
        )

    def _tags(self, client: int) -> tuple[int, ...]:
        if not 0 <= client < self.clients:
            raise ValueError(f"client {client} is none of 0 to {self.clients - 1}")
        tag = self._form.tag
        return tag.unpack(os.pread(self._file, tag.size, self._form.tags_at(client)))


def _begin(file: int, form: _Form) -> None:
    """An empty file of a form."""
    os.ftruncate(file, form.length)
    _write_whole(file, form.header, 0)


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
