"""How large a message may be. What is larger is refused before any array in it is read."""

from __future__ import annotations

from flwr.app import RecordDict
from flwr.common.serde import config_record_to_proto, metric_record_to_proto

from federation.messages import MessageError
from models.layout import Layout

_MB = 2**20
_PER_CLIENT = 2**16  # numbers, texts and the reason of a fault
_PER_ARRAY = 2**10  # its name and header
_PER_COUNT = 20  # of two confusion matrices


def most_bytes(limit_mb: int, clients: int, layout: Layout | None = None, rows: int = 0, classes: int = 0) -> int:
    """The bound on a message's bytes.

    Args:
        limit_mb: the setting `message-limit-mb`; 0: what the agreed layout needs at 4 bytes a number, and room for the rest.
        clients: that it is for, or from.
        layout: of its rows.
        rows: vectors over the layout that it may hold in all.
        classes: of the run.
    """
    if limit_mb:
        return limit_mb * _MB
    row = 0 if layout is None else 4 * layout.size + _PER_ARRAY * len(layout.entries)
    return _MB + rows * row + clients * (_PER_CLIENT + _PER_COUNT * classes**2)


def check_size(content: RecordDict, most: int) -> None:
    """MessageError if the content has more bytes than that."""
    size = size_of(content)
    if size > most:
        raise MessageError(f"a message of {size:,} bytes, at most {most:,} were agreed on (setting message-limit-mb)")


def size_of(content: RecordDict) -> int:
    """Bytes of all that a message holds, its names included; without reading an array."""
    arrays = [item for record in content.array_records.values() for item in record.items()]
    plain = [config_record_to_proto(record).ByteSize() for record in content.config_records.values()]
    plain += [metric_record_to_proto(record).ByteSize() for record in content.metric_records.values()]
    data = sum(len(a.data) + len(a.dtype) + len(a.stype) + 8 * len(a.shape) + len(name) for name, a in arrays)
    return data + sum(plain) + sum(map(len, content))
