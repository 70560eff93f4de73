"""CSV, TSV and parquet files of the user's own, read by csv and pyarrow; what comes out is checked as JSON lines are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
from datasets import Dataset
from pyarrow import parquet

from data.endings import PARQUET, SEPARATORS
from data.readers import Columns, absolute_file, checked, read_jsonl
from data.separated import UnevenError, read_separated
from fedpeptao.errors import InputError

_NAMES = {",": "comma", "\t": "tab"}


def read_file(path: str, columns: Columns, key: str) -> Dataset:
    """One file by its ending, as columns text, label, text_pair where it has one, client where asked for; all strings.

    Args:
        path: absolute; .csv and .tsv have a first line of names, any other ending but .parquet is JSON lines.
        columns: names of the columns in the file.
        key: the setting that named the file, for messages.

    Raises:
        InputError: the path is relative, missing or no file; the file is empty or not what its ending says; a column is missing;
            a row has a text, a label or a client that is null or empty; a row of a .csv or .tsv has more or fewer fields than
            the first line.
    """
    ending = Path(path).suffix.lower()
    if ending == PARQUET:
        return _table(path, columns, key, lambda file: parquet.read_table(file).to_pandas())
    if ending in SEPARATORS:
        return _table(path, columns, key, lambda file: _separated(file, SEPARATORS[ending]))
    return read_jsonl(path, columns, key)


def _separated(file: Path, separator: str) -> pd.DataFrame:
    """Every cell as the text that stands there: "NA" is a text, and 01 is not 1. Of two columns of one name the first."""
    table = read_separated(file.read_bytes().decode("utf-8-sig"), separator)
    frame = pd.DataFrame([fields for _, fields in table.rows], columns=table.names, dtype=object)
    return frame.loc[:, ~frame.columns.duplicated()]


def _table(path: str, columns: Columns, key: str, read: Callable[[Path], pd.DataFrame]) -> Dataset:
    file = absolute_file(path, key)
    try:
        frame = read(file)
    except UnevenError as error:
        mend = f"Enclose a field that holds a {_NAMES[SEPARATORS[file.suffix.lower()]]} in quotes, and double quotes inside it"
        raise InputError(key, path, str(error), mend) from error
    except (OSError, ValueError, pa.ArrowException) as error:  # UnicodeDecodeError is a ValueError
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            key, path, f"it is no {file.suffix} file that can be read ({reason})", "Check the file and its ending"
        ) from error
    if not len(frame):
        raise InputError(key, path, "the file has no rows", "Give a first line of names, and one row per example")
    columns = columns.resolve([str(name) for name in frame.columns], path)

    def values(name: str) -> list[object]:
        return [None if value is None or value != value else value for value in frame[name].tolist()]  # NaN: no value

    return checked(
        values(columns.text),
        values(columns.text_pair) if columns.text_pair else None,
        values(columns.label),
        values(columns.client) if columns.client else None,
        where=[f"row {row}" for row in range(1, len(frame) + 1)],
        key=key,
        value=path,
    )
