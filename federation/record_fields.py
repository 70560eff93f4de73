"""Reading a message's records, key by key: what is missing, of another type, or not asked for is a MessageError."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from federation.messages import SCHEMA, MessageError


def client_records(content: RecordDict) -> list[str]:
    """The names of the records that answer for a client."""
    return [name for name in content.config_records if name.startswith("client.")]


def read_reply(kind: type, content: RecordDict, name: str) -> Any:
    """A client's record, which goes by that client's number."""
    reply = from_record(kind, content.config_records[name])
    if name != f"client.{reply.client}":
        raise MessageError(f"record {name!r} is of client {reply.client}")
    return reply


def only(content: RecordDict, known: Collection[str]) -> None:
    """Nothing travels along that nobody asked for."""
    if strange := sorted(set(content) - set(known)):
        raise MessageError(f"there are records that nobody asked for: {', '.join(strange[:4])}")


def config(content: RecordDict, name: str) -> ConfigRecord:
    """A record that has to be there."""
    if name not in content.config_records:
        raise MessageError(f"there is no record {name!r}")
    return content.config_records[name]


def check_schema(record: ConfigRecord) -> None:
    """Both ends speak one schema."""
    found: int = get(record, "schema", int)
    if found != SCHEMA:
        raise MessageError(f"message schema {found}, this end speaks {SCHEMA}: run one version on both ends")


def get(record: Mapping[str, Any], key: str, kind: type) -> Any:
    """A value of exactly this type: a flag is no number."""
    value = record.get(key)
    if type(value) is not kind:
        raise MessageError(f"{key} = {reprlib.repr(value)} is not of type {kind.__name__}")
    return value


def get_list(record: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    """A list of values of exactly this type."""
    values = record.get(key)
    if not isinstance(values, list) or any(type(v) is not kind for v in values):
        raise MessageError(f"{key} = {reprlib.repr(values)} is not a list of {kind.__name__}")
    return values


_KINDS = {"int": int, "float": float, "str": str, "bool": bool, "list[str]": str, "list[float]": float}


def from_record(kind: type, record: Mapping[str, Any], **rest: Any) -> Any:
    """A dataclass from a record of the same keys; fields that are no plain numbers or texts come in `rest`."""
    values = {}
    for name, annotation in kind.__annotations__.items():
        if annotation in _KINDS:
            read = get_list if annotation.startswith("list") else get
            values[name] = read(record, name, _KINDS[annotation])
    return kind(**values, **rest)
