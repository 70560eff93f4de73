"""The methods of `experiments.settling`: a line is some settings, and the point at which the equations say that they settle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from experiments.quadratics import Quadratics, four_clients, line, settings
from federation.settings import Scalar

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
    two, mu = "2 of 4 clients a round", f"\N{GREEK SMALL LETTER MU} = {MU:g}"
    decayed = "all 5 clients; learning rate 0.5 x 0.97^round (0.2 with shared moments)"
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
