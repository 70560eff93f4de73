"""Messages gone wrong on purpose: what a broken sender, a careless one or an enemy may make of a real one.

Each mutation changes a message's records in place; all that is random comes from the generator that it is given.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

Mutation = Callable[[RecordDict, np.random.Generator], None]
HUGE = 2**62
NUMBERS: tuple[Any, ...] = (0, -1, 1, 2**31, HUGE, -HUGE, 0.5, float("nan"), float("inf"), float("-inf"), -1e300)
LISTS: tuple[Any, ...] = ([], [0], [-1, HUGE], [0.5], ["a"], ["a"] * 40000, list(range(40000)), [True], [b"\x00"])
TEXTS: tuple[Any, ...] = (
    "",
    "..",
    "a/b",
    "\x00",
    "a" * 100000,
    "refused: ",
    "__import__('os')",
    b"",
    b"\x80\x04",
    True,
)
VALUES = (*NUMBERS, *LISTS, *TEXTS)
DTYPES = ("<f8", ">f4", "<f2", "|O", "|i1", "<i8", "|b1", "<U9", "|V8", "<M8[ns]", "<c8", "(3,)<f4", "nonsense", "<f4")
SHAPES = (
    *((), (0,), (0, 1 << 60), (1 << 40,), (1 << 62, 4), (-1,), (-3, -4), (2**70,), (1,) * 40, (3, 2), (True, 6)),
    *(("6",), (6.0,), (1, 12), (12,)),
)


def npy(header: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    """A file in numpy's format with any header."""
    text = header.encode("latin1", "replace")
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version[0] == 1 else 4, "little") + text + data


def mutate(content: RecordDict, rng: np.random.Generator, count: int) -> list[str]:
    """So many mutations, one upon the other; their names."""
    names = []
    for _ in range(count):
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        names.append(mutation.__name__)
        mutation(content, rng)
    return names


def flip_bits(content: RecordDict, rng: np.random.Generator) -> None:
    """A few bits of an array's bytes, header or numbers."""
    record, name = _an_array(content, rng)
    if record is not None and record[name].data:
        data = bytearray(record[name].data)
        for place in rng.integers(len(data), size=int(rng.integers(1, 5))):
            data[int(place)] ^= 1 << int(rng.integers(8))
        _put(record, name, bytes(data))


def change_length(content: RecordDict, rng: np.random.Generator) -> None:
    """Cut short, made longer, or empty."""
    record, name = _an_array(content, rng)
    if record is not None:
        data = record[name].data
        cut = data[: int(rng.integers(len(data) + 1))]
        _put(record, name, [cut, data + bytes(int(rng.integers(1, 100000))), b""][int(rng.integers(3))])


