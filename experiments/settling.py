"""Where each method settles, on quadratics whose answer is known (sections 2.4, 2.5, 2.6 and 5 of docs/ALGORITHMS.md).

    python -m experiments.settling

Real local updates, real fold and step, on the lines of `settling_lines`. Where x comes to rest, its end is compared with the
point at which the equations say that it settles; where sampling keeps it moving, its mean over the last three quarters of the
rounds and over the seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.machine import IMAGES, RESULTS, facts, write
from experiments.quadratics import Federation, distance, jitter, settings
from experiments.settling_lines import Line, Panel, panels
from experiments.settling_plot import draw
from federation.settings import Settings
from strategies.released import Released

MODULE = "experiments.settling"
AT_REST = 1e-3  # of jitter
EVERY = 5  # rounds between the figures that are kept


def measure(panel: Panel, seeds: int) -> dict[str, Any]:
    """A panel's figures: per line where it settles, and a curve per seed (one only where all clients take part)."""
    optimum = panel.problem.optimum()
    return {
        "title": panel.title,
        "about": panel.about,
        "controls": panel.controls,
        "rounds": list(range(0, panel.rounds + 1, EVERY)),
        "points": {
            name: {"x": x.tolist(), "distance_to_optimum": distance(x, optimum)} for name, x in panel.points.items()
        },
        "lines": [_measure(panel, one, seeds if one.per_round else 1) for one in panel.lines],
    }


def _measure(panel: Panel, one: Line, seeds: int) -> dict[str, Any]:
    runs = [_run(panel, one, seed) for seed in range(seeds)]
    paths = torch.stack([path for path, _ in runs])  # [seeds, rounds, R]
    moves = max(jitter(path) for path in paths)
    ends = paths[:, -1] if moves < AT_REST else paths[:, panel.rounds // 4 :].mean(1)  # [seeds, R]
    settled = ends.mean(0)
    return {
        "label": one.label,
        "settings": {key.replace("_", "-"): value for key, value in one.parts.items()},
        "clients_per_round": one.per_round or len(panel.problem.examples),
        "learning_rate_decay": one.decay,
        "point": one.point,
        "at_rest": moves < AT_REST,
        "x": settled.tolist(),
        "distance_to_optimum": distance(settled, panel.problem.optimum()),
        "distance_to_point": distance(settled, panel.points[one.point]) if one.point else None,
        "standard_error": float(ends.std(0).norm()) / seeds**0.5 if seeds > 1 else None,
        "jitter": moves,
        "distances": [_thinned((path - panel.problem.optimum()).norm(dim=1).tolist()) for path in paths],
        "largest_controls": [_thinned(controls) for _, controls in runs if controls],
    }


def _run(panel: Panel, one: Line, seed: int) -> tuple[Tensor, list[float]]:
    """x [1 + rounds, R], and the largest c_i if it is asked for, before the first round and after each."""
    setup = settings(**one.parts)
    federation = Federation(panel.problem, setup, one.per_round, seed=seed)
    path, controls = [federation.state.x], [0.0] if panel.controls else []
    for number in range(panel.rounds):
        federation.settings = _at(setup, one.decay**number)
        federation.round()
        path.append(federation.state.x)
        if panel.controls:
            controls.append(largest_control(federation))
    return torch.stack(path), controls


def _at(setup: Settings, factor: float) -> Settings:
    return replace(setup, local=replace(setup.local, learning_rate=setup.local.learning_rate * factor))


def largest_control(federation: Federation) -> float:
    """max ||c_i||, of the rows that the released server keeps, or of what the devices keep; 0 where there are none."""
    accepted = federation.state.accepted
    if isinstance(federation.algorithm(), Released):
        rows = [federation.rows.read(client, accepted[client]) for client in accepted]
        return max(float(row.norm()) for row in rows if row is not None)
    return max(float(federation.control(client).norm()) for client in federation.clients)


def _thinned(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values[::EVERY]]


def table(figures: Mapping[str, Any]) -> str:
    """For people: each line's point, its distances and its jitter."""
    lines = ["Distances of x at its end, or (~) of its mean where it does not come to rest"]
    for panel in figures["panels"]:
        lines += ["", f"{panel['title']} ({panel['about']})"]
        lines.append(
            f"  {'':25} {'settles where':36} {'to optimum':>10} {'to point':>9} {'std error':>9} {'jitter':>9}"
        )
        lines += [_row(one) for one in panel["lines"]]
        if panel["controls"]:
            lines.append("  largest control variate of any client and seed, at the end")
            lines += [
                f"  {one['label']:25} {max(c[-1] for c in one['largest_controls']):.1f}" for one in panel["lines"]
            ]
    return "\n".join(lines)


def _row(one: Mapping[str, Any]) -> str:
    mark = " " if one["at_rest"] else "~"
    to_point = "-" if one["distance_to_point"] is None else f"{mark}{one['distance_to_point']:.1e}"
    to_optimum = f"{mark}{one['distance_to_optimum']:.1e}"
    known = one["point"] and not one["at_rest"] and one["standard_error"] is not None
    error = f"{one['standard_error']:.1e}" if known else "-"
    return (
        f"  {one['label']:25} {one['point'] or '-':36} {to_optimum:>10} {to_point:>9} {error:>9} {one['jitter']:9.1e}"
    )


def main() -> None:
    """Measures, prints a table, writes results/settling/figures.json and docs/images/settling.png."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="of sampling")
    parser.add_argument("--results", type=Path, default=RESULTS / "settling", help="folder for the raw figures")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder for the plot")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    measured = [measure(panel, arguments.seeds) for panel in panels()]
    cpu_seconds = time.process_time() - started
    figures = {**facts(MODULE), "seeds": arguments.seeds, "cpu_seconds": cpu_seconds, "panels": measured}
    print(table(figures))
    write(arguments.results / "figures.json", figures)
    arguments.images.mkdir(parents=True, exist_ok=True)
    draw(figures).savefig(arguments.images / "settling.png")
    print(f"plot: {arguments.images / 'settling.png'}")


if __name__ == "__main__":
    main()
