"""Stratified orders, parts and subsets of a table."""

from __future__ import annotations

import numpy as np

from data.splitting import stratified_order


def test_every_beginning_of_a_stratified_order_is_stratified() -> None:
    labels = ["a"] * 90 + ["b"] * 10
    order = stratified_order(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(100))
    for end in range(1, 101):
        share = sum(labels[row] == "b" for row in order[:end])
        assert abs(share - end / 10) <= 1
