"""What the page is made from: everything that a run's folder holds, whatever of it there is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.metrics import metric_of
from federation.resuming import FACTS
from server_app.run_folder import METRICS, SETTINGS, SPECTRUM, SUMMARY, read_history, run_name

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """The files of a run's folder; a file that is not there is empty."""

    folder: Path
    settings: Figures
    facts: Figures
    summary: Figures
    history: list[dict[str, Any]]
    spectrum: Figures

    @property
    def name(self) -> str:
        """The run's, wherever its folder lies now."""
        return run_name(self.folder, self.summary)

    @property
    def final(self) -> Figures:
        """Figures of the end; empty for a run that was cut short."""
        return self.summary.get("final") or {}

    @property
    def metric(self) -> str:
        """Its figure."""
        return metric_of(self.summary)

    @property
    def trained(self) -> list[dict[str, Any]]:
        """The lines of rounds, without that of the state before training."""
        return [line for line in self.history if line.get("down_detail") is not None]


def read_run(folder: Path) -> Run:
    """All of it.

    Raises:
        ValueError: a file is damaged.
    """
    files = {name: _read(folder / name) for name in (SETTINGS, FACTS, SUMMARY, SPECTRUM)}
    history = read_history(folder) if (folder / METRICS).exists() else []
    return Run(folder, files[SETTINGS], files[FACTS], files[SUMMARY], history, files[SPECTRUM])


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash for one that is not there."""
    return "-" if value is None else f"{value:.{digits}f}"


def short(name: object) -> str:
    """A folder or file by its last part; a hub name as it is."""
    text = str(name)
    return Path(text).name if text.startswith("/") else text


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf8"))) if path.exists() else {}
