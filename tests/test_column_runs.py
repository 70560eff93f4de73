"""Clients by a column of the data: whole runs over three hospitals of unequal size, and one clear message for what cannot be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from data.partition import partition
from data.sources import Splits, load_splits
from federation import resources
from tests.refusals import refused_run
from tests.small_runs import Flat, examples, go, write_jsonl

MakeFlat = Callable[..., Flat]
Rows = list[dict[str, Any]]
SIZES = {"10": 60, "9": 24, "101": 12}  # named by numbers, which are ordered as such
HOSPITALS = ["9", "10", "101"]


def hospital_rows() -> Rows:
    names = [name for name, size in SIZES.items() for _ in range(size)]
    return [{**row, "hospital": name} for row, name in zip(examples(96), names, strict=True)]


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """The rows, or changed ones, in a file of this ending."""

    def write(change: Callable[[Rows], Rows] = lambda rows: rows, name: str = "wards.jsonl") -> str:
        rows, path = change(hospital_rows()), tmp_path / name
        if path.suffix == ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        elif path.suffix == ".parquet":
            pd.DataFrame(rows).astype({"hospital": "int64"}).to_parquet(path)
        else:
            write_jsonl(path, rows)
        return str(path)

    return write


@pytest.fixture
def by_hospital(make_flat: MakeFlat) -> MakeFlat:
    given = {"partition": "column", "partition_column": "hospital", "clients": 3, "clients_per_round": 2}
    return lambda **overrides: make_flat(**{**given, **overrides})


def texts_of(splits: Splits) -> list[tuple[set[str], set[str]]]:
    """What each client trains and validates on."""
    train, validation = partition(splits, clients=3, kind="column", alpha=0.3, seed=0)
    return [
        (set(splits.train[ours]["text"]), set(splits.validation[theirs]["text"]))
        for ours, theirs in zip(train, validation, strict=True)
    ]


def test_csv_json_lines_and_parquet_give_the_same_clients(file: Callable[..., str]) -> None:
    own = {name: {row["text"] for row in hospital_rows() if row["hospital"] == name} for name in HOSPITALS}
    of_each = []
    for ending in ("jsonl", "csv", "parquet"):
        splits = load_splits(file(name=f"wards.{ending}"), partition_column="hospital")
        found = texts_of(splits)
        for name, (train, validation) in zip(HOSPITALS, found, strict=True):
            assert train | validation <= own[name]
            assert not train & validation
            assert len(validation) == round(0.15 * SIZES[name])
        assert splits.test is not None
        assert splits.test.column_names == ["text", "label"]
        of_each.append((found, splits.sha256))
    assert of_each[0] == of_each[1] == of_each[2]


def test_the_column_is_part_of_the_hash_only_where_it_says_whose_a_row_is(file: Callable[..., str]) -> None:
    def swapped(rows: Rows) -> Rows:
        other = {"9": "101", "101": "9"}
        return [{**row, "hospital": other.get(row["hospital"], row["hospital"])} for row in rows]

    given = {"validation": file(name="dev.jsonl"), "test": file(name="test.jsonl")}
    wards, changed = file(), file(swapped, "changed.jsonl")
    assert load_splits(wards, **given).sha256 == load_splits(changed, **given).sha256
    hashes = {load_splits(path, **given, partition_column="hospital").sha256 for path in (wards, changed)}
    assert len(hashes | {load_splits(wards, **given).sha256}) == 3


@pytest.mark.usefixtures("no_plots")
def test_a_whole_run(by_hospital: MakeFlat, file: Callable[..., str]) -> None:
    ran = go(by_hospital(dataset=file(name="wards.csv"), run_name="wards"))
    clients = ran.summary["clients"]
    assert [clients[str(i)]["name"] for i in range(3)] == HOSPITALS
    counts = Counter(resources.splits(ran.settings).train["client"])
    assert [clients[str(i)]["examples"] for i in range(3)] == [counts[name] for name in HOSPITALS]
    assert ran.summary["final"]["global_accuracy"] is not None
    assert json.loads((ran.folder / "settings.json").read_text(encoding="utf8"))["partition-column"] == "hospital"
    page = (ran.folder / "report.html").read_text(encoding="utf8")
    assert "client 101: " in page


@pytest.mark.usefixtures("no_plots")
def test_clients_without_a_column_have_no_name(make_flat: MakeFlat) -> None:
    assert all("name" not in client for client in go(make_flat()).summary["clients"].values())


def test_fewer_training_examples_keep_every_hospital_and_the_proportion(file: Callable[..., str]) -> None:
    splits = load_splits(file(), partition_column="hospital", train_examples=20)
    train, validation = Counter(splits.train["client"]), Counter(splits.validation["client"])
    assert train.total() == 20
    assert abs(train["10"] - 20 * 60 / 96) <= 1
    assert set(train) == set(validation) == set(HOSPITALS)
    assert splits.test is not None
    assert validation.total() <= 6
    assert len(splits.test) <= 6
    assert len(load_splits(file(), partition_column="hospital", train_examples=3).train) == 3


def only(**counts: int) -> Callable[[Rows], Rows]:
    """The first rows of some hospitals, as many as said; all of the others."""

    def change(rows: Rows) -> Rows:
        kept, seen = [], Counter[str]()
        for row in rows:
            seen[row["hospital"]] += 1
            if seen[row["hospital"]] <= counts.get(f"h{row['hospital']}", 1000):
                kept.append(row)
        return kept

    return change


def at_row(number: int, **change: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [{**row, **(change if i == number else {})} for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "name", "key", "problem"),
    [
        (lambda rows: examples(96), "a.jsonl", "partition-column", "a.jsonl has no such column, but text, label"),
        (at_row(7, hospital=None), "a.jsonl", "dataset", "line 8 has the client None"),
        (at_row(7, hospital=" "), "a.csv", "dataset", "row 8 has the client ' '"),
        (at_row(7, hospital=float("nan")), "a.jsonl", "dataset", "line 8 has the client nan"),
        (only(h101=1), "a.jsonl", "dataset", "client '101' has 1 example: one to train on"),
        (only(h9=1, h101=1), "a.jsonl", "dataset", "client '101' (and 1 more) has 1 example"),
        (only(h101=0), "a.jsonl", "clients", "the column has 2 different values"),
    ],
)
def test_a_file_that_makes_no_clients(
    by_hospital: MakeFlat, file: Callable[..., str], change: Callable[[Rows], Rows], name: str, key: str, problem: str
) -> None:
    error = refused_run(by_hospital(dataset=file(change, name)))
    assert error.key == key
    assert problem in error.problem


@pytest.mark.parametrize(
    ("change", "key", "problem"),
    [
        (lambda rows: examples(96), "partition-column", "other.jsonl has no such column"),
        (at_row(7, hospital="new"), "validation", "validation has clients that training does not have: new"),
        (only(h9=0), "validation", "1 of 3 clients have no example in it: 9"),
    ],
)
def test_a_validation_file_has_the_same_clients(
    by_hospital: MakeFlat, file: Callable[..., str], change: Callable[[Rows], Rows], key: str, problem: str
) -> None:
    error = refused_run(by_hospital(dataset=file(), validation=file(change, "other.jsonl")))
    assert error.key == key
    assert problem in error.problem


def test_files_for_all_three(file: Callable[..., str]) -> None:
    """A test file needs no column, and a hospital with one training example will do."""
    plain = file(lambda rows: examples(9), "test.jsonl")
    train = file(only(h101=1), "train.jsonl")
    splits = load_splits(train, validation=file(), test=plain, partition_column="hospital")
    assert Counter(splits.train["client"])["101"] == 1
    assert splits.test is not None
    assert len(splits.test) == 9


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        ({"clients": 4}, "clients", "the column has 3 different values"),
        ({"partition_column": ""}, "partition-column", "needs one"),
        ({"partition": "iid"}, "partition-column", "makes clients without it"),
        ({"dataset": "stdlib-docs"}, "partition-column", "stdlib-docs has no column but text and label"),
        ({"train_examples": 2}, "train-examples", "fewer than one for each of 3 clients"),
    ],
)
def test_settings_that_make_no_clients(
    by_hospital: MakeFlat, file: Callable[..., str], overrides: dict[str, Any], key: str, problem: str
) -> None:
    error = refused_run(by_hospital(**{"dataset": file(), **overrides}))
    assert error.key == key
    assert problem in error.problem
    if key == "clients":
        assert "Set it to 3" in error.mend


def test_a_hubs_test_split_needs_no_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """And validation that stands in for it loses its own."""
    wards = ClassLabel(names=["north", "south"])
    rows = Dataset.from_list(
        [{"text": f"text {i}", "label": "ab"[i % 2], "ward": "north" if i < 12 else "south"} for i in range(20)]
    ).cast_column("ward", wards)
    loaded = {"train": rows, "validation": rows, "test": rows.remove_columns("ward")}
    monkeypatch.setattr("data.readers.load_dataset", lambda path, configuration: DatasetDict(loaded))
    splits = load_splits("owner/name", partition_column="ward")
    assert Counter(splits.validation["client"]) == {"north": 12, "south": 8}
    assert splits.test is not None
    assert splits.test.column_names == ["text", "label"]
    del loaded["test"]
    stands_in = load_splits("owner/name", partition_column="ward")
    assert stands_in.test is not None
    assert stands_in.test.to_dict() == splits.test.to_dict()
    assert Counter(stands_in.validation["client"]) == {"north": 2, "south": 1}
