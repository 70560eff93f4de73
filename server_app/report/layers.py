"""Which layers travel, and why: mean scores, what order each client's scores give, and the spectra behind the ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from server_app.density_plot import density_curve, share_above
from server_app.report.facts import Run, number
from server_app.report.markup import Element, folded, table, tag
from server_app.report.plot import Axis, Frame, Key, axis, log_axis
from server_app.report.sections import figure, section

MOST_CLIENTS = 200  # in the heat map: so many columns can still be told apart
LEVELS = 7
_ROW = 20


def layers_section(run: Run) -> Element:
    """Scores, heat map, and spectra where the ratio was estimated."""
    plots = [_scores(run), _heat_map(run), *_spectra(run)]
    return section("layers", "Layers", plots, _table(run), _spectrum_table(run))


def _scores(run: Run) -> Element | None:
    scores, chosen = run.summary.get("layer_scores"), run.summary.get("layers") or []
    if not scores:
        return None
    x = Axis("layer (0 is the lowest)", -0.5, len(scores) - 0.5, _layer_ticks(len(scores)))
    others = "no prompts" if run.settings.get("unselected-prompts") == "none" else "prompts stay on the client"
    keys = [Key("chosen: prompts travel", "blue", "square"), Key(others, "grey", "square")]
    frame = Frame("Score of each layer", x, axis("mean score", 0, max(0.0, *scores)), keys)
    for layer, score in enumerate(scores):
        frame.bar(layer - 0.5, layer + 0.5, 0, max(score, 0), f"fill {'blue' if layer in chosen else 'grey'}", gap=1.5)
        where = "chosen" if layer in chosen else "not chosen"
        frame.band(layer - 0.5, layer + 0.5, f"layer {layer}, {where}\nscore {score:.3f}")
    return figure("Score of each layer", frame.element, _how_far_apart(run, scores, chosen))


def _layer_ticks(layers: int) -> tuple[tuple[float, str], ...]:
    return tuple((float(layer), str(layer)) for layer in range(0, layers, 1 if layers <= 16 else 4))


def _how_far_apart(run: Run, scores: Sequence[float], chosen: Sequence[int]) -> str:
    order = {"lowest": "The lowest scores are chosen", "random": "The choice is random"}
    text = order.get(str(run.settings.get("score-order")), "The highest scores are chosen")
    left = [score for layer, score in enumerate(scores) if layer not in chosen]
    if not left or not chosen or run.settings.get("score-order") == "random":
        return f"{text}."
    inside = [scores[layer] for layer in chosen]
    gap = min(inside) - max(left) if min(inside) >= max(left) else min(left) - max(inside)
    return (
        f"{text}, {len(chosen)} of {len(scores)}. The worst chosen and the best other layer differ by "
        f"{abs(gap) / max(map(abs, scores)):.2%} of the largest score; the axis begins at 0 on purpose."
    )


def _heat_map(run: Run) -> Element | None:
    """Rows are layers, columns clients: the darker, the earlier this client's own scores would choose the layer."""
    scored = [(client, one) for client, one in (run.summary.get("clients") or {}).items() if one.get("scores")]
    if not scored:
        return None
    scored.sort(key=lambda pair: (pair[1]["examples"], int(pair[0])))
    shown = scored[:: -(-len(scored) // MOST_CLIENTS)]
    layers, chosen = len(shown[0][1]["scores"]), set(run.summary.get("layers") or [])
    sign = 1 if run.settings.get("score-order") == "lowest" else -1
    cells: list[list[str]] = [[] for _ in range(LEVELS)]
    bands = []
    for column, (client, one) in enumerate(shown):
        order = sorted(range(layers), key=lambda layer: (sign * one["scores"][layer], layer))
        for rank, layer in enumerate(order):
            cells[round(rank * (LEVELS - 1) / max(1, layers - 1))].append(f"M{column} {layers - 1 - layer}h1v1h-1z")
        tip = f"client {client}, {one['examples']} examples\nits order: {', '.join(map(str, order))}"
        bands.append(tag("rect", x=column, y=0, width=1, height=layers, class_="band", data_tip=tip))
    drawing = tag(
        "svg",
        (tag("path", d="".join(paths), class_=f"heat{level}") for level, paths in enumerate(cells) if paths),
        bands,
        class_="plot stretched",
        viewBox=f"0 0 {len(shown)} {layers}",
        preserveAspectRatio="none",
        style=f"height:{_ROW * layers}px",
        role="img",
        aria_label="Order of the layers by each client's own scores",
    )
    names = [
        tag("span", f"{'● ' if layer in chosen else ''}{layer}", class_="chosen" if layer in chosen else None)
        for layer in reversed(range(layers))
    ]
    some = f" ({len(shown)} of {len(scored)} clients are shown)" if len(shown) < len(scored) else ""
    body = tag(
        "div",
        tag("div", names, class_="rows", style=f"grid-auto-rows:{_ROW}px", aria_hidden="true"),
        drawing,
        tag("span"),
        tag("div", tag("span", "fewest examples"), tag("span", f"clients{some}"), tag("span", "most"), class_="ends"),
        tag("span"),
        tag("div", tag("span", "chosen first"), tag("span", "", class_="ramp"), tag("span", "last"), class_="ends key"),
        class_="heat",
    )
    caption = "A column is a client, a row a layer (●: chosen). A row of one colour means that clients agree."
    return figure("Order of the layers, client by client", body, caption, wide=True)


def _spectra(run: Run) -> list[Element | None]:
    """The density of eigenvalues, and the share above each value."""
    if not run.spectrum.get("clients"):
        return []
    values, density, floor = density_curve(run.spectrum)
    x = _eigenvalues(values[0], values[-1])
    above = Frame(
        "Spectral density", x, log_axis("density", floor, 3 * max(density)), [Key("all clients", "blue", "line")]
    )
    above.line(values, [max(y, floor) for y in density], "blue")
    clients = run.spectrum["clients"]
    low = 0.3 / max(one["parameters"] for one in clients)
    keys = [Key("each client", "grey", "line"), Key("its lowest gap", "orange", "line")]
    below = Frame("Share of eigenvalues above", x, log_axis("share above", low, 1.0), keys)
    for one in clients:
        curve = share_above(one)
        if curve is not None:
            below.line(*curve, "grey thin", stepped=True)
        if one["gaps_low"]:
            below.line([one["gaps_low"][0], one["gaps_high"][0]], [one["ratio"]] * 2, "orange")
    text = f"Eigenvalues of the prompts' Hessian, weighted by the clients' examples. {_ratio_text(run.spectrum)}"
    return [
        figure("Spectral density", above.element, text),
        figure("Share of eigenvalues above", below.element, "Flat over a gap, at the height of the client's ratio."),
    ]


def _eigenvalues(low: float, high: float) -> Axis:
    """In units of a power of ten, where they are far from 1."""
    power = math.floor(math.log10(max(abs(low), abs(high))))
    if -3 < power < 4:
        return axis("eigenvalue", low, high, tight=True)
    return axis(f"eigenvalue (1e{power})", low, high, unit=10.0**power, tight=True)


def _ratio_text(spectrum: Any) -> str:
    found = f"{spectrum['found']} of {len(spectrum['clients'])} clients found a gap"
    how = found if spectrum["estimator"] == "eigengap" else f"{len(spectrum['clients'])} clients"
    where = f"at the prompts after round {spectrum['round'] - 1}"
    return f"Ratio {spectrum['ratio']:.3g} by {spectrum['estimator']} ({how}), {where}."


def _table(run: Run) -> Element | None:
    scores, chosen = run.summary.get("layer_scores"), run.summary.get("layers") or []
    if not scores:
        by_hand = ", ".join(map(str, chosen))
        return tag("p", f"Layers {by_hand} travel; they were named by hand, without scores.") if chosen else None
    ranked = sorted(range(len(scores)), key=lambda layer: -scores[layer])
    rows = [
        (layer, number(scores[layer], 4), ranked.index(layer) + 1, "yes" if layer in chosen else "no")
        for layer in range(len(scores))
    ]
    return folded(
        "Scores by layer", table(("layer", "score", "rank, highest first", "chosen"), rows, "Score of each layer")
    )


def _spectrum_table(run: Run) -> Element | None:
    if not run.spectrum.get("clients"):
        return None
    rows = []
    for one in run.spectrum["clients"]:
        gap = f"{one['gaps_low'][0]:.2e} to {one['gaps_high'][0]:.2e}" if one["gaps_low"] else "none"
        extremes = (f"{min(one['theta']):.2e}", f"{max(one['theta']):.2e}", f"{one['lipschitz']:.2e}")
        rows.append((one["client"], one["examples"], *extremes, gap, f"{one['ratio']:.3g}"))
    head = ("client", "examples", "least eigenvalue", "largest", "Lipschitz", "lowest gap", "ratio")
    return folded("Spectra by client", table(head, rows, "Spectra behind the ratio"))
