"""Stratified orders, parts and subsets of a table."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from data.splitting import client_order, shares, split_train, stratified_order, subset
from fedpeptao.errors import InputError


def test_every_beginning_of_a_stratified_order_is_stratified() -> None:
    labels = ["a"] * 90 + ["b"] * 10
    order = stratified_order(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(100))
    for end in range(1, 101):
        share = sum(labels[row] == "b" for row in order[:end])
        assert abs(share - end / 10) <= 1


def rows_of(sizes: dict[str, int], labels: str = "ab") -> Dataset:
    """So many rows of each client, the labels in turn, texts that tell them apart."""
    rows = [
        {"text": f"{client} {i}", "label": labels[i % len(labels)], "client": client}
        for client, size in sizes.items()
        for i in range(size)
    ]
    return Dataset.from_list(rows)


FRACTIONS = {"validation": 0.15, "test": 0.15}


def test_parts_are_taken_within_each_client() -> None:
    table = rows_of({"big": 100, "middle": 40, "small": 4, "least": 2})
    parts = split_train(table, FRACTIONS, "mine", seed=0)
    assert sorted(text for part in parts.values() for text in part["text"]) == sorted(table["text"])
    assert Counter(parts["validation"]["client"]) == {"big": 15, "middle": 6, "small": 1, "least": 1}
    counts = Counter(parts["test"]["client"])
    assert counts.total() == round(0.15 * 146)
    assert (counts["big"], counts["middle"], counts["least"]) == (16, 6, 0)
    assert min(Counter(parts["train"]["client"]).values()) == 1
    within = Counter(zip(parts["validation"]["client"], parts["validation"]["label"], strict=True))
    assert abs(within["big", "a"] - within["big", "b"]) <= 1
    assert within["middle", "a"] == within["middle", "b"] == 3


def test_many_small_clients_still_make_a_test_set() -> None:
    parts = split_train(rows_of({f"user {i}": 3 for i in range(40)}), FRACTIONS, "mine", seed=0)
    assert len(parts["test"]) == round(0.15 * 120)
    assert set(Counter(parts["validation"]["client"]).values()) == {1}
    assert set(Counter(parts["train"]["client"]).values()) == {1, 2}


def test_a_label_that_one_client_has_once_is_trained_on() -> None:
    rows = [*rows_of({"big": 6, "small": 2}), {"text": "only", "label": "rare", "client": "small"}]
    for seed in range(20):
        parts = split_train(Dataset.from_list(rows), {"validation": 0.4}, "mine", seed)
        assert set(parts["train"]["label"]) == {"a", "b", "rare"}


@pytest.mark.parametrize("wanted", [4, 5, 9, 40, 145])
def test_a_subset_loses_no_client_and_no_label(wanted: int) -> None:
    rows = [*rows_of({"big": 100, "middle": 40, "small": 4}), {"text": "c", "label": "c", "client": "one"}]
    counts = Counter(subset(Dataset.from_list(rows), wanted, 0, "train-examples")["client"])
    assert counts.total() == wanted
    assert set(counts) == {"big", "middle", "small", "one"}
    assert set(subset(Dataset.from_list(rows), wanted, 0, "train-examples")["label"]) == {"a", "b", "c"}
    if wanted == 40:
        assert abs(counts["big"] - 40 * 100 / 145) <= 2
        assert abs(counts["middle"] - 40 * 40 / 145) <= 2


def test_as_many_examples_as_clients_hold_every_label_that_they_can() -> None:
    rows = [("x", "a"), *[("y", "a")] * 9, ("y", "b"), *[("z", "a")] * 5, ("z", "c")]
    clients, labels = zip(*rows, strict=True)
    for seed in range(10):
        order, least = client_order(clients, labels, np.random.default_rng(seed))
        assert sorted(order) == list(range(len(rows)))
        assert least == 3
        assert {rows[row] for row in order[:3]} == {("x", "a"), ("y", "b"), ("z", "c")}


def test_a_label_that_nobody_has_first_comes_before_all_others() -> None:
    clients, labels = ["x"] * 9 + ["y"] * 2, ["a"] * 9 + ["b", "c"]
    order, least = client_order(clients, labels, np.random.default_rng(0))
    assert least == 3
    assert sorted(labels[row] for row in order[:3]) == ["a", "b", "c"]


def test_the_largest_fraction_leaves_everybody_something_to_train_on() -> None:
    parts = split_train(rows_of({"big": 20, "middle": 4, "least": 2}), {"validation": 0.9}, "mine", seed=0)
    assert Counter(parts["train"]["client"]) == {"big": 2, "middle": 1, "least": 1}


def test_fewer_examples_than_clients_are_refused() -> None:
    with pytest.raises(InputError, match="fewer than one for each of 3 clients") as caught:
        subset(rows_of({"a": 5, "b": 5, "c": 5}), 2, 0, "train-examples")
    assert (caught.value.key, caught.value.value) == ("train-examples", 2)
    assert "at least 3" in caught.value.mend


def test_clients_with_one_example_are_named_and_counted() -> None:
    table = rows_of({"big": 20, "lone": 1, "alone": 1, "single": 1})
    with pytest.raises(InputError, match=r"client 'alone' \(and 2 more\) has 1 example"):
        split_train(table, FRACTIONS, "mine", seed=0)
    assert set(split_train(table, {"test": 0.2}, "mine", seed=0)["train"]["client"]) == set(table["client"])
    with pytest.raises(InputError, match="no client has an example to spare"):
        split_train(rows_of({"x": 2, "y": 2}), FRACTIONS, "mine", seed=0)


def test_shares_are_the_nearest_whole_numbers_that_add_up() -> None:
    assert shares(10, np.array([50, 30, 20])).tolist() == [5, 3, 2]
    assert shares(4, np.array([5, 3, 2])).tolist() == [2, 1, 1]
    assert shares(7, np.array([1, 6, 0])).tolist() == [1, 6, 0]
