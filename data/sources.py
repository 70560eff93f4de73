"""Data sets as three splits: the embedded one, JSON lines of the user's own, a hub's.

What is past this module is known to be whole: every text is a string with something in it, every label of validation
and test is one that training has.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from datasets import Dataset

from data.endings import ENDINGS
from data.readers import Columns, read_hub
from data.splitting import split_off, subset, without_client
from data.stdlib_docs import stdlib_docs
from data.tables import read_file
from data.tasks import Task
from fedpeptao.errors import InputError

DEFAULT = "stdlib-docs"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True)
class Splits:
    """One data set: columns text, label and, in all rows or none, text_pair; all strings.

    Where a column says whose a row is, train and validation have it as client: the same clients in both.

    sha256 is over all rows of all splits in order: equal exactly where a row's number means the same on both ends.
    """

    name: str
    train: Dataset
    validation: Dataset
    test: Dataset | None
    sha256: str


def load_splits(
    dataset: str,
    *,
    task: Task | None = None,
    validation: str = "",
    test: str = "",
    text_column: str = Columns.text,
    text_pair_column: str = Columns.text_pair,
    label_column: str = Columns.label,
    partition_column: str = Columns.client,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    train_examples: int = 0,
    test_examples: int = 0,
    seed: int = 0,
) -> Splits:
    """Read, split and check one data set; the arguments are the settings of the same names.

    Args:
        dataset: "stdlib-docs", the absolute path of a .jsonl, .csv, .tsv or .parquet file, or a hub's "owner/name" or
            "owner/name:configuration".
        task: names the labels in the data, and the hub's set where dataset is left at its default.
        validation: absolute path of such a file; "": the hub's own split, else split from train.
        test: likewise; where a hub's set has validation but no labelled test, validation stands in for test and
            validation is split from train.
        text_column: and the three after it: names of the columns, see data.readers.
        validation_fraction: of train, where it has to be split here, stratified by label; likewise test_fraction.
        train_examples: at most so many, stratified, each label at least once; 0: all. What is split from train
            keeps its proportion to it. Likewise test_examples.
        seed: of splits and subsets.

    Raises:
        InputError: any fault in the settings or in the data, under the setting's key.
    """
    check_numbers(validation_fraction, test_fraction, train_examples, test_examples)
    columns = Columns(text_column, text_pair_column, label_column, partition_column)
    splits: Mapping[str, str] = {}
    if task is not None and dataset == DEFAULT:
        dataset, columns, splits = hub_of(task, columns)
    tables = read_tables(dataset, validation, test, columns, splits)
    paths = {"train": dataset, "validation": validation or dataset, "test": test or dataset}
    if task is not None:
        tables = {split: as_task(table, task, split, paths) for split, table in tables.items()}
    check_labels(tables, paths)
    fractions = {"validation": validation_fraction, "test": test_fraction}
    missing = {split: fraction for split, fraction in fractions.items() if split not in tables}
    if missing:
        tables |= split_off(tables["train"], missing, dataset, train_examples, seed)
    check_clients(tables, paths)
    tables["train"] = subset(tables["train"], train_examples, seed, "train-examples")
    tables["test"] = subset(tables["test"], test_examples, seed, "test-examples")
    check_pairs(tables, paths)
    train, own_validation, own_test = (tables[split] for split in ("train", "validation", "test"))
    return Splits(dataset, train, own_validation, own_test, rows_sha256([train, own_validation, own_test]))


def order_labels(labels: Iterable[str]) -> list[str]:
    """The distinct labels, sorted: by value where all are integers, else as strings. A place is a class number."""
    distinct = set(labels)
    numeric = all(re.fullmatch(r"-?[0-9]+", label) for label in distinct)
    return sorted(distinct, key=lambda label: (int(label), label)) if numeric else sorted(distinct)


def hub_of(task: Task, columns: Columns) -> tuple[str, Columns, Mapping[str, str]]:
    """Name, columns and splits of a task's set on the hub; columns that the settings name go before the task's."""
    if not task.hub:
        mend = "Give the absolute path of a data file, or add hub to the task"
        raise InputError("dataset", DEFAULT, f"the task {task.name} names no set on a hub", mend)
    plain = columns == Columns(client=columns.client)
    return task.dataset, replace(task.columns, client=columns.client) if plain else columns, task.splits


def as_task(table: Dataset, task: Task, split: str, paths: dict[str, str]) -> Dataset:
    """The table with the task's labels for its values.

    Raises:
        InputError: a value that the task does not know, or one text where the task has two.
    """
    key = split if paths[split] != paths["train"] else "dataset"
    if task.pairs and "text_pair" not in table.column_names:
        problem = f"{split} has no second text, and the task {task.name} is about pairs"
        raise InputError("text-pair-column", paths[split], problem, "Name its column")
    labels = task.named(table["label"], key, paths[split])
    columns = {name: table[name][:] for name in table.column_names if task.pairs or name != "text_pair"}
    return Dataset.from_dict({**columns, "label": labels})


def read_tables(
    dataset: str, validation: str, test: str, columns: Columns, splits: Mapping[str, str]
) -> dict[str, Dataset]:
    """The splits that exist already, train among them; splits: what a hub calls them, where it is not plain."""
    if dataset == DEFAULT:
        if columns.client:
            mend = "Set dataset to data that has it, or partition to label-skew"
            raise InputError("partition-column", columns.client, f"{DEFAULT} has no column but text and label", mend)
        tables = {"train": stdlib_docs()}
    elif HUB_NAME.fullmatch(dataset) and not dataset.startswith(".") and not dataset.endswith(ENDINGS):
        tables = read_hub(dataset, columns, splits)
        if "test" not in tables and "validation" in tables and not test:
            tables["test"] = without_client(tables.pop("validation"))
    elif "/" in dataset or "\\" in dataset or dataset.endswith(ENDINGS):
        tables = {"train": read_file(dataset, columns, "dataset")}
    else:
        files = f"the absolute path of a {', '.join(ENDINGS)} file"
        mend = f"Give stdlib-docs, {files}, or a hub name owner/name:configuration"
        raise InputError("dataset", dataset, "there is no data set of this name", mend)
    for split, path in (("validation", validation), ("test", test)):
        if path:
            tables[split] = read_file(path, columns.of(split), split)
    return tables


def rows_sha256(tables: list[Dataset]) -> str:
    """Hex digest over text, text_pair, label and, where there is one, client of every row, tables told apart."""
    digest = hashlib.sha256()
    for table in tables:
        pairs = table["text_pair"] if "text_pair" in table.column_names else [None] * len(table)
        clients = [table["client"]] if "client" in table.column_names else []
        for row in zip(table["text"], pairs, table["label"], *clients, strict=True):
            digest.update(json.dumps(row).encode() + b"\n")
        digest.update(b"\n")
    return digest.hexdigest()


def check_numbers(validation_fraction: float, test_fraction: float, train_examples: int, test_examples: int) -> None:
    """Refuse fractions and counts that no data set could satisfy."""
    fractions = {"validation-fraction": validation_fraction, "test-fraction": test_fraction}
    for key, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise InputError(key, fraction, "this is no part of a whole", "Give a number between 0 and 1")
    if validation_fraction + test_fraction >= 1:
        problem = f"with test-fraction = {test_fraction} nothing is left to train on"
        raise InputError("validation-fraction", validation_fraction, problem, "Keep the sum of both under 1")
    for key, examples in {"train-examples": train_examples, "test-examples": test_examples}.items():
        if examples < 0:
            raise InputError(key, examples, "there are no negative numbers of examples", "Give 0 for all")


def check_labels(tables: dict[str, Dataset], paths: dict[str, str]) -> None:
    """Refuse a single label, and a label in validation or test that training does not have."""
    known = set(tables["train"]["label"])
    if len(known) < 2:
        problem = f"all {len(tables['train'])} training examples have the label {known.pop()}"
        raise InputError("dataset", paths["train"], problem, "Give data of at least two labels")
    for split, table in tables.items():
        unknown = order_labels(set(table["label"]) - known)
        if unknown:
            key = split if paths[split] != paths["train"] else "dataset"
            problem = f"{split} has labels that training does not have: {', '.join(unknown)}"
            mend = f"Remove those rows, or rename them to one of {', '.join(order_labels(known))}"
            raise InputError(key, paths[split], problem, mend)


def check_clients(tables: dict[str, Dataset], paths: dict[str, str]) -> None:
    """Where rows have clients: refuse one in validation that training does not have, one without validation, and lost labels."""
    if "client" not in tables["train"].column_names:
        return
    known, evaluated = (set(tables[split]["client"]) for split in ("train", "validation"))
    key = "validation" if paths["validation"] != paths["train"] else "dataset"
    if unknown := order_labels(evaluated - known):
        problem = f"validation has clients that training does not have: {', '.join(unknown[:5])}"
        raise InputError(
            key, paths["validation"], problem, "Remove those rows, or give each client examples to train on"
        )
    if without := order_labels(known - evaluated):
        problem = f"{len(without)} of {len(known)} clients have no example in it: {', '.join(without[:5])}"
        raise InputError(key, paths["validation"], problem, "Give each at least one, or leave validation empty")
    check_labels(tables, paths)


def check_pairs(tables: dict[str, Dataset], paths: dict[str, str]) -> None:
    """Refuse pairs of texts in one split and single texts in another."""
    paired = "text_pair" in tables["train"].column_names
    for split, table in tables.items():
        if ("text_pair" in table.column_names) != paired:
            problem = f"{split} and train disagree on whether there is a second text"
            raise InputError("text-pair-column", paths[split], problem, "Give the second text in all files or none")
