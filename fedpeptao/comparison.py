"""A grid of methods and seeds, run in this process, and the tables made from its raw figures alone.

A method is a name and some settings. Each cell leaves its metrics and summary under results/; a cell that is there with the same
settings is not run again, so a grid can be stopped and called again.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from client_app.app import app as client_app
from federation.grids import InProcessGrid
from federation.metrics import ACCURACY, NAMES, figure_key, metric_of
from federation.settings import Scalar, defaults, parse
from fedpeptao.errors import InputError
from server_app.run import run
from server_app.run_folder import FACTS, METRICS, SETTINGS, SUMMARY, read_history, write_json

KEPT = (METRICS, SUMMARY, SETTINGS, FACTS)
MEASURES = {
    "all_personalised": "personalised",
    "all_shared": "shared model, clients' shards",
    "global": "shared model, test set",
}


@dataclass(frozen=True)
class ComparisonGrid:
    """What is compared.

    Attributes:
        path: the grid file; cells lie in a folder beside it, of its name.
        base: settings of all cells that are not the defaults.
        methods: name -> its own settings.
        seeds: of each method.
    """

    path: Path
    base: dict[str, Scalar]
    methods: dict[str, dict[str, Scalar]]
    seeds: list[int]

    def cell(self, method: str, seed: int) -> Path:
        """The folder of one cell's raw figures."""
        return self.path.with_suffix("") / f"{method}-seed{seed}"

    def settings(self, method: str, seed: int) -> dict[str, Scalar]:
        """The complete flat settings of one cell."""
        return {**defaults(), **self.base, **self.methods[method], "seed": seed}


def read_grid(path: Path) -> ComparisonGrid:
    """A grid from a YAML file with the keys base, methods and seeds; InputError if it cannot be used."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf8"))
        grid = ComparisonGrid(path, dict(content["base"] or {}), dict(content["methods"]), list(content["seeds"]))
        for method in grid.methods:
            parse(grid.settings(method, 0))
    except InputError:
        raise
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        mend = "Give a YAML file with base, methods and seeds, such as results/demo.yaml"
        raise InputError("grid", str(path), f"it cannot be read ({type(error).__name__}: {error})", mend) from error
    return grid


def run_cells(grid: ComparisonGrid, seeds: Sequence[int]) -> None:
    """Runs what is not there yet."""
    for seed in seeds:
        for method in grid.methods:
            folder, flat = grid.cell(method, seed), grid.settings(method, seed)
            if _same(folder, flat):
                print(f"{folder} is there", flush=True)
                continue
            print(f"{folder}", flush=True)
            _run_cell(flat, folder)


def table(grid: ComparisonGrid) -> str:
    """Markdown: each measure, by the runs' metric, at equal rounds and equal bytes; mean over seeds, and each seed's figure.

    Figures are those of the last evaluation over all clients at or before the round, or the bytes, that all methods
    reached with that seed.
    """
    history = {
        (method, seed): [line for line in read_history(grid.cell(method, seed)) if _evaluated(line)]
        for method in grid.methods
        for seed in grid.seeds
    }
    reached = {
        key: {seed: min(history[method, seed][-1][key] for method in grid.methods) for seed in grid.seeds}
        for key in ("round", "cumulative_bytes")
    }
    rounds, size = min(reached["round"].values()), min(reached["cumulative_bytes"].values())
    metric = _metric(grid)
    columns = " | ".join(MEASURES.values())
    lines = [f"| method | at | MB | round | {columns} |", "|---" * (4 + len(MEASURES)) + "|"]
    for name, key in ((f"{rounds} rounds", "round"), (f"{size / 1e6:.0f} MB", "cumulative_bytes")):
        for method in grid.methods:
            found = [_last(history[method, seed], key, reached[key][seed]) for seed in grid.seeds]
            cells = [_spread([line[figure_key(whose, metric)] for line in found]) for whose in MEASURES]
            spent = statistics.mean(line["cumulative_bytes"] for line in found) / 1e6
            at = ", ".join(sorted({str(line["round"]) for line in found}))
            lines.append(f"| {method} | {name} | {spent:.0f} | {at} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(grid: ComparisonGrid) -> str:
    """The table, also written beside the cells, with the command that made it."""
    made = f"Made by `fedpeptao compare {grid.path.parent.name}/{grid.path.name}` from the raw figures in this folder."
    metric = _metric(grid)
    figures = "" if metric == ACCURACY else f" Figures are {NAMES[metric]}."
    text = f"{made}\nMean over seeds {grid.seeds}, and each seed's figure.{figures}\n\n{table(grid)}\n"
    (grid.path.with_suffix("") / "TABLE.md").write_text(text, encoding="utf8")
    return text


def _metric(grid: ComparisonGrid) -> str:
    """That of all cells.

    Raises:
        InputError: they have different ones.
    """
    paths = [grid.cell(method, seed) / SUMMARY for method in grid.methods for seed in grid.seeds]
    found = {metric_of(json.loads(path.read_text(encoding="utf8"))) for path in paths if path.exists()}
    if len(found) > 1:
        problem = f"its runs are judged by {' and by '.join(sorted(found))}, which cannot stand in one table"
        raise InputError("grid", str(grid.path), problem, "Give base one metric")
    return next(iter(found), ACCURACY)


def _run_cell(flat: dict[str, Scalar], folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        told = {**flat, "runs-dir": scratch, "run-name": "cell"}
        run(InProcessGrid(client_app, told, nodes=int(flat["clients"])), parse(told))
        folder.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copy(Path(scratch) / "cell" / name, folder / name)
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf8"))
        summary.pop("paths")  # of the scratch folder
        write_json(folder / SUMMARY, summary)
        write_json(folder / SETTINGS, flat)


def _same(folder: Path, flat: dict[str, Scalar]) -> bool:
    """A setting that was added since the cell was made, and is at its default, changes nothing."""
    path = folder / SETTINGS
    return path.exists() and {**defaults(), **json.loads(path.read_text(encoding="utf8"))} == flat


def _evaluated(line: dict[str, Any]) -> bool:
    return line["all_personalised_accuracy"] is not None


def _last(lines: list[dict[str, Any]], key: str, limit: float) -> dict[str, Any]:
    within = [line for line in lines if line[key] <= limit]
    if not within:
        mend = "Evaluate more often, or give the cheapest method more rounds"
        raise InputError("evaluate-every", lines[0]["round"], f"no evaluation by {key} = {limit:g}", mend)
    return within[-1]


def _spread(figures: list[float]) -> str:
    return f"{statistics.mean(figures):.3f} ({', '.join(f'{figure:.3f}' for figure in figures)})"
