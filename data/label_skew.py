"""Clients of unequal sizes and unequal shares of the labels.

Label skew is Flower's InnerDirichletPartitioner: every client gets its size for certain, which DirichletPartitioner
does not (it leaves a third of 100 clients empty at alpha 0.1).
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import InnerDirichletPartitioner

SIZE_CONCENTRATION = 5.0  # client sizes ~ Dirichlet(5), section 2.7 of docs/ALGORITHMS.md
SMALLEST_PRIOR = 1e-100


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
