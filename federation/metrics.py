"""The figure that a task is judged by, from pooled confusion matrices: counts add up over clients, a correlation does not.

scikit-learn computes all of them; it is imported where one is, since a run by accuracy needs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from federation.evaluation import Counts

ACCURACY = "accuracy"
NAMES = {ACCURACY: "accuracy", "matthews": "Matthews", "f1": "F1", "accuracy-and-f1": "accuracy/F1"}
"""What people read of each of data.tasks.METRICS; the last one is the mean of both."""


def figure_key(whose: str, metric: str) -> str:
    """The name of a figure in metrics.jsonl and summary.json: personalised_accuracy, global_accuracy_and_f1."""
    return f"{whose}_{metric.replace('-', '_')}"


def metric_of(summary: Mapping[str, Any]) -> str:
    """The metric that a summary.json names; accuracy for a run of an earlier version, or one that did not come so far."""
    return str(summary.get("metric") or ACCURACY)


def figures(whose: str, counts: Counts, metric: str) -> dict[str, float | None]:
    """The accuracy under its name, and where the metric is another one, that under its own; None without examples."""
    found = {figure_key(whose, ACCURACY): counts.accuracy}
    if metric != ACCURACY:
        found[figure_key(whose, metric)] = score(metric, square(counts.confusion)) if counts.examples else None
    return found


def score(metric: str, confusion: np.ndarray) -> float:
    """A metric of counts [true][predicted], [C, C] whole numbers, not all 0.

    f1 of two classes is that of the second one (GLUE's equivalent, duplicate), of more classes `macro_f1`.

    Raises:
        ValueError: no such metric.
    """
    if metric == ACCURACY:
        return float(np.trace(confusion) / confusion.sum())
    if metric == "matthews":
        return matthews(confusion)
    if metric == "f1":
        return _f1(confusion, labels=[1]) if len(confusion) == 2 else macro_f1(confusion)
    if metric == "accuracy-and-f1":
        return (score(ACCURACY, confusion) + score("f1", confusion)) / 2
    raise ValueError(f"there is no metric {metric!r}")


def matthews(confusion: np.ndarray) -> float:
    """Matthews correlation, from -1 to 1; 0 where it is 0/0."""
    from sklearn.metrics import matthews_corrcoef

    true, found, weight = _cells(confusion)
    return float(matthews_corrcoef(true, found, sample_weight=weight))


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 over the classes that occur or are predicted."""
    return _f1(confusion, labels=None)


def square(flat: Sequence[int]) -> np.ndarray:
    """Counts [C, C] from their C*C numbers, row by row."""
    classes = round(len(flat) ** 0.5)
    return np.array(flat, dtype=np.int64).reshape(classes, classes)


def added(confusions: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The pooled counts of many clients; () where none has any."""
    return tuple(map(sum, zip(*(one for one in confusions if one), strict=True)))


def _f1(confusion: np.ndarray, labels: Sequence[int] | None) -> float:
    from sklearn.metrics import f1_score

    true, found, weight = _cells(confusion)
    return float(f1_score(true, found, labels=labels, average="macro", sample_weight=weight, zero_division=0))


def _cells(confusion: np.ndarray) -> tuple[Any, Any, Any]:
    """(true class, predicted class, how often) of what occurs: as good as all predictions one by one."""
    true, found = np.nonzero(confusion)
    return true, found, confusion[true, found]
