"""Figures by class on counts that can be done by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fedpeptao.assessment import as_table, assess

CLASSES = ("cat", "dog", "none of both, by far")
TRUE = ["cat", "cat", "cat", "dog", "dog"]
FOUND = [0, 0, 1, 1, 0]
SCORES = torch.nn.functional.one_hot(torch.tensor(FOUND), 3).float() * 2  # 2 for the class found, 0 for the others


def test_figures_by_hand() -> None:
    figures = assess(SCORES, TRUE, CLASSES)
    assert figures["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert (figures["examples"], figures["accuracy"]) == (5, 0.6)
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert figures["matthews"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 2 * 3 * 2))
    whole = math.log(math.exp(2) + 2)
    assert figures["loss"] == pytest.approx((3 * (whole - 2) + 2 * whole) / 5)
    cat, dog, none = figures["per_class"]
    assert cat == {
        "label": "cat",
        "examples": 3,
        "predicted": 3,
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
    }
    assert (dog["examples"], dog["predicted"], dog["f1"]) == (2, 2, 0.5)
    assert (none["examples"], none["precision"], none["recall"], none["f1"]) == (0, None, None, None)
    json.dumps(figures, allow_nan=False)


def test_the_table() -> None:
    assert as_table(assess(SCORES, TRUE, CLASSES)).splitlines() == [
        "accuracy 0.600  macro F1 0.583  Matthews 0.167  loss 1.040  5 examples",
        "",
        "class                 examples  predicted  precision  recall     F1",
        "cat                          3          3      0.667   0.667  0.667",
        "dog                          2          2      0.500   0.500  0.500",
        "none of both, by far         0          0          -       -      -",
        "",
        "true \\ predicted        cat    dog  none of bot~",
        "cat                       2      1             0",
        "dog                       1      1             0",
        "none of both, by far      0      0             0",
    ]
