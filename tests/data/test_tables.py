"""CSV, TSV and parquet: the rows of the same JSON lines, and one clear message for what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset

from data.readers import Columns
from data.sources import load_splits
from data.tables import read_file
from fedpeptao.errors import InputError

ROWS = [
    {"text": 'He said "no", twice,\nand left.', "text_pair": "NA", "label": "01"},
    {"text": "nan", "text_pair": "tab\tinside", "label": "1"},
    {"text": "Größe", "text_pair": "null", "label": "true"},
]


def write(folder: Path, ending: str, rows: list[dict[str, str]] = ROWS) -> str:
    path, frame = folder / f"rows{ending}", pd.DataFrame(rows)
    if ending == ".parquet":
        frame.to_parquet(path)
    elif ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    else:
        frame.to_csv(path, sep="\t" if ending == ".tsv" else ",", index=False, encoding="utf-8-sig")
    return str(path)


def as_rows(table: Dataset) -> list[dict[str, str]]:
    return [{key: row[key] for key in ("text", "text_pair", "label")} for row in table]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_every_form_holds_the_same_rows(tmp_path: Path, ending: str) -> None:
    assert as_rows(read_file(write(tmp_path, ending), Columns(), "dataset")) == ROWS


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
def test_a_run_reads_them(tmp_path: Path, ending: str) -> None:
    rows = [{"text": f"text {i}", "answer": f"l{i % 2}"} for i in range(60)]
    splits = load_splits(write(tmp_path, ending, rows), label_column="answer")
    assert sorted(set(splits.train["label"])) == ["l0", "l1"]
    assert "text_pair" not in splits.train.column_names


def test_numbers_in_parquet_are_labels_and_no_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}).to_parquet(path)
    assert list(read_file(str(path), Columns(), "dataset")["label"]) == ["0", "1"]
    with pytest.raises(InputError, match="row 1 has the text 0, which is not a string"):
        read_file(str(path), Columns(text="label", label="text"), "dataset")


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_an_empty_cell_is_named_by_its_row(tmp_path: Path, ending: str) -> None:
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": ""}]
    with pytest.raises(InputError, match="row 2 has the label ''"):
        read_file(write(tmp_path, ending, rows), Columns(), "test")


def test_a_null_in_parquet_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"text": ["a", None], "label": ["x", "y"]}).to_parquet(path)
    with pytest.raises(InputError, match="row 2 has the text None"):
        read_file(str(path), Columns(), "dataset")


@pytest.mark.parametrize(
    ("ending", "content", "problem"),
    [
        (".csv", b"", "the file has no rows"),
        (".csv", b"text,label\n", "the file has no rows"),
        (
            ".csv",
            b"text,label\nWarm, friendly staff,positive\n",
            "line 2 has 3 fields, and the first line 2. .* a comma in",
        ),
        (".csv", b'text,label\na,b\n\n"c\nd",e\nf\n', "line 6 has 1 fields, and the first line 2"),
        (".csv", b'text,label\n"a \\"b\\"",c\n', "begins in line 2 is not quoted as it should be .*',' expected"),
        (".csv", b'text,label\na,b\n"c,d\ne,f\n', "begins in line 3 is not quoted as it should be .*unexpected end"),
        (".tsv", b"text\tlabel\na\tb\nc\td\te\n", "line 3 has 3 fields, and the first line 2. .* a tab in"),
        (".tsv", b'text\tlabel\n"a\tb"\tc\nd\te\tf\n', "line 3 has 3 fields"),  # as quoted, it came further
        (".csv", b"text,label\n\xff,b\n", "no .csv file that can be read .*utf-8"),
        (".csv", b"words,label\na,b\n", "no such column, but words, label"),
        (".parquet", b"no parquet", "no .parquet file that can be read"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, ending: str, content: bytes, problem: str) -> None:
    path = tmp_path / f"rows{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read_file(str(path), Columns(), "dataset")


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('text\tlabel\n"a\tx\nb\ty\nc"\tx\n', ['"a', "b", 'c"']),  # as quoted text it would be one row
        ('text\tlabel\n"a" b\tx\n"c"\ty\n', ['"a" b', '"c"']),
        ('"text"\t"label"\n"a ""b"""\t"x"\n"c"\t"y"\n', ['a "b"', "c"]),
        ('text\tlabel\n"a\tb\tc\nd"\tx\n', ["a\tb\tc\nd"]),
        ("text\tlabel\n'a\tx\n \nb\ty\n", ["'a", "b"]),
    ],
)
def test_quotes_in_tsv_enclose_fields_only_where_that_fits_the_whole_file(
    tmp_path: Path, content: str, texts: list[str]
) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text(content, encoding="utf8")
    assert list(read_file(str(path), Columns(), "dataset")["text"]) == texts


def test_a_long_field_is_read(tmp_path: Path) -> None:
    """Python's csv has a limit of its own, of 128 KiB."""
    rows = [{"text": "a" * 2**18, "label": "x"}]
    assert read_file(write(tmp_path, ".csv", rows), Columns(), "dataset")[0]["text"] == "a" * 2**18


def test_of_two_columns_of_a_name_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label,text\na,x,b\n", encoding="utf8")
    assert list(read_file(str(path), Columns(), "dataset")["text"]) == ["a"]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.parquet"])
def test_a_relative_path_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="relative"):
        load_splits(name)
