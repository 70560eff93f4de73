"""Readers of text from outside: JSON lines and the data hub. What they return is checked.

Every message names the file's line or the data set's row, since the file is what the user can mend.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetsError

from fedpeptao.errors import InputError, within_reach

# Where a hub's set has no column `text`: what its columns are called instead, longer matches before shorter ones.
HUB_TEXT_COLUMNS: tuple[tuple[str, str | None], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question1", "question2"),
    ("sentence", None),
)
HUB_VALIDATION_SPLITS = ("validation", "validation_matched", "dev")


@dataclass(frozen=True)
class Columns:
    """Names of the columns, as the settings text-column, text-pair-column, label-column and partition-column have them."""

    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    client: str = ""

    def of(self, split: str) -> Columns:
        """The columns that a split has to have: test is common to all clients, and belongs to none."""
        return replace(self, client="") if split == "test" else self

    def resolve(self, present: Sequence[str], where: str = "the data") -> Columns:
        """Self with text_pair "" where the data (`where`, for messages) has none.

        Raises:
            InputError: a column is not among those present; text_pair is let off only under its default name.
        """
        optional = ("", Columns.text_pair)
        wanted = {"text-column": self.text, "label-column": self.label}
        if self.text_pair not in optional:
            wanted["text-pair-column"] = self.text_pair
        if self.client:
            wanted["partition-column"] = self.client
        for key, column in wanted.items():
            if column not in present:
                raise InputError(
                    key, column, f"{where} has no such column, but {', '.join(present)}", "Name one of these"
                )
        return replace(self, text_pair=self.text_pair if self.text_pair in present else "")


def read_jsonl(path: str, columns: Columns, key: str) -> Dataset:
    """One file of JSON lines as columns text, label, text_pair where it has one, client where asked for; all strings.

    Blank lines are skipped.

    Args:
        path: absolute.
        columns: names of the columns in the file.
        key: the setting that named the file (dataset, validation or test), for messages.

    Raises:
        InputError: the path is relative, missing or no file; the file is empty; a line is not a JSON object, lacks a
            column, or has a text, a label or a client that is null or empty.
    """
    records = dict(json_objects(absolute_file(path, key), key))
    if not records:
        raise InputError(key, path, "the file is empty", "Give one JSON object per line")
    present = list(dict.fromkeys(name for record in records.values() for name in record))
    columns = columns.resolve(present, path)
    for number, record in records.items():
        for column in filter(None, (columns.text, columns.text_pair, columns.label, columns.client)):
            if column not in record:
                problem = f"line {number} has no column {column}, but {', '.join(record) or 'none at all'}"
                raise InputError(key, path, problem, "Give every line the same columns")
    rows = list(records.values())
    return checked(
        [row[columns.text] for row in rows],
        [row[columns.text_pair] for row in rows] if columns.text_pair else None,
        [row[columns.label] for row in rows],
        [row[columns.client] for row in rows] if columns.client else None,
        where=[f"line {number}" for number in records],
        key=key,
        value=path,
    )


def absolute_file(path: str, key: str) -> Path:
    """The path of a file that is there and may be read, or an InputError under the setting's key."""
    file = Path(path)
    if not file.is_absolute():
        mend = "Give an absolute path: a run does not start in the folder you are in"
        raise InputError(key, path, "this path is relative", mend)
    with within_reach(key, path):
        if not file.exists():
            raise InputError(key, path, "there is no such file", "Check the path")
        if not file.is_file():
            raise InputError(key, path, "this is not a file", "Give the path of one file")
    if not os.access(file, os.R_OK):
        raise InputError(key, path, "the file may not be read", "Check its rights")
    return file


