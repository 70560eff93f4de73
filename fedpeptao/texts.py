"""Texts without labels, from a file or standard input: JSON lines, a table, or one text a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.endings import JSON_LINES, SEPARATORS
from data.separated import UnevenError, read_separated
from fedpeptao.errors import InputError

STDIN = "-"
_KEY = "--file"


@dataclass(frozen=True)
class Texts:
    """Texts in their order; pairs has the second texts, or is None."""

    texts: list[str]
    pairs: list[str] | None


def read_texts(given: str, text_column: str, pair_column: str) -> Texts:
    """Texts of a file by its ending: .jsonl, .csv, .tsv, else one text a line, with a tab before a second text.

    Args:
        given: a path, or "-" for standard input: JSON lines if it begins with a brace, else one text a line.
        text_column: of JSON lines and tables, as for pair_column; second texts are there if the first row has some.

    Raises:
        InputError: no such file, or a row without a text, or with more or fewer fields than the first line has, by its line.
    """
    content = _content(given)
    ending = Path(given).suffix
    if given == STDIN and content.lstrip().startswith("{"):
        ending = JSON_LINES[0]
    if ending in (*JSON_LINES, ".ndjson"):
        return _columns(list(_objects(content, given)), given, text_column, pair_column)
    if ending in SEPARATORS:
        return _columns(list(_rows(content, SEPARATORS[ending], given)), given, text_column, pair_column)
    return _lines(content, given)


def _content(given: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if given == STDIN else Path(given).expanduser().read_bytes()
        return raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(_KEY, given, "there is no such file", "Check the path") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(_KEY, given, f"it cannot be read ({reason})", "Give a file of texts") from error
    except UnicodeDecodeError as error:
        raise InputError(_KEY, given, f"byte {error.start} is not UTF-8", "Save it as UTF-8") from error


def _lines(content: str, given: str) -> Texts:
    rows = [line.rstrip("\r").split("\t", 1) for line in content.split("\n") if line.strip()]
    if not rows:
        raise InputError(_KEY, given, "there are no texts in it", "Give one text a line")
    paired = len(rows[0]) == 2
    if wrong := [number for number, row in enumerate(rows, start=1) if (len(row) == 2) != paired]:
        problem = f"text {wrong[0]} has {'no' if paired else 'a'} tab before a second text, unlike the first"
        raise InputError(_KEY, given, problem, "Give all lines a second text, or none")
    return Texts([row[0] for row in rows], [row[1] for row in rows] if paired else None)


def _objects(content: str, given: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(content.split("\n"), start=1):  # not splitlines: JSON text may hold U+2028
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            problem = f"line {number} is not JSON ({error})"
            raise InputError(_KEY, given, problem, "Give one JSON object per line") from error
        if not isinstance(row, dict):
            raise InputError(_KEY, given, f"line {number} is no JSON object", "Give one JSON object per line")
        yield number, row


def _rows(content: str, separator: str, given: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        table = read_separated(content, separator)
    except UnevenError as error:
        raise InputError(
            _KEY, given, str(error), "Enclose such a field in quotes, and double quotes inside it"
        ) from error
    for number, fields in table.rows:
        yield number, dict(zip(table.names, fields, strict=True))


def _columns(rows: list[tuple[int, Mapping[str, object]]], given: str, text_column: str, pair_column: str) -> Texts:
    if not rows:
        raise InputError(_KEY, given, "there are no texts in it", "Give one row for each text")
    paired = pair_column in rows[0][1]
    found: dict[str, list[str]] = {column: [] for column in ([text_column, pair_column] if paired else [text_column])}
    for number, row in rows:
        for column, texts in found.items():
            text = row.get(column)
            if not isinstance(text, str) or not text.strip():
                there = ", ".join(str(name) for name in row) or "none"
                problem = f"line {number} has no text in the column {column!r} (its columns: {there})"
                mend = "Mend it, or name the column: --run-config 'text-column=\"..\"'"
                raise InputError(_KEY, given, problem, mend)
            texts.append(text)
    return Texts(found[text_column], found[pair_column] if paired else None)
