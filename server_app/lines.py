"""What stands in a line of metrics.jsonl: its keys, and the figures that are pooled over clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from federation.evaluation import Counts
from federation.messages import Evaluation
from federation.metrics import added, figure_key

FIGURES = (
    "round",
    "warm_up",
    "train_loss",
    "data_share",
    "personalised_accuracy",
    "personalised_loss",
    "personalised_examples",
    "global_accuracy",
    "global_loss",
    "all_personalised_accuracy",
    "all_shared_accuracy",
    "down_bytes",
    "up_bytes",
    "down_detail",
    "up_detail",
    "evaluation_bytes",
    "clients",
    "accepted",
    "failed",
    "missing",
    "dropped",
    "refused",
    "left_out",
    "late",
    "attempts",
    "void",
    "evaluation_failed",
    "evaluation_missing",
    "update_norm",
    "seconds",
    "cumulative_bytes",
)
"""Keys of every line of metrics.jsonl; null where a round has no such figure."""
SCORED = ("personalised", "global", "all_personalised", "all_shared")
"""Whose accuracy is among them; where the run's metric is another one, each has a sister of that name."""


def line_figures(metric: str) -> tuple[str, ...]:
    """FIGURES, and the sisters."""
    sisters = tuple(figure_key(whose, metric) for whose in SCORED)
    return FIGURES + tuple(key for key in sisters if key not in FIGURES)


def pooled_personalised(evaluations: Iterable[Evaluation]) -> Counts:
    """Each client's shard with its own model, pooled."""
    counts = list(evaluations)
    return Counts(
        sum(c.examples for c in counts),
        sum(c.correct for c in counts),
        sum(c.loss_sum for c in counts),
        added(c.confusion for c in counts),
    )


def pooled_shared(evaluations: Iterable[Evaluation]) -> Counts:
    """Each client's shard with the shared model, pooled."""
    counts = list(evaluations)
    return Counts(
        sum(c.examples for c in counts),
        sum(c.shared_correct for c in counts),
        sum(c.shared_loss_sum for c in counts),
        added(c.shared_confusion for c in counts),
    )


def traffic_figures(down: Counter[str], up: Counter[str]) -> dict[str, Any]:
    """Bytes of a round's training, whole and by kind."""
    return {
        "down_bytes": down.total(),
        "up_bytes": up.total(),
        "down_detail": dict(sorted(down.items())),
        "up_detail": dict(sorted(up.items())),
    }


def by_client(counts: Mapping[int, int]) -> dict[str, int]:
    """With clients as JSON has keys."""
    return {str(client): count for client, count in sorted(counts.items())}
