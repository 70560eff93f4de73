"""Comma- and tab-separated text, read by the standard library's csv; a row that does not fit the first line is refused.

A field with one separator too many, or a quote that nobody closed, would otherwise shift or swallow fields without a word.
Loads no other library.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Literal

_TAB = "\t"


class UnevenError(ValueError):
    """A row that is not what the first line says, or not quoted as it should be.

    Args:
        line: of the file, from 1, in which it begins.
        problem: a clause.
    """

    def __init__(self, line: int, problem: str) -> None:
        self.line = line
        super().__init__(problem)


@dataclass(frozen=True)
class Separated:
    """The names in the first line, and each row's fields with the line (from 1) in which it begins."""

    names: list[str]
    rows: list[tuple[int, list[str]]]


def read_separated(content: str, separator: str) -> Separated:
    """Every field as the text that stands there; blank lines are skipped.

    Quotes enclose a field, and are doubled inside. In tab-separated text they do so only where that fits the whole of it: GLUE's
    files, for one, are written without quoting, and a quote there is a character as any.

    Raises:
        UnevenError: a row has more or fewer fields than the first line, or its quotes do not close.
    """
    quoted = _read(content, separator, csv.QUOTE_MINIMAL)
    plain = _read(content, separator, csv.QUOTE_NONE) if separator == _TAB and '"' in content else quoted
    if isinstance(plain, UnevenError):
        if isinstance(quoted, UnevenError):
            raise max(plain, quoted, key=lambda error: error.line)  # of the reading that came further
        return quoted
    if isinstance(quoted, UnevenError):
        return plain
    several = len(plain.names) > 1  # of one column every line fits
    return plain if several and len(quoted.rows) < len(plain.rows) else quoted


def _read(content: str, separator: str, quoting: Literal[0, 3]) -> Separated | UnevenError:
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, quoting=quoting, strict=True)
    names: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for row in reader:
            if names and not _blank(row, names):
                if len(row) != len(names):
                    return UnevenError(line, f"line {line} has {len(row)} fields, and the first line {len(names)}")
                rows.append((line, row))
            names = names or row
            line = reader.line_num + 1
    except csv.Error as error:
        return UnevenError(line, f"the row that begins in line {line} is not quoted as it should be ({error})")
    return Separated(names, rows)


def _blank(row: list[str], names: list[str]) -> bool:
    return not row or (len(row) == 1 < len(names) and not row[0].strip())