def json_objects(file: Path, key: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Line number (from 1) and JSON object of each line that is not blank."""
    mend = "Give one JSON object per line, in UTF-8"
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: JSON text may hold U+2028
    except OSError as error:
        raise InputError(key, str(file), f"the file cannot be read ({error.strerror})", "Check its rights") from error
    except UnicodeDecodeError as error:
        raise InputError(key, str(file), f"byte {error.start} is not UTF-8", mend) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(key, str(file), f"line {number} is not JSON ({error})", mend) from error
        if not isinstance(record, dict):
            raise InputError(key, str(file), f"line {number} is JSON but not an object", mend)
        yield number, record


def read_hub(name: str, columns: Columns, splits: Mapping[str, str]) -> dict[str, Dataset]:
    """The labelled splits (train; validation and test where it has them) of a hub's data set, columns as read_jsonl's.

    Args:
        name: "owner/name" or "owner/name:configuration".
        columns: names of the columns; where text is left at its default and absent, HUB_TEXT_COLUMNS are tried.
        splits: train, validation, test -> the hub's name of it, where it is another than ours.

    Class numbers become class names. Rows without a label (null, or -1 in a set of named classes) are left out, and
    so are splits that have no other rows: GLUE's test sets.

    Raises:
        InputError: the hub cannot be reached, has no such data set or no train split in it, or a column is missing.
    """
    path, _, configuration = name.partition(":")
    try:
        loaded = load_dataset(path, configuration or None)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            "dataset",
            name,
            f"the data set could not be loaded from the hub ({type(error).__name__}: {reason})",
            "Check name and configuration; without a hub, give the absolute path of a .jsonl file with one object of "
            "text and label per line",
        ) from error
    if not isinstance(loaded, DatasetDict) or "train" not in loaded:
        present = ", ".join(loaded) if isinstance(loaded, DatasetDict) else "none"
        raise InputError("dataset", name, f"it has no split train, but {present}", "Choose a set that has one")
    validation = next((split for split in HUB_VALIDATION_SPLITS if split in loaded), "validation")
    sources = {"train": "train", "validation": validation, "test": "test", **splits}
    tables = {
        ours: hub_table(loaded[named], columns.of(ours), name) for ours, named in sources.items() if named in loaded
    }
    return {split: table for split, table in tables.items() if len(table) > 0}


def hub_table(rows: Dataset, columns: Columns, name: str) -> Dataset:
    """One split of a hub's data set under our column names, without its unlabelled rows."""
    present = rows.column_names
    if columns.text == Columns.text and columns.text not in present:
        for text, text_pair in HUB_TEXT_COLUMNS:
            if text in present and (text_pair is None or text_pair in present):
                columns = replace(columns, text=text, text_pair=text_pair or "")
                break
    columns = columns.resolve(present)
    labels = class_names(rows, columns.label)
    kept = [row for row, label in enumerate(labels) if label not in (None, -1)]
    rows = rows.select(kept)
    return checked(
        list(rows[columns.text]),
        list(rows[columns.text_pair]) if columns.text_pair else None,
        [labels[row] for row in kept],
        class_names(rows, columns.client) if columns.client else None,
        where=[f"row {row}" for row in kept],
        key="dataset",
        value=name,
    )


def class_names(rows: Dataset, column: str) -> list[object]:
    """A column's values, names in the place of the numbers of named classes."""
    feature, values = rows.features[column], list(rows[column])
    if not isinstance(feature, ClassLabel):
        return values
    return [None if value in (None, -1) else feature.int2str(value) for value in values]


def checked(
    texts: Sequence[object],
    pairs: Sequence[object] | None,
    labels: Sequence[object],
    clients: Sequence[object] | None = None,
    *,
    where: Sequence[str],
    key: str,
    value: str,
) -> Dataset:
    """A Dataset of these columns, or an InputError at the first row that is not usable (where[i] names row i)."""

    def refuse(row: int, problem: str) -> InputError:
        return InputError(key, value, f"{where[row]} {problem}", "Mend or remove it")

    for column in (texts, pairs or ()):
        for row, text in enumerate(column):
            if not isinstance(text, str) or not text.strip():
                raise refuse(row, f"has the text {text!r}, which is not a string with something in it")
    for what, names in (("label", labels), ("client", clients or ())):
        for row, name in enumerate(names):
            if (
                name is None
                or isinstance(name, list | dict)
                or (isinstance(name, float) and name != name)
                or not str(name).strip()
            ):
                raise refuse(row, f"has the {what} {name!r}, which is neither a name nor a number")
    table: dict[str, list[object]] = {"text": list(texts), "label": [str(label) for label in labels]}
    if pairs is not None:
        table["text_pair"] = list(pairs)
    if clients is not None:
        table["client"] = [str(client) for client in clients]
    try:
        return Dataset.from_dict(table)
    except UnicodeEncodeError as error:  # "\ud800" is JSON but no text
        raise InputError(key, value, f"a text is not valid Unicode ({error.reason})", "Mend its escapes") from error
