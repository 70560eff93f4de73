"""Parts and subsets of a table: stratified, and the same for the same seed."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from fedpeptao.errors import InputError


def split_train(train: Dataset, fractions: dict[str, float], dataset: str, seed: int) -> dict[str, Dataset]:
    """Train with the named fractions of it taken off, stratified by label; every label stays in train."""
    labels = list(train["label"])
    sizes = {split: max(1, round(fraction * len(labels))) for split, fraction in fractions.items()}
    left = len(labels) - sum(sizes.values())
    if left < len(set(labels)):
        problem = f"{len(labels)} examples of {len(set(labels))} labels are too few to split"
        raise InputError("dataset", dataset, problem, "Give more of them, or validation and test as files")
    order = stratified_order(labels, np.random.default_rng([seed, 0]))
    cuts = np.cumsum([left, *sizes.values()])[:-1]
    parts = np.split(order, cuts)
    return {split: rows(train, part) for split, part in zip(("train", *sizes), parts, strict=True)}


def subset(table: Dataset, examples: int, seed: int, key: str) -> Dataset:
    """At most so many rows, stratified by label, in their old order; 0: all."""
    if examples == 0 or examples >= len(table):
        return table
    labels = list(table["label"])
    if examples < len(set(labels)):
        problem = f"fewer than one for each of {len(set(labels))} labels"
        raise InputError(key, examples, problem, f"Give at least {len(set(labels))}, or 0 for all")
    return rows(table, stratified_order(labels, np.random.default_rng([seed, 1]))[:examples])


def stratified_order(labels: list[str], rng: np.random.Generator) -> np.ndarray:
    """A shuffle of which every beginning has the labels in proportion, and as soon as it can each label once.

    The j-th of the m rows of a label, in random order, is placed at j/m; int64 [number of labels].
    """
    shuffled = rng.permutation(len(labels))
    codes = np.unique(labels, return_inverse=True)[1][shuffled]
    place = np.empty(len(labels))
    for code in range(codes.max() + 1):
        members = np.flatnonzero(codes == code)
        place[members] = np.arange(len(members)) / len(members)
    return shuffled[np.argsort(place, kind="stable")]


def rows(table: Dataset, indices: np.ndarray) -> Dataset:
    """These rows in ascending order, as a table of their own with no list of indices before it."""
    return Dataset.from_dict(table[np.sort(indices)])
