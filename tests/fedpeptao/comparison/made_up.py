"""Grids and raw files made by hand, for tests of what is read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedpeptao.comparison.grid import Cell
from fedpeptao.comparison.raw import COMPLETED, FIGURES, Point, Result, write_raw

METHODS: dict[str, Any] = {"ours": {}, "all layers": {"layers": "all", "drift-correction": "none"}}


def write_yaml(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf8")
    return path


def point(number: int, personalised: float, size: int = 0, **more: Any) -> Point:
    """An evaluation; a third of the bytes came up."""
    given: dict[str, Any] = {"shared": personalised - 0.1, "global_test": personalised - 0.2, "evaluation": 0, **more}
    return Point(number, personalised, down=size - size // 3, up=size // 3, **given)


def result(cell: Cell, points: Sequence[Point], **more: Any) -> Result:
    """A whole raw file of a cell; more: of its end, but for `source` and `metric`."""
    made = {
        **{"method": cell.method, "task": cell.task, "alpha": cell.alpha, "seed": cell.seed, "rate": cell.rate},
        **{"metric": more.pop("metric", "accuracy"), "figures": FIGURES, "code": "c0de"},
        **{"source": more.pop("source", None), "data": {"sha256": f"rows of seed {cell.seed}"}},
        **{"versions": {"python": "3.11.7", "torch": "2.13.0"}, "cpu": "a CPU", "settings": dict(cell.settings)},
    }
    clients = {"examples": [10, 10], "personalised": [5, 5], "shared": [4, 4]}
    end = {"status": COMPLETED, "why": None, "commonest_label": 0.25, "clients": clients, **more}
    return Result(made, tuple(points), end)


def fill(cell: Cell, points: Sequence[Point], **more: Any) -> None:
    write_raw(cell.path, result(cell, points, **more))
