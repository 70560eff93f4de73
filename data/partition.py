"""Which rows are whose: the division of a data set among the clients of a simulation.

Label skew is Flower's InnerDirichletPartitioner: every client gets its size for certain, which DirichletPartitioner
does not (it leaves a third of 100 clients empty at alpha 0.1).
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import InnerDirichletPartitioner

from data.sources import Splits, order_labels
from fedpeptao.errors import InputError

SIZE_CONCENTRATION = 5.0  # client sizes ~ Dirichlet(5), section 2.7 of docs/ALGORITHMS.md
SMALLEST_PRIOR = 1e-100


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


def label_skew(
    table: Dataset, labels: list[str], clients: int, alpha: float, seed: int, least: int
) -> list[np.ndarray]:
    """Row numbers by InnerDirichletPartitioner; for one seed the priors of all tables are the same."""
    rng = np.random.default_rng([seed, 0])
    sizes = client_sizes(len(table), clients, least, rng)
    number = {label: place for place, label in enumerate(labels)}
    # The partitioner deals each label's rows out from last to first; shuffled, neighbours in a file part company.
    rows = rng.permutation(len(table))
    classes = np.array([number[label] for label in table["label"]])[rows]
    partitioner = LabelSkewPartitioner(sizes, len(labels), alpha, seed)
    partitioner.dataset = Dataset.from_dict({"row": rows, "class": classes})
    return [np.sort(np.array(partitioner.load_partition(client)["row"])) for client in range(clients)]


def client_sizes(examples: int, clients: int, least: int, rng: np.random.Generator) -> np.ndarray:
    """Sizes ~ Dirichlet(5) that add up to examples, int64 [clients]; who would fall under least gets least."""
    shares = rng.dirichlet(np.full(clients, SIZE_CONCENTRATION))
    raised = np.zeros(clients, dtype=bool)
    while True:  # raising some leaves less to the others, so that more of them may fall under
        rest = (examples - least * raised.sum()) / shares[~raised].sum()
        sizes = np.where(raised, float(least), shares * rest)
        below = sizes < least - 1e-9
        if not below.any():
            break
        raised |= below
    whole = np.floor(sizes + 1e-9).astype(np.int64)
    most_lost = np.argsort(whole - sizes, kind="stable")
    whole[most_lost[: examples - whole.sum()]] += 1
    return whole


class LabelSkewPartitioner(InnerDirichletPartitioner):
    """Flower's, mended in two places.

    It counts the labels that occur, so that priors shift where a table lacks one: here their number is given. It
    divides by the priors of what is left when a label runs out, which are all 0 where a small alpha makes them
    underflow: here no prior is below SMALLEST_PRIOR, so that such a client draws from what is left.
    """

    def __init__(self, sizes: np.ndarray, classes: int, alpha: float, seed: int) -> None:
        super().__init__(partition_sizes=sizes, partition_by="class", alpha=float(alpha), seed=seed)
        self._classes = classes
        self._rng = PositivePriors(np.random.PCG64(seed))

    def _determine_num_unique_classes_if_needed(self) -> None:
        self._num_unique_classes = self._classes


class PositivePriors(np.random.Generator):
    """numpy's generator, whose Dirichlet draws have no zeros in them."""

    def dirichlet(self, alpha: np.ndarray, size: int | None = None) -> np.ndarray:  # type: ignore[override]
        """Draws [size, len(alpha)] whose rows add up to 1."""
        priors = super().dirichlet(alpha, size) + SMALLEST_PRIOR
        return priors / priors.sum(axis=-1, keepdims=True)


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
