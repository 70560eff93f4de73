"""The picture of spectrum.json: how the eigenvalues of the prompts' Hessians lie, and where each client's lowest gap is.

Above, the density of all clients together, weighted by examples, each Ritz value widened to a Gaussian; log scale, since nearly
all eigenvalues lie next to 0. Below, client by client, the share of eigenvalues above each value: it is flat over a gap, at r_i.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from server_app.canvas import BLUE, GREY, GRID, VERMILLION, canvas, legend
from strategies.ratio import FAINT, NULL
from strategies.spectrum import broadened

POINTS = 2000
WIDTH = 0.006  # of the kernel, standard deviation over the range of eigenvalues


def density_figure(about: str, figures: Mapping[str, Any]) -> Figure:
    """From what the ratio phase left in spectrum.json; about: a line on the run."""
    clients, estimator = figures["clients"], figures["estimator"]
    found = (
        f"{figures['found']} of {len(clients)} found a gap" if estimator == "eigengap" else f"{len(clients)} clients"
    )
    said = f"{about}\nr = {figures['ratio']:.3g} by {estimator} ({found}), after round {figures['round'] - 1}"
    figure, (above, below) = canvas("Spectral density of the prompts' Hessian", said, panels=2, height=7.6)
    _density(above, figures)
    for one in clients:
        _share_above(below, one)
    parameters = max(one["parameters"] for one in clients)
    below.set_yscale("log")
    below.set_ylim(0.3 / parameters, 2)
    below.set_xlabel("Eigenvalue", fontsize=12)
    below.set_ylabel("Share of eigenvalues above", fontsize=12)
    for axes in (above, below):
        axes.grid(color=GRID, linewidth=0.8)
        axes.axvline(0, color="#888888", linewidth=0.8, zorder=1)
    handles = [Line2D([], [], color=BLUE, linewidth=2), Line2D([], [], color=GREY, linewidth=1.5)]
    labels = ["all clients, by examples", "each client"]
    if any(one["gaps_low"] for one in clients):
        handles.append(Line2D([], [], color=VERMILLION, linewidth=3, marker="|", markersize=9, markeredgewidth=2))
        labels.append("lowest gap, at the client's ratio")
    legend(figure, handles, labels)
    return figure


def density_curve(figures: Mapping[str, Any]) -> tuple[list[float], list[float], float]:
    """Values of spectrum.json's range, the density of eigenvalues there, and the density below which there is none."""
    clients = figures["clients"]
    n = sum(one["examples"] for one in clients)
    theta = np.concatenate([one["theta"] for one in clients])
    weight = np.concatenate([np.asarray(one["weight"]) * one["examples"] / n for one in clients])
    width = WIDTH * (float(np.ptp(theta)) or max(1e-12, float(np.abs(theta).max())))
    points = np.linspace(theta.min() - 5 * width, theta.max() + 5 * width, POINTS)
    density = broadened(theta, weight, points, width**2)
    return points.tolist(), density.tolist(), _one_eigenvalue(figures, width) / 3


def share_above(client: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """A client's values, falling, and the share of eigenvalues above each; None where none counts.

    Over what eigengap counts: not the null space, nor Ritz values of hardly any weight.
    """
    theta, weight = np.asarray(client["theta"]), np.asarray(client["weight"])
    counted = (np.abs(theta) > NULL * np.abs(theta).max()) & (weight > FAINT / client["parameters"])
    if not counted.any():
        return None
    theta, weight = theta[counted], weight[counted] / weight[counted].sum()
    order = np.argsort(theta)[::-1]
    above = np.concatenate([[FAINT / client["parameters"]], np.cumsum(weight[order])])
    return [float(theta.max()), *theta[order].tolist()], above.tolist()


def _density(axes: Axes, figures: Mapping[str, Any]) -> None:
    points, density, floor = density_curve(figures)
    axes.plot(points, density, color=BLUE, linewidth=1.8, zorder=3)
    axes.set_yscale("log")
    axes.set_ylim(floor, 3 * max(density))
    axes.set_xlim(points[0], points[-1])
    axes.set_ylabel("Density", fontsize=12)


def _one_eigenvalue(figures: Mapping[str, Any], width: float) -> float:
    """The peak of a single eigenvalue of the smallest client: nothing below it is one."""
    clients = figures["clients"]
    n = sum(one["examples"] for one in clients)
    share = min(one["examples"] / n / one["parameters"] for one in clients)
    return float(share / (width * np.sqrt(2 * np.pi)))


def _share_above(axes: Axes, client: Mapping[str, Any]) -> None:
    curve = share_above(client)
    if curve is None:
        return
    axes.step(*curve, where="post", color=GREY, linewidth=1.2, zorder=2)
    if client["gaps_low"]:
        gap = [client["gaps_low"][0], client["gaps_high"][0]]
        axes.plot(gap, [client["ratio"]] * 2, color=VERMILLION, linewidth=2.5, marker="|", markersize=9, zorder=4)
