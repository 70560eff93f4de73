"""How a run's folder is closed, whether the run completed, failed or was interrupted: totals, summary, plots, page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation.metrics import ACCURACY, figure_key, metric_of
from server_app import plots
from server_app.console import say
from server_app.report.page import write_report
from server_app.run_folder import SUMMARY, read_history, read_summary, write_json


def close_interrupted(path: Path) -> dict[str, Any]:
    """For whoever stopped a run from outside: what its server did not come to do. A closed folder is left as it is."""
    known = read_summary(path)
    if known.get("status") not in (None, "running"):
        return known
    return finish(path, {**known, "status": "interrupted"})


def finish(path: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Completes the summary from the rounds' lines, writes it, the plots and the page; returns the whole summary."""
    lines = read_history(path)
    known = {**read_summary(path), **summary}
    last = next((line for line in reversed(lines) if line.get("global_accuracy") is not None), {})
    whole: dict[str, Any] = {
        **known,
        "rounds": max((line["round"] for line in lines), default=0),
        "final": {
            **(known.get("final") or {}),
            **{key: last.get(key) for key in (figure_key("global", one) for one in (ACCURACY, metric_of(known)))},
            "global_loss": last.get("global_loss"),
            "global_round": last.get("round"),
        },
        "bytes": {
            "down": _total(lines, "down_bytes"),
            "up": _total(lines, "up_bytes"),
            "evaluation": _total(lines, "evaluation_bytes"),
        },
        "refused": next((line["refused"] for line in reversed(lines) if line.get("refused")), {}),
        "left_out": next((line["left_out"] for line in reversed(lines) if line.get("left_out") is not None), []),
        "paths": {"run_folder": path},
    }
    write_json(path / SUMMARY, whole)
    plots.draw(path, say if whole["status"] == "completed" else _silently)  # a run cut short has no need to explain
    write_report(path)
    return whole


def _silently(line: str) -> None:
    """Tells nobody."""


def _total(lines: list[dict[str, Any]], key: str) -> int:
    return sum(line.get(key) or 0 for line in lines)
