"""Which rows are whose: the division of a data set among the clients of a simulation.

Label skew is a module of its own (data/label_skew.py), loaded where it is asked for: Flower's partitioners come with libraries
for pictures, and take a second to load.
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from data.sources import Splits, order_labels
from fedpeptao.errors import InputError


def partition(
    splits: Splits, *, clients: int, kind: str, alpha: float, seed: int, min_examples: int = 8
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Row numbers of train and of validation for each client (int64, ascending); every row belongs to one client.

    Args:
        splits: the data; test is common to all and not divided.
        clients: number of clients.
        kind: "iid" (equal sizes, give or take one), "label-skew" (sizes ~ Dirichlet(5), label priors per client
            ~ Dirichlet(alpha), the same sizes and priors for train and validation), or "column" (rows are whose their
            column client says, in the order of client_names).
        alpha: concentration of the label priors; used by label-skew alone.
        seed: of everything random here.
        min_examples: training examples that every client has at least, but for "column"; of validation it has at least 1.

    Raises:
        InputError: an impossible value, or more clients than the examples allow.
    """
    check(splits, clients, kind, alpha, min_examples)
    if kind == "column":
        names = client_names(splits)
        train, validation = (by_name(table, names) for table in (splits.train, splits.validation))
        return train, validation
    tables = ((splits.train, min_examples), (splits.validation, 1))
    if kind == "iid":
        train, validation = (iid(len(table), clients, seed) for table, _ in tables)
    else:
        from data.label_skew import label_skew

        labels = order_labels(splits.train["label"])
        train, validation = (label_skew(table, labels, clients, alpha, seed, least) for table, least in tables)
    return train, validation


def client_names(splits: Splits) -> list[str]:
    """The distinct values of the column client, in the order of labels; a place is a client's number. [] without one."""
    return order_labels(splits.train["client"]) if "client" in splits.train.column_names else []


def by_name(table: Dataset, names: list[str]) -> list[np.ndarray]:
    """Row numbers of each name."""
    number = {name: place for place, name in enumerate(names)}
    codes = np.array([number[name] for name in table["client"]])
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def iid(examples: int, clients: int, seed: int) -> list[np.ndarray]:
    """Row numbers shuffled and cut into equal parts."""
    return [np.sort(part) for part in np.array_split(np.random.default_rng(seed).permutation(examples), clients)]


def check(splits: Splits, clients: int, kind: str, alpha: float, min_examples: int) -> None:
    """Refuse what cannot be divided."""
    if kind not in ("iid", "label-skew", "column"):
        raise InputError("partition", kind, "there is no such partition", "Give label-skew, iid or column")
    if kind == "column":
        check_column(splits, clients)
        return
    if clients < 1:
        raise InputError("clients", clients, "there must be someone to train", "Give 1 or more")
    if kind == "label-skew" and not 0 < alpha < float("inf"):
        raise InputError("alpha", alpha, "a concentration is a positive number", "Give for instance 0.3")
    most = min(len(splits.train) // min_examples, len(splits.validation))
    if clients > most:
        problem = (
            f"{len(splits.train)} training and {len(splits.validation)} validation examples are too few for at least "
            f"{min_examples} and 1 each"
        )
        raise InputError("clients", clients, problem, f"Give {f'at most {most}, or ' if most else ''}more data")


def check_column(splits: Splits, clients: int) -> None:
    """Refuse a number of clients other than that of the column's values."""
    names = client_names(splits)
    if clients != len(names):
        problem = f"the column has {len(names)} different values, and each is a client"
        raise InputError("clients", clients, problem, f"Set it to {len(names)}")
