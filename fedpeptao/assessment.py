"""How well a model does on labelled examples: one matrix of counts, and what follows from it, for people and machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor

from federation.metrics import ACCURACY, NAMES, macro_f1, matthews, score

_CORNER = "true \\ predicted"
_SHOWN = 12  # characters of a label over a column


def assess(
    scores: Tensor, labels: Sequence[str], classes: Sequence[str], loss: float, metric: str = ACCURACY
) -> dict[str, Any]:
    """Figures of class scores [n, classes] against the examples' labels, each one of `classes`.

    Args:
        scores: the highest one is the prediction.
        labels: n.
        classes: in the order of the scores.
        loss: mean, in nats.
        metric: of the run.

    Returns:
        examples, metric, score (by that metric), accuracy, macro_f1 (mean over the classes that occur or are predicted),
        matthews, loss; per_class: label, examples,
        predicted, precision, recall, f1, each None where it is 0/0; confusion: [true][predicted] counts.
    """
    number, every = {label: place for place, label in enumerate(classes)}, list(range(len(classes)))
    true, found = np.array([number[label] for label in labels]), scores.argmax(dim=1).numpy()
    counts = confusion_matrix(true, found, labels=every)
    precision, recall, f1, _ = precision_recall_fscore_support(true, found, labels=every, zero_division=float("nan"))
    return {
        "examples": len(true),
        "metric": metric,
        "score": score(metric, counts),
        "accuracy": float((true == found).mean()),
        "macro_f1": macro_f1(counts),
        "matthews": matthews(counts),
        "loss": loss,
        "per_class": [
            {
                "label": label,
                "examples": int(counts[place].sum()),
                "predicted": int(counts[:, place].sum()),
                "precision": _number(precision[place]),
                "recall": _number(recall[place]),
                "f1": _number(f1[place]),
            }
            for place, label in enumerate(classes)
        ],
        "confusion": counts.tolist(),
    }


def as_table(figures: Mapping[str, Any]) -> str:
    """The figures for people: the run's metric if not accuracy, a line of totals, a line per class, the confusion matrix."""
    head = (
        f"accuracy {figures['accuracy']:.3f}  macro F1 {figures['macro_f1']:.3f}  Matthews {figures['matthews']:.3f}"
        f"  loss {figures['loss']:.3f}  {figures['examples']} examples"
    )
    own = (
        []
        if figures["metric"] == ACCURACY
        else [f"{NAMES[figures['metric']]} {figures['score']:.3f}, the run's metric"]
    )
    return "\n".join([*own, head, "", *_classes(figures), "", *_confusion(figures)])


def _classes(figures: Mapping[str, Any]) -> list[str]:
    rows = figures["per_class"]
    width = max(len("class"), *(len(row["label"]) for row in rows))
    lines = [f"{'class':<{width}}  examples  predicted  precision  recall     F1"]
    for row in rows:
        precision, recall, f1 = (
            "-" if row[key] is None else f"{row[key]:.3f}" for key in ("precision", "recall", "f1")
        )
        lines.append(
            f"{row['label']:<{width}}  {row['examples']:>8}  {row['predicted']:>9}  {precision:>9}  {recall:>6}  {f1:>5}"
        )
    return lines


def _confusion(figures: Mapping[str, Any]) -> list[str]:
    labels = [row["label"] for row in figures["per_class"]]
    width = max(len(_CORNER), *map(len, labels))
    short = [label if len(label) <= _SHOWN else label[: _SHOWN - 1] + "~" for label in labels]
    columns = [max(5, len(name)) for name in short]
    lines = ["  ".join([f"{_CORNER:<{width}}", *(f"{n:>{w}}" for n, w in zip(short, columns, strict=True))])]
    for label, counts in zip(labels, figures["confusion"], strict=True):
        lines.append("  ".join([f"{label:<{width}}", *(f"{n:>{w}}" for n, w in zip(counts, columns, strict=True))]))
    return lines


def _number(value: float) -> float | None:
    return None if value != value else float(value)
