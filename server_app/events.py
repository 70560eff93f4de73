"""A round's figures as TensorBoard scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from federation.metrics import NAMES, figure_key

_SCORED = {
    "personalised": "personalised",
    "global": "global",
    "all_personalised": "all_clients_personalised",
    "all_shared": "all_clients_shared",
}
_SCORES = {figure_key(whose, metric): f"{metric}/{place}" for metric in NAMES for whose, place in _SCORED.items()}
_TAGS = {
    **_SCORES,
    "train_loss": "loss/train",
    "personalised_loss": "loss/personalised",
    "global_loss": "loss/global",
    "update_norm": "server/update_norm",
    "accepted": "server/accepted_clients",
    "down_bytes": "traffic/down_bytes",
    "up_bytes": "traffic/up_bytes",
    "evaluation_bytes": "traffic/evaluation_bytes",
    "cumulative_bytes": "traffic/cumulative_bytes",
    "seconds": "server/seconds",
}


def measured_before(key: str) -> bool:
    """Whether a figure in round t's line belongs to the state after round t - 1: clients evaluate what they receive."""
    return key.startswith("personalised_")


class Events:
    """Writes scalars by round and, for accuracies and other metrics, also by traffic so far.

    TensorBoard's steps are whole numbers: traffic is in kilobytes, since a small model's round is less
    than a megabyte.

    Args:
        folder: of the event files.
        before: the lines of a run that goes on; events of rounds after those, which will run again, are forgotten.
    """

    def __init__(self, folder: Path, before: Sequence[Mapping[str, Any]] = ()) -> None:
        last = before[-1] if before else {}
        self._writer = SummaryWriter(str(folder), purge_step=last["round"] + 1 if last else None)
        self._bytes_before = last.get("cumulative_bytes") or 0

    def add(self, line: Mapping[str, Any]) -> None:
        """Adds one line of metrics.jsonl; lines come in the order of rounds."""
        bytes_now = line.get("cumulative_bytes") or 0
        for key, tag in _TAGS.items():
            value = line.get(key)
            if value is None:
                continue
            early = measured_before(key)
            self._writer.add_scalar(tag, value, line["round"] - early)
            if key in _SCORES:
                traffic = self._bytes_before if early else bytes_now
                self._writer.add_scalar(tag.replace("/", "_by_kilobytes/"), value, round(traffic / 1000))
        self._bytes_before = bytes_now
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()
