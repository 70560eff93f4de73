"""Grids and raw files made by hand, for tests of what is read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedpeptao.comparison.grid import Cell, ComparisonGrid
from fedpeptao.comparison.grid_files import read_grid
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
    """A whole raw file of a cell; more: of its end, but for `source`, `metric`, `cpu` and `clock`."""
    made = {
        **{"method": cell.method, "task": cell.task, "alpha": cell.alpha, "seed": cell.seed, "rate": cell.rate},
        **{"metric": more.pop("metric", "accuracy"), "figures": FIGURES, "code": "c0de"},
        **{"source": more.pop("source", None), "data": {"sha256": f"rows of seed {cell.seed}"}},
        **{"cpu": more.pop("cpu", "a CPU"), "clock": more.pop("clock", None)},
        **{"versions": {"python": "3.11.7", "torch": "2.13.0"}, "settings": dict(cell.settings)},
    }
    clients = {"examples": [10, 10], "personalised": [5, 5], "shared": [4, 4]}
    end = {"status": COMPLETED, "why": None, "commonest_label": 0.25, "clients": clients, **more}
    return Result(made, tuple(points), end)


def fill(cell: Cell, points: Sequence[Point], **more: Any) -> None:
    write_raw(cell.path, result(cell, points, **more))


SHARED: dict[str, Any] = {
    "alone": {"title": "Alone", "role": "floor", "settings": {"rounds": 0}},
    "reference": {"title": "Reference", "settings": {"layers": "all"}},
    "ours": {"title": "Ours"},
    "pooled": {
        "title": "Pooled",
        "role": "ceiling",
        "skewed": False,
        "settings": {"clients": 1, "clients-per-round": 1},
    },
}
MB = 1_000_000


def make(folder: Path, seeds: list[int], **more: Any) -> ComparisonGrid:
    write_yaml(folder / "methods.yaml", SHARED)
    (folder / "page.md").write_text("Before\n<!-- g -->\nold\n<!-- /g -->\nAfter\n", encoding="utf8")
    report = {"page": "page.md", "reference": "reference", "target": 0.5}
    content = {"methods": list(SHARED), "tasks": {"t": {}}, "skews": {0.3: seeds}, "report": report, **more}
    return read_grid(write_yaml(folder / "g.yaml", content))


def fill_seed(grid: ComparisonGrid, seed: int, more: float = 0.0) -> None:
    """The reference: .2, .4, .6, .8 at rounds 2, 4, 6, 8 and 10, 20, 30, 40 MB; ours: .1 ahead of it, at half the bytes."""

    def run(ahead: float, size: int) -> list[Any]:
        told = {"seconds": 10.0, "side_by_side": 1.0}
        return [
            point(n, 0.1 * n + ahead, n * size, **{key: value * n for key, value in told.items()}) for n in (2, 4, 6, 8)
        ]

    fill(grid.cell("reference", "t", 0.3, seed), run(0.0, 5 * MB))
    fill(grid.cell("ours", "t", 0.3, seed), run(0.1 + more, 5 * MB // 2))
    fill(grid.cell("alone", "t", 0.3, seed), [point(0, 0.35)])
    fill(
        grid.cell("pooled", "t", 0.3, seed),
        [point(3, 0.95, 40 * MB + 9)],
        clients={"examples": [20]},
        commonest_label=0.1,
    )
