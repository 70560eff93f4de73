"""A client's evaluation as a record: counts, sums of losses, and confusion matrices where a metric needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from federation.messages import Evaluation, MessageError
from federation.record_fields import config, from_record, get_list


def write_evaluation(evaluation: Evaluation) -> ConfigRecord:
    """Without the matrices that are not known: a run that needs none sends nothing in their place."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(evaluation).items()}
    return ConfigRecord({name: value for name, value in values.items() if value != []})


def read_evaluation(content: RecordDict, client_record: str, classes: int | None, shared_too: bool) -> Evaluation:
    """Losses may be infinite or NaN, as those of a model that diverged are; counts may not be impossible."""
    record = config(content, client_record.replace("client.", "evaluation.", 1))
    found = from_record(Evaluation, record)
    if not (0 <= found.correct <= found.examples and 0 <= found.shared_correct <= found.examples):
        raise MessageError(f"{found.correct} and {found.shared_correct} of {found.examples} examples are right")
    if found.loss_sum < 0 or found.shared_loss_sum < 0:
        raise MessageError(f"losses of {found.loss_sum} and {found.shared_loss_sum}")
    pairs = (("confusion", True, found.correct), ("shared_confusion", shared_too, found.shared_correct))
    for key, wanted, correct in pairs:
        if wanted and classes is not None:
            found = replace(found, **{key: _confusion(record, key, classes, found.examples, correct)})
        elif key in record:
            raise MessageError(f"{key} was not asked for")
    return found


def _confusion(record: Mapping[str, Any], key: str, classes: int, examples: int, correct: int) -> tuple[int, ...]:
    counts = tuple(get_list(record, key, int))
    if len(counts) != classes * classes or min(counts) < 0:
        raise MessageError(f"{key} is not {classes} times {classes} counts of at least 0")
    if sum(counts) != examples or sum(counts[:: classes + 1]) != correct:
        right = f"{sum(counts[:: classes + 1])} of {sum(counts)}"
        raise MessageError(f"by {key} {right} examples are right, and not {correct} of {examples}")
    return counts
