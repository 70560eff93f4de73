"""How large a message may be: everything counts, nothing is read, and what was agreed on always fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from federation.limits import check_size, most_bytes, size_of
from federation.messages import MessageError
from models.layout import Entry, Layout

LAYOUT = Layout(tuple(Entry(f"prompt.{layer}", layer, (2, 4, 20, 64)) for layer in range(12)))


def test_everything_in_a_message_counts() -> None:
    """Arrays, their names and what is said of them, numbers and texts, names of records."""
    empty = size_of(RecordDict())
    many = 5000
    array = Array("float32", (1,), "numpy.ndarray", b"x")
    larger = [
        ArrayRecord({"a": Array("float32", (1,), "numpy.ndarray", bytes(many))}),
        ArrayRecord({"a" * many: array}),
        ArrayRecord({"a": Array("f" * many, (1,), "numpy.ndarray", b"x")}),
        ArrayRecord({"a": Array("float32", (1,), "n" * many, b"x")}),
        ArrayRecord({"a": Array("float32", (1,) * many, "numpy.ndarray", b"x")}),
        ConfigRecord({"a": "t" * many}),
        ConfigRecord({"a": list(range(many))}),
        MetricRecord({"a": [1.0] * many}),
    ]
    for record in larger:
        assert size_of(RecordDict({"r": record})) > empty + many
    assert size_of(RecordDict({"r" * many: ConfigRecord()})) >= many


def test_at_the_limit_and_above_it() -> None:
    content = RecordDict({"r": ConfigRecord({"a": "text"})})
    check_size(content, size_of(content))
    with pytest.raises(MessageError, match=r"message of \d+ bytes, at most \d+ .*message-limit-mb"):
        check_size(content, size_of(content) - 1)


def test_no_array_is_read() -> None:
    lie = Array("float32", (2**60,), "numpy.ndarray", b"not an array")
    assert size_of(RecordDict({"r": ArrayRecord({"a": lie})})) < 100


@pytest.mark.parametrize("clients", [1, 40])
def test_the_derived_limit_holds_what_was_agreed_on_and_not_much_more(clients: int) -> None:
    row = ArrayRecord({name: Array(v.numpy()) for name, v in LAYOUT.unflatten(torch.ones(LAYOUT.size)).items()})
    content = RecordDict({f"update.{client}": row for client in range(clients)})
    content["clients"] = ConfigRecord({"ids": list(range(clients))})
    most = most_bytes(0, clients, LAYOUT, clients)
    check_size(content, most)
    assert most < 2 * size_of(content) + 2**20 + clients * 2**16
    content["update.more"] = ArrayRecord({"a": Array(np.zeros(most, np.int8))})
    with pytest.raises(MessageError):
        check_size(content, most)


def test_a_given_limit_is_the_limit() -> None:
    assert most_bytes(3, 100, LAYOUT, 100, 7) == 3 * 2**20
    assert (
        most_bytes(0, 1, LAYOUT, 2, 3) > most_bytes(0, 1, LAYOUT, 1, 3) > most_bytes(0, 1, LAYOUT, 1) > 4 * LAYOUT.size
    )
