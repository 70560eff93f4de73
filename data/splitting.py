"""Parts and subsets of a table: stratified, and the same for the same seed.

Where rows have a client of their own (column client), parts are taken within each client, and no subset loses one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from fedpeptao.errors import InputError


def split_off(
    train: Dataset, fractions: dict[str, float], dataset: str, train_examples: int, seed: int
) -> dict[str, Dataset]:
    """Train and what is split from it, in proportion to the train_examples of it that will be used (0: all)."""
    if "client" not in train.column_names:
        enough = math.ceil(train_examples / (1 - sum(fractions.values()))) + len(fractions)
        used = subset(train, enough if train_examples else 0, seed, "train-examples")
        return split_train(used, fractions, dataset, seed)
    parts = split_train(train, fractions, dataset, seed)  # first, so that each client has its own of all of them
    if "test" in parts:
        parts["test"] = without_client(parts["test"])
    share = train_examples / len(parts["train"])
    if 0 < share < 1:
        parts |= {split: thinned(parts[split], share, seed) for split in fractions}
    return parts


def without_client(table: Dataset) -> Dataset:
    """The test set is common to all clients."""
    return table.remove_columns("client") if "client" in table.column_names else table


def split_train(train: Dataset, fractions: dict[str, float], dataset: str, seed: int) -> dict[str, Dataset]:
    """Train with the named fractions of it taken off, stratified by label; every label stays in train."""
    if "client" in train.column_names:
        return split_within_clients(train, fractions, dataset, seed)
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


def split_within_clients(train: Dataset, fractions: dict[str, float], dataset: str, seed: int) -> dict[str, Dataset]:
    """As split_train, within each client: at least 1 example each for training and validation, the rest for a common test.

    Raises:
        InputError: a client has too few examples, or nobody has one to spare for test.
    """
    clients, labels = list(train["client"]), list(train["label"])
    order, _ = client_order(clients, labels, np.random.default_rng([seed, 0]))
    own: dict[str, list[int]] = defaultdict(list)
    for row in order:
        own[clients[row]].append(int(row))
    check_sizes({client: len(mine) for client, mine in own.items()}, "validation" in fractions, dataset)
    sizes = np.array([len(mine) for mine in own.values()])
    validation = np.zeros_like(sizes)
    if "validation" in fractions:
        validation = np.clip(np.round(fractions["validation"] * sizes).astype(np.int64), 1, sizes - 1)
    test = np.zeros_like(sizes)
    if "test" in fractions:
        spare = sizes - validation - 1
        if not spare.sum():
            problem = "no client has an example to spare for a common test set"
            raise InputError("dataset", dataset, problem, "Give more of them, or test as a file")
        test = shares(min(max(1, round(fractions["test"] * len(labels))), int(spare.sum())), spare)
    parts: dict[str, list[int]] = {split: [] for split in ("train", *fractions)}
    for mine, ours, common in zip(own.values(), validation, test, strict=True):
        cuts = np.cumsum([len(mine) - ours - common, ours])
        for split, part in zip(("train", "validation", "test"), np.split(mine, cuts), strict=True):
            if len(part):
                parts[split].extend(part)
    return {split: rows(train, np.array(part)) for split, part in parts.items()}


def shares(total: int, sizes: np.ndarray) -> np.ndarray:
    """Whole numbers in proportion to sizes that add up to total (at most their sum); the largest remainders round up."""
    exact = total * sizes / sizes.sum()
    whole = np.floor(exact).astype(np.int64)
    most_lost = np.argsort(whole - exact, kind="stable")
    whole[most_lost[: total - whole.sum()]] += 1
    return whole


def subset(table: Dataset, examples: int, seed: int, key: str) -> Dataset:
    """At most so many rows, stratified by label (and client), in their old order; 0: all."""
    if examples == 0 or examples >= len(table):
        return table
    order, least = stratified(table, seed)
    if examples < least:
        problem = f"fewer than one for each of {least} labels"
        if "client" in table.column_names:
            problem = f"fewer than one for each of {len(set(table['client']))} clients, and for each label"
        raise InputError(key, examples, problem, f"Give at least {least}, or 0 for all")
    return rows(table, order[:examples])


def thinned(table: Dataset, share: float, seed: int) -> Dataset:
    """So large a share of the rows, rounded up, stratified as a subset is; each label and client stays."""
    order, least = stratified(table, seed)
    return rows(table, order[: max(least, math.ceil(share * len(table)))])


def stratified(table: Dataset, seed: int) -> tuple[np.ndarray, int]:
    """An order of the rows whose beginnings are stratified, and how many it takes until each label and client is there."""
    rng, labels = np.random.default_rng([seed, 1]), list(table["label"])
    if "client" in table.column_names:
        return client_order(list(table["client"]), labels, rng)
    return stratified_order(labels, rng), len(set(labels))


def stratified_order(labels: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """A shuffle of which every beginning has the labels in proportion, and as soon as it can each label once.

    The j-th of the m rows of a label, in random order, is placed at j/m; int64 [number of labels].
    """
    shuffled = rng.permutation(len(labels))
    codes = np.unique(labels, return_inverse=True)[1][shuffled]
    return shuffled[np.argsort(places(codes), kind="stable")]


def client_order(clients: Sequence[str], labels: Sequence[str], rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """An order of rows that has each client in proportion and, within each, the labels; int64 [number of rows].

    First comes a row of each client, with as many labels among them as can be, then one of each label still missing: the
    second value is how many these are.
    """
    order = stratified_order(labels, rng)
    codes = np.unique(clients, return_inverse=True)[1]
    together = np.split(order[np.argsort(codes[order], kind="stable")], np.cumsum(np.bincount(codes))[:-1])
    within = [mine[stratified_order([labels[row] for row in mine], rng)] for mine in together]
    first = first_rows(within, labels)
    ranked = [[row for row in mine if row in first] + [row for row in mine if row not in first] for mine in within]
    joined = np.array([row for mine in ranked for row in mine])
    joined = joined[np.argsort(places(codes[joined]), kind="stable")]
    late = ~np.isin(joined, list(first))
    return joined[np.argsort(late, kind="stable")], len(first)


def first_rows(within: Sequence[np.ndarray], labels: Sequence[str]) -> set[int]:
    """A row of each client, of a label not yet covered where it has one, and one of each label that is left over.

    within: each client's rows. Who has few labels chooses first; labels left over come from who has most rows.
    """
    first: set[int] = set()
    covered: set[str] = set()
    for mine in sorted(within, key=lambda mine: len({labels[row] for row in mine})):
        row = next((row for row in mine if labels[row] not in covered), mine[0])
        first.add(int(row))
        covered.add(labels[row])
    for mine in sorted(within, key=len, reverse=True):
        for row in mine:
            if labels[row] not in covered:
                first.add(int(row))
                covered.add(labels[row])
    return first


def places(codes: np.ndarray) -> np.ndarray:
    """j/m for the j-th of the m entries of its code, float64 [number of codes]."""
    sizes = np.bincount(codes)
    begins = np.cumsum(sizes) - sizes
    place = np.empty(len(codes))
    rank = np.arange(len(codes)) - np.repeat(begins, sizes)
    place[np.argsort(codes, kind="stable")] = rank / np.repeat(sizes, sizes)
    return place


def rows(table: Dataset, indices: np.ndarray) -> Dataset:
    """These rows in ascending order, as a table of their own with no list of indices before it."""
    return Dataset.from_dict(table[np.sort(indices)])


def check_sizes(sizes: dict[str, int], validation: bool, dataset: str) -> None:
    """Refuse a client who cannot have an example to train on and, where validation is split from train, one for that."""
    small = sorted(client for client, size in sizes.items() if size < 2)
    if validation and small:
        others = f" (and {len(small) - 1} more)" if len(small) > 1 else ""
        problem = f"client {small[0]!r}{others} has 1 example: one to train on and one for validation are needed"
        raise InputError("dataset", dataset, problem, "Leave such clients out, or give validation as a file")
