"""Figures by class on counts that can be done by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fedpeptao.assessment import as_table, assess

CLASSES = ("cat", "dog", "none of both, by far")
TRUE = ["cat", "cat", "cat", "dog", "dog"]
FOUND = [0, 1, 1, 1, 0]
SCORES = torch.nn.functional.one_hot(torch.tensor(FOUND), 3).float() * 2  # 2 for the class found, 0 for the others


def test_figures_by_hand() -> None:
    figures = assess(SCORES, TRUE, CLASSES, 1.44)
    assert figures["confusion"] == [[1, 2, 0], [1, 1, 0], [0, 0, 0]]
    assert (figures["examples"], figures["accuracy"]) == (5, 0.4)
    assert figures["macro_f1"] == pytest.approx(0.4)
    assert figures["matthews"] == pytest.approx((1 * 1 - 2 * 1) / math.sqrt(3 * 2 * 2 * 3))
    assert figures["loss"] == 1.44
    cat, dog, none = figures["per_class"]
    assert cat == {
        "label": "cat",
        "examples": 3,
        "predicted": 2,
        "precision": 0.5,
        "recall": pytest.approx(1 / 3),
        "f1": pytest.approx(0.4),
    }
    assert (dog["examples"], dog["predicted"], dog["recall"]) == (2, 3, 0.5)
    assert (none["examples"], none["precision"], none["recall"], none["f1"]) == (0, None, None, None)
    json.dumps(figures, allow_nan=False)


def test_the_table() -> None:
    assert as_table(assess(SCORES, TRUE, CLASSES, 1.44)).splitlines() == [
        "accuracy 0.400  macro F1 0.400  Matthews -0.167  loss 1.440  5 examples",
        "",
        "class                 examples  predicted  precision  recall     F1",
        "cat                          3          2      0.500   0.333  0.400",
        "dog                          2          3      0.333   0.500  0.400",
        "none of both, by far         0          0          -       -      -",
        "",
        "true \\ predicted        cat    dog  none of bot~",
        "cat                       1      2             0",
        "dog                       1      1             0",
        "none of both, by far      0      0             0",
    ]


def test_the_runs_metric_stands_first() -> None:
    figures = assess(SCORES[:, :2], TRUE, CLASSES[:2], 1.44, "accuracy-and-f1")
    assert (figures["metric"], figures["score"]) == ("accuracy-and-f1", pytest.approx((0.4 + 0.4) / 2))
    assert as_table(figures).splitlines()[0] == "accuracy/F1 0.400, the run's metric"
