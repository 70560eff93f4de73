"""Where each method settles, on quadratics whose answer is known (sections 2.4, 2.5, 2.6 and 5 of docs/ALGORITHMS.md).

    python -m experiments.settling

Real local updates, real fold and step. A line is some settings; its point is where the equations say that it settles. Where x
comes to rest, its end is compared with the point; where sampling keeps it moving, its mean over the last three quarters of the
rounds and over the seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.machine import IMAGES, RESULTS, facts, write
from experiments.quadratics import Federation, Quadratics, distance, four_clients, jitter, line, settings
from experiments.settling_plot import draw
from federation.settings import Scalar, Settings
from strategies.released import Released

MODULE = "experiments.settling"
AT_REST = 1e-3  # of jitter
EVERY = 5  # rounds between the figures that are kept
MU = 3.0

Parts = Mapping[str, Scalar]


@dataclass(frozen=True)
class Line:
    """One method.

    Attributes:
        label: its name.
        parts: the settings that are not those of `experiments.quadratics.settings`; underscores for hyphens.
        point: which of its panel's points it settles at; "" where none is known.
        per_round: clients sampled; None: all.
        decay: of the device learning rate, by round.
    """

    label: str
    parts: Parts
    point: str = ""
    per_round: int | None = None
    decay: float = 1.0


@dataclass(frozen=True)
class Panel:
    """Lines on one problem.

    Attributes:
        title, about: its heading.
        points: name -> x, where a line may settle.
        controls: whether the largest c_i is shown too.
    """

    title: str
    about: str
    problem: Quadratics
    rounds: int
    points: Mapping[str, Tensor]
    lines: Sequence[Line]
    controls: bool = False


def panels() -> list[Panel]:
    """What is measured."""
    plane, on_line = four_clients(), line((30, 25, 10, 20, 15), (1, 1, 1, 6, 2))
    eta = settings().local.learning_rate
    sampled = plane.expected_weights(2)
    points = {
        "optimum": plane.optimum(),
        "all clients' Delta_i cancel": plane.averaging_point(plane.shares, eta),
        "sampled Delta_i cancel": plane.averaging_point(sampled, eta),
        "all clients' Delta_i/K_i cancel": plane.averaging_point(plane.shares, eta, divided=True),
        "sampled Delta_i/K_i cancel": plane.averaging_point(sampled, eta, divided=True),
        "all clients' pulled Delta_i cancel": plane.proximal_point(plane.shares, eta, MU),
        "sampled pulled Delta_i cancel": plane.proximal_point(sampled, eta, MU),
    }
    medians = {
        "optimum": on_line.optimum(),
        "median by n_i": on_line.median(on_line.shares),
        "median by n_i K_i": on_line.median(on_line.step_shares()),
    }
    two, mu = "2 of 4 clients a round", "\N{GREEK SMALL LETTER MU} = 3"
    decayed = "all 5 clients, restarted each round; learning rate 0.5 x 0.97^round, with shared moments 0.2"
    unreset = f"{two}, with Adam that never restarts"
    return [
        Panel("SGD: corrections of client drift", two, plane, 300, points, _corrections()),
        Panel(f"SGD: step-normalised, and FedProx ({mu})", two, plane, 300, points, _weighted()),
        Panel("Server optimisers, with device correction", two, plane, 500, points, _optimizers()),
        Panel("Adam on the devices", decayed, on_line, 400, medians, _adam()),
        Panel("The released arithmetic", unreset, plane, 600, points, _released(), controls=True),
    ]


def _corrections() -> list[Line]:
    return [
        Line("none", {}, "sampled Delta_i cancel", 2),
        Line("server", {"drift_correction": "server"}, "all clients' Delta_i cancel", 2),
        Line("device", {"drift_correction": "device"}, "optimum", 2),
    ]


def _weighted() -> list[Line]:
    normalised, prox = {"step_normalised": True}, {"proximal": MU}
    server, device = {"drift_correction": "server"}, {"drift_correction": "device"}
    return [
        Line("none, step-normalised", normalised, "sampled Delta_i/K_i cancel", 2),
        Line("server, step-normalised", {**normalised, **server}, "all clients' Delta_i/K_i cancel", 2),
        Line("device, step-normalised", {**normalised, **device}, "optimum", 2),
        Line("FedProx", prox, "sampled pulled Delta_i cancel", 2),
        Line("FedProx, server", {**prox, **server}, "all clients' pulled Delta_i cancel", 2),
        Line("FedProx, device", {**prox, **device}, "optimum", 2),
    ]


def _optimizers() -> list[Line]:
    """eta_s and tau are chosen so that each settles: a bad choice need not (docs/METHODS.md)."""
    adaptive: Parts = {"server_momentum": 0.9, "server_adaptivity": 0.1}
    numbers: dict[str, Parts] = {
        "none": {},
        "momentum": {"server_momentum": 0.9},
        "heavy-ball": {"server_momentum": 0.9, "server_learning_rate": 0.2},
        "adam": {**adaptive, "server_learning_rate": 0.1},
        "yogi": {**adaptive, "server_learning_rate": 0.1},
        "adagrad": {**adaptive, "server_learning_rate": 0.5},
    }
    return [
        Line(name, {"server_optimizer": name, "drift_correction": "device", **own}, "optimum", 2)
        for name, own in numbers.items()
    ]


def _adam() -> list[Line]:
    adam: Parts = {"device_optimizer": "adam", "learning_rate": 0.5}
    device: Parts = {**adam, "drift_correction": "device"}
    shared: Parts = {**device, "device_second_moment": "shared", "learning_rate": 0.2}
    return [
        Line("none", adam, "median by n_i K_i", decay=0.97),
        Line("server", {**adam, "drift_correction": "server"}, "median by n_i K_i", decay=0.97),
        Line("device", device, "median by n_i", decay=0.97),
        Line("device, never restarted", {**device, "restart_moments": False}, "median by n_i", decay=0.97),
        Line("device, shared moments", shared, "optimum"),
        Line("shared moments, 3 of 5", shared, "optimum", 3),
    ]


def _released() -> list[Line]:
    """At the published learning rates, at a hundredth of the server's, and device correction on the same devices."""
    adam: Parts = {"device_optimizer": "adam", "restart_moments": False, "learning_rate": 0.04}
    released: Parts = {**adam, "variant": "released", "server_optimizer": "none", "server_learning_rate": 0.05}
    return [
        Line("released", released, per_round=2),
        Line("released-aliased", {**released, "variant": "released-aliased"}, per_round=2),
        Line("released, eta_s/100", {**released, "server_learning_rate": 0.0005}, per_round=2),
        Line("device correction", {**adam, "drift_correction": "device"}, per_round=2),
    ]


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
        lines.append(f"  {'':25} {'settles where':36} {'to optimum':>10} {'to point':>9} {'std error':>9} {'jitter':>9}")
        lines += [_row(one) for one in panel["lines"]]
        if panel["controls"]:
            lines.append("  largest control variate of any client and seed, at the end")
            lines += [f"  {one['label']:25} {max(c[-1] for c in one['largest_controls']):.1f}" for one in panel["lines"]]
    return "\n".join(lines)


def _row(one: Mapping[str, Any]) -> str:
    mark = " " if one["at_rest"] else "~"
    to_point = "-" if one["distance_to_point"] is None else f"{mark}{one['distance_to_point']:.1e}"
    to_optimum = f"{mark}{one['distance_to_optimum']:.1e}"
    error = "-" if one["at_rest"] or not one["point"] else f"{one['standard_error']:.1e}"
    return f"  {one['label']:25} {one['point'] or '-':36} {to_optimum:>10} {to_point:>9} {error:>9} {one['jitter']:9.1e}"


def main() -> None:
    """Measures, prints a table, writes results/settling/figures.json and docs/images/settling.png."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="of sampling")
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