def lie_in_header(content: RecordDict, rng: np.random.Generator) -> None:
    """Another type, shape or order than the bytes that follow; of another version, or no header at all."""
    record, name = _an_array(content, rng)
    if record is not None:
        dtype, shape = _one(DTYPES, rng), _one(SHAPES, rng)
        header = f"{{'descr': {dtype!r}, 'fortran_order': {bool(rng.integers(2))}, 'shape': {shape!r}, }}\n"
        odd = ("(" * 400, "[" * 60 + "]" * 60, "{}", "1" * 5000, "{'descr': '<f4'}", "lambda: 0", "\xff" * 80)
        header = str(_one(odd, rng)) if rng.random() < 0.3 else header
        version = bytes(_one((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"), rng))
        _put(record, name, npy(header, bytes(int(rng.integers(200))), version))


def other_array(content: RecordDict, rng: np.random.Generator) -> None:
    """A real array of another type or shape, with pickled objects in it, or with numbers that are not finite."""
    record, name = _an_array(content, rng)
    if record is not None:
        size = int(rng.integers(30))
        kinds = ("<f4", ">f4", "<f8", "<f2", "|i1", "|b1", "<U3")
        made = np.zeros((size, int(rng.integers(3))), str(_one(kinds, rng)))
        if rng.random() < 0.3:
            made = np.full((2, 3), float(_one((np.nan, np.inf, -np.inf, 3e38), rng)), np.float32)
        file = io.BytesIO()
        pickled = np.array([{"a": 1}, None], dtype=object)
        np.save(file, pickled if rng.random() < 0.2 else np.asfortranarray(made), allow_pickle=True)
        _put(record, name, file.getvalue())


def lie_beside_array(content: RecordDict, rng: np.random.Generator) -> None:
    """Type, shape and kind of serialisation that the record says."""
    record, name = _an_array(content, rng)
    if record is not None:
        old = record[name]
        shape = tuple(int(size) for size in rng.integers(-5, 2**31, size=int(rng.integers(5))))
        stype = str(_one((old.stype, "", "pickle", "torch.tensor", "x" * 1000), rng))
        record[name] = Array(str(_one(DTYPES, rng)), shape, stype, old.data)


def move_array(content: RecordDict, rng: np.random.Generator) -> None:
    """An array dropped, under another name, or there twice."""
    record, name = _an_array(content, rng)
    if record is not None:
        array, kind = record[name], int(rng.integers(3))
        if kind < 2:
            del record[name]
        if kind:
            record[str(_one((name + "x", "", "prompt.0", "head", "a" * 5000), rng))] = array


def move_record(content: RecordDict, rng: np.random.Generator) -> None:
    """A record dropped, under another name, or there twice."""
    if content:
        name = str(_one(sorted(content), rng))
        record, kind = content[name], int(rng.integers(3))
        if kind < 2:
            del content[name]
        if kind:
            others = ("client.77", "client.-1", "client.", "client.1.2", "update.3", "evaluation.9", "control", "x", "")
            content[str(_one(others, rng))] = record


def other_record(content: RecordDict, rng: np.random.Generator) -> None:
    """A record of another kind in a record's place."""
    if content:
        kinds = (ConfigRecord(), ArrayRecord(), MetricRecord(), MetricRecord({"schema": 2}), ConfigRecord({"a": [1]}))
        content[str(_one(sorted(content), rng))] = kinds[int(rng.integers(len(kinds)))]


def other_value(content: RecordDict, rng: np.random.Generator) -> None:
    """A value of another size or type, one too many, or one too few."""
    names = sorted(content.config_records)
    if names:
        record = content.config_records[str(_one(names, rng))]
        keys = sorted(record)
        kind = rng.random()
        if kind < 0.1 and keys:
            del record[str(_one(keys, rng))]
        elif kind < 0.2 or not keys:
            record["something else"] = VALUES[int(rng.integers(len(VALUES)))]
        else:
            record[str(_one(keys, rng))] = VALUES[int(rng.integers(len(VALUES)))]


def nudge_value(content: RecordDict, rng: np.random.Generator) -> None:
    """A number next to the right one, or one too many in a list: what only an agreement can tell."""
    names = sorted(content.config_records)
    if names:
        record = content.config_records[str(_one(names, rng))]
        for key in [str(_one(sorted(record), rng))] if record else []:
            value = record[key]
            if type(value) in (int, float):
                record[key] = type(value)(value + int(rng.choice([-1, 1])))  # type: ignore[call-overload, operator]
            elif isinstance(value, list) and value:
                record[key] = [*value, value[int(rng.integers(len(value)))]]  # type: ignore[list-item]


MUTATIONS: tuple[Any, ...] = (
    *(flip_bits, change_length, lie_in_header, other_array, lie_beside_array, move_array),
    *(move_record, other_record, other_value, other_value, nudge_value),
)


def _one(options: Any, rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


def _an_array(content: RecordDict, rng: np.random.Generator) -> tuple[ArrayRecord | None, str]:
    """A record and the name of an array in it; None where there is none."""
    found = [(record, name) for record in content.array_records.values() for name in record]
    return _one(found, rng) if found else (None, "")


def _put(record: ArrayRecord, name: str, data: bytes) -> None:
    old = record[name]
    record[name] = Array(old.dtype, old.shape, old.stype, data)
