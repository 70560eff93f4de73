"""Where each node has examples of its own: what a node reads, and what the server does, which sees none of them.

A node's file may lack classes, and may have one alone: whether they suffice is seen when all nodes have said which they have.
"""

from __future__ import annotations

from datasets import Dataset

from data.readers import Columns
from data.sources import Splits, as_task, check_pairs, order_labels, rows_sha256
from data.splitting import split_off
from data.tables import read_file
from data.tasks import Task
from fedpeptao.errors import InputError

OWN_DATA = "own data"
"""What stands where runs over one common data set have its hash: a hash would let others confirm what they guess."""


def read_node(
    data: str, validation: str, *, task: Task | None, columns: Columns, validation_fraction: float, seed: int
) -> Splits:
    """A node's examples; where it has none to evaluate on, a part of them is kept for that, stratified by label.

    Args:
        data, validation: absolute paths of .jsonl, .csv, .tsv or .parquet files; validation: "" for none.

    Raises:
        InputError: any fault in them.
    """
    tables = {"train": read_file(data, columns, "data")}
    if validation:
        tables["validation"] = read_file(validation, columns.of("validation"), "validation")
    paths = {"train": data, "validation": validation or data}
    if task is not None:
        tables = {split: as_task(table, task, split, paths) for split, table in tables.items()}
    if not validation:
        tables |= split_off(tables["train"], {"validation": validation_fraction}, data, 0, seed)
    if unknown := set(tables["validation"]["label"]) - set(tables["train"]["label"]):
        problem = f"validation has labels that training does not have: {', '.join(order_labels(unknown))}"
        raise InputError("validation", validation or data, problem, "Remove those rows, or rename them")
    check_pairs(tables, paths)
    train, evaluated = tables["train"], tables["validation"]
    return Splits(OWN_DATA, train, evaluated, None, rows_sha256([train, evaluated]))


def read_server(test: str, *, task: Task | None, columns: Columns) -> Splits:
    """The server's: nothing to train on, and a common test set if `test` names one."""
    nothing = Dataset.from_dict({"text": [], "label": []})
    common = None
    if test:
        common = read_file(test, columns.of("test"), "test")
        common = common if task is None else as_task(common, task, "test", {"train": "", "test": test})
    return Splits(OWN_DATA, nothing, nothing, common, rows_sha256([] if common is None else [common]))
