"""Each metric of a pooled confusion matrix is scikit-learn's on all predictions one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef

from data.tasks import METRICS
from federation.evaluation import Counts
from federation.metrics import NAMES, added, figure_key, figures, score, square
from federation.settings import defaults, parse

Predictions = list[tuple[int, int]]


def library(metric: str, true: list[int], found: list[int], classes: int) -> float:
    two = {"pos_label": 1, "average": "binary"} if classes == 2 else {"average": "macro"}
    accuracy, f1 = accuracy_score(true, found), f1_score(true, found, zero_division=0, **two)
    return {
        "accuracy": accuracy,
        "matthews": matthews_corrcoef(true, found),
        "f1": f1,
        "accuracy-and-f1": (accuracy + f1) / 2,
    }[metric]


@st.composite
def federations(draw: st.DrawFn) -> tuple[int, list[Predictions]]:
    """Classes, and (true, predicted) of each client's examples; some class may never be predicted, or never occur."""
    classes = draw(st.integers(2, 4))
    highest = st.integers(0, classes - 1)
    pairs = st.tuples(st.integers(0, draw(highest)), st.integers(0, draw(highest)))
    clients = draw(st.lists(st.lists(pairs, max_size=12), min_size=1, max_size=4))
    return classes, [*clients, [(draw(highest), draw(highest))]]


def flat(pairs: Predictions, classes: int) -> tuple[int, ...]:
    if not pairs:
        return (0,) * classes**2
    true, found = zip(*pairs, strict=True)
    return tuple(int(n) for n in confusion_matrix(true, found, labels=range(classes)).flatten())


@pytest.mark.parametrize(
    ("metric", "matrix", "value"),
    [
        ("accuracy", [[3, 1], [2, 4]], 0.7),
        ("f1", [[3, 1], [2, 4]], 8 / 11),  # of the second class: 2*4 / (2*4 + 1 + 2)
        ("f1", [[3, 0], [2, 0]], 0.0),  # never predicted
        ("accuracy-and-f1", [[3, 1], [2, 4]], (0.7 + 8 / 11) / 2),
        ("matthews", [[3, 1], [2, 4]], 10 / 600**0.5),
        ("matthews", [[0, 2], [3, 0]], -1.0),
        ("matthews", [[3, 0], [2, 0]], 0.0),
        ("f1", [[1, 1, 0], [0, 2, 0], [0, 0, 1]], (2 / 3 + 4 / 5 + 1) / 3),
    ],
)
def test_by_hand(metric: str, matrix: list[list[int]], value: float) -> None:
    assert score(metric, np.array(matrix)) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=60, deadline=None)
@given(drawn=federations())
@pytest.mark.filterwarnings("ignore")
def test_of_the_pooled_matrix_as_of_all_predictions(metric: str, drawn: tuple[int, list[Predictions]]) -> None:
    classes, clients = drawn
    pooled = square(added(flat(pairs, classes) for pairs in clients))
    true, found = map(list, zip(*(pair for pairs in clients for pair in pairs), strict=True))
    assert score(metric, pooled) == pytest.approx(library(metric, true, found, classes), abs=1e-12)


def test_names_of_figures() -> None:
    assert figure_key("all_shared", "accuracy-and-f1") == "all_shared_accuracy_and_f1"
    counts = Counts(10, 7, 1.0, (3, 1, 2, 4))
    assert figures("global", counts, "accuracy") == {"global_accuracy": 0.7}
    assert figures("global", counts, "f1") == {"global_accuracy": 0.7, "global_f1": pytest.approx(8 / 11)}
    assert figures("shared", Counts(), "matthews") == {"shared_accuracy": None, "shared_matthews": None}


def test_tasks_settings_and_names_know_the_same_metrics() -> None:
    assert tuple(NAMES) == METRICS
    for metric in ("auto", *METRICS):
        assert parse({**defaults(), "metric": metric}).run.metric == metric


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(ValueError, match="no metric 'recall'"):
        score("recall", np.eye(2))
