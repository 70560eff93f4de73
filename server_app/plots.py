"""A run's figures as pictures, drawn from its folder alone: also later, and also of a run that was cut short."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from federation.durable import write_atomically
from federation.metrics import NAMES, figure_key, metric_of
from server_app.canvas import BLUE, GREEN, GREY, GRID, SKY, VERMILLION, canvas, legend
from server_app.console import say
from server_app.density_plot import density_figure
from server_app.events import measured_before
from server_app.run_folder import METRICS, SETTINGS, SPECTRUM, SUMMARY, read_history


@dataclass(frozen=True)
class _Series:
    """One figure of metrics.jsonl over the run, and how it looks; of a score the key lacks the metric."""

    key: str
    label: str
    style: Mapping[str, Any]


_PALE = {"color": SKY, "linewidth": 1, "marker": ".", "markersize": 5, "alpha": 0.8}
_BOLD = {"color": BLUE, "linewidth": 2, "marker": "o", "markersize": 7, "markeredgecolor": "white"}
_SCORES = (
    _Series("personalised", "personalised, each round's clients", _PALE),
    _Series("global", "shared model, test set", _BOLD),
    _Series(
        "all_personalised",
        "personalised, all clients",
        {"color": VERMILLION, "linestyle": "none", "marker": "D", "markersize": 9, "markeredgecolor": "white"},
    ),
    _Series(
        "all_shared",
        "shared model, all clients",
        {"color": GREEN, "linestyle": "none", "marker": "^", "markersize": 11, "markeredgecolor": "white"},
    ),
)
_LOSSES = (
    _Series("personalised_loss", "personalised, each round's clients", _PALE),
    _Series("train_loss", "training", {"color": VERMILLION, "linewidth": 2, "marker": "s", "markersize": 4}),
    _Series("global_loss", "shared model, test set", _BOLD),
)


def draw(folder: Path, tell: Callable[[str], None] = say) -> list[Path]:
    """Draws what a run's folder has figures for, and tells what it has none for.

    Returns:
        The PNG files written, of accuracy_by_round, accuracy_by_bytes, loss, layer_scores, and spectral_density where the
        ratio was estimated.
    """
    history = read_history(folder) if (folder / METRICS).exists() else []
    settings, summary = _read(folder / SETTINGS), _read(folder / SUMMARY)
    about = _about(settings, summary, history)
    metric = metric_of(summary)
    name = NAMES[metric][:1].upper() + NAMES[metric][1:]
    scores = [replace(one, key=figure_key(one.key, metric)) for one in _SCORES]
    traffic = "Traffic so far, up plus down, all clients (MB)"
    figures = {
        "accuracy_by_round": _curves(f"{name} by round", about, scores, history, "Round", name),
        "accuracy_by_bytes": _curves(f"{name} by traffic", about, scores, history, traffic, name),
        "loss": _curves("Loss by round", about, _LOSSES, history, "Round", "Cross-entropy (nats)"),
        "layer_scores": _layers(about, settings, summary),
    }
    if (folder / SPECTRUM).exists():
        figures["spectral_density"] = density_figure(about, _read(folder / SPECTRUM))
    written = []
    for name, figure in figures.items():
        if figure is None:
            tell(f"no {name}.png: the run has no figures for it")
            continue
        content = io.BytesIO()
        figure.savefig(content, format="png")
        write_atomically(folder / f"{name}.png", content.getvalue())
        written.append(folder / f"{name}.png")
    return written


def points(history: Sequence[Mapping[str, Any]], key: str, by_traffic: bool) -> tuple[list[float], list[float]]:
    """Where a figure was measured, and its values.

    Args:
        history: the lines of metrics.jsonl.
        key: the figure; the ones that clients measure before they train stand at the round before.
        by_traffic: x in megabytes of training messages up to that state; else in rounds.
    """
    bytes_at = {line["round"]: line.get("cumulative_bytes") or 0 for line in history}
    xs, ys = [], []
    for line in history:
        if line.get(key) is None:
            continue
        at = line["round"] - measured_before(key)
        xs.append(bytes_at.get(at, 0) / 1e6 if by_traffic else at)
        ys.append(line[key])
    return xs, ys


def _curves(
    title: str, about: str, series: Sequence[_Series], history: Sequence[Mapping[str, Any]], x: str, y: str
) -> Figure | None:
    figure, (axes,) = canvas(title, about)
    by_round = x == "Round"
    right, lowest = 1.0, 0.0
    for one in series:
        xs, ys = points(history, one.key, by_traffic=not by_round)
        if ys:
            right, lowest = max(right, *xs), min(lowest, *ys)
            axes.plot(xs, ys, label=one.label, clip_on=False, zorder=3, **one.style)
    if not axes.lines:
        return None
    axes.set_xlabel(x, fontsize=12)
    axes.set_ylabel(y, fontsize=12)
    axes.set_xlim(0, right)
    axes.set_ylim(bottom=1.1 * lowest)  # a Matthews correlation may be negative
    if by_round:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(color=GRID, linewidth=0.8)
    legend(figure, *axes.get_legend_handles_labels())
    return figure


def _layers(about: str, settings: Mapping[str, Any], summary: Mapping[str, Any]) -> Figure | None:
    scores, chosen = summary.get("layer_scores"), summary.get("layers") or []
    if not scores and not chosen:
        return None
    figure, (axes,) = canvas("Layer scores", about)
    heights = [score or 0.0 for score in scores] if scores else [1.0] * (max(chosen) + 1)
    colours = [BLUE if layer in chosen else GREY for layer in range(len(heights))]
    axes.bar(range(len(heights)), heights, color=colours, width=0.75, zorder=3)
    axes.set_xlabel("Layer (0 is the lowest)", fontsize=12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True))
    if scores:
        axes.set_ylabel("Score", fontsize=12)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
    else:
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(0, 1.6)
        axes.text(0.5, 0.85, "no scores: layers given by hand", transform=axes.transAxes, ha="center", fontsize=12)
    others = "without prompts" if settings.get("unselected-prompts") == "none" else "prompts stay on the client"
    handles = [Patch(color=BLUE), Patch(color=GREY)]
    legend(figure, handles, ["chosen: prompts travel", f"not chosen: {others}"])
    return figure


def _about(settings: Mapping[str, Any], summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """Data set, model, clients, skew and seed of a run; and where it ended, if not as planned."""
    skew = "iid" if settings.get("partition") == "iid" else f"alpha {settings.get('alpha')}"
    parts = [
        _short(settings.get("dataset")),
        _short(settings.get("model")),
        f"{settings.get('clients')} clients, {settings.get('clients-per-round')} a round",
        skew,
        f"seed {settings.get('seed')}",
    ]
    if summary.get("status") != "completed":
        last = history[-1]["round"] if history else 0
        parts.append(f"{summary.get('status', 'cut short')} after round {last}")
    whole = [part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts]
    return "\n".join(textwrap.wrap(" | ".join(whole), 90, break_on_hyphens=False))


def _short(name: object) -> str:
    """A folder or file by its last part; a hub name as it is."""
    text = str(name)
    return Path(text).name if text.startswith("/") else text


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf8"))) if path.exists() else {}
