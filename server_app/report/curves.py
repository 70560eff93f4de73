"""Accuracy (or the run's other metric) by round and by traffic, and loss by round: the lines of metrics.jsonl as curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from federation.metrics import ACCURACY, NAMES, figure_key
from server_app.console import bytes_text
from server_app.plots import points
from server_app.report.facts import Run, number
from server_app.report.markup import Element, folded, table
from server_app.report.plot import Frame, Key, axis
from server_app.report.sections import figure, section

_MANY = 24  # points beyond which a line has no marks


@dataclass(frozen=True)
class Curve:
    """One figure of metrics.jsonl, and how it looks; of a score the key lacks the metric."""

    key: str
    text: str
    colour: str
    mark: str

    @property
    def alone(self) -> bool:
        """Whether its points stand without a line: they are few, and far apart."""
        return self.mark in ("diamond", "triangle")


SCORES = (
    Curve("personalised", "personalised, round's clients", "orange", "dots"),
    Curve("global", "shared, test set", "blue", "dot"),
    Curve("all_personalised", "personalised, all clients", "orange", "diamond"),
    Curve("all_shared", "shared, all clients", "green", "triangle"),
)
LOSSES = (
    Curve("personalised_loss", "personalised, round's clients", "orange", "dots"),
    Curve("global_loss", "shared, test set", "blue", "dot"),
    Curve("train_loss", "while training", "green", "line"),
)


def curves_section(run: Run) -> Element:
    """Three plots, and all figures by round."""
    name = NAMES[run.metric]
    title = name[:1].upper() + name[1:]
    scores = [replace(curve, key=figure_key(curve.key, run.metric)) for curve in SCORES]
    plots = [
        figure(
            f"{title} by round",
            _plot(run, f"{title} by round", scores, name, by_traffic=False),
            "Diamonds and triangles are all clients: compare runs by these. The thin line is each round's few clients, before "
            "they train, and jumps with who was sampled.",
        ),
        figure(
            f"{title} by traffic",
            _plot(run, f"{title} by traffic", scores, name, by_traffic=True),
            "The same over what training had sent until then, up plus down, all clients together.",
        ),
        figure(
            "Loss by round",
            _plot(run, "Loss by round", LOSSES, "cross-entropy (nats)", by_traffic=False),
            "Mean cross-entropy. The training loss is taken while clients train, so it lies lower.",
        ),
    ]
    return section("curves", f"{title} and loss", plots, _table(run))


def _plot(run: Run, title: str, curves: Sequence[Curve], name: str, by_traffic: bool) -> Element | None:
    found = [(curve, points(run.history, curve.key, by_traffic)) for curve in curves]
    found = [(curve, (xs, ys)) for curve, (xs, ys) in found if ys]
    if not found:
        return None
    right, heights = max(max(xs) for _, (xs, _) in found), [y for _, (_, ys) in found for y in ys]
    x = (
        axis("training traffic so far (MB)", 0, right, tight=True)
        if by_traffic
        else axis("round", 0, max(right, 1), whole=True, tight=True)
    )
    frame = Frame(
        title,
        x,
        axis(name, min(0.0, *heights), max(heights)),
        [Key(curve.text, curve.colour, curve.mark) for curve, _ in found],
    )
    for curve, (xs, ys) in found:
        if not curve.alone:
            frame.line(xs, ys, f"{curve.colour}{' thin' if curve.mark == 'dots' else ''}")
        if curve.mark != "line" and (len(xs) <= _MANY or curve.alone):
            frame.marks(xs, ys, curve.colour, curve.mark)
    _bands(frame, found, by_traffic)
    return frame.element


def _bands(frame: Frame, found: list[tuple[Curve, tuple[list[float], list[float]]]], by_traffic: bool) -> None:
    """Over each place, all figures that were measured there."""
    places = sorted({at for _, (xs, _) in found for at in xs})
    tips = []
    for place in places:
        lines = [f"{place:.1f} MB" if by_traffic else f"state after round {place:.0f}" if place else "before training"]
        for curve, (xs, ys) in found:
            lines += [f"{curve.text}: {y:.3f}" for x, y in zip(xs, ys, strict=True) if x == place]
        tips.append("\n".join(lines))
    frame.bands(places, tips)


def _table(run: Run) -> Element | None:
    if not run.history:
        return None
    head = ["round", "training loss", "personalised", "shared, test set", "all, personalised", "all, shared"]
    head += ["down", "up", "clients", "not used", "seconds"]
    rows = []
    for line in run.history:
        lost = len(line.get("failed") or {}) + len(line.get("missing") or [])
        rows.append(
            (
                f"{line['round']}{' (warm-up)' if line.get('warm_up') else ''}",
                number(line.get("train_loss"), 4),
                *(number(line.get(figure_key(curve.key, run.metric))) for curve in SCORES),
                bytes_text(line.get("down_bytes")),
                bytes_text(line.get("up_bytes")),
                number(line.get("accepted"), 0),
                lost or "-",
                number(line.get("seconds"), 1),
            )
        )
    caption = "Figures by round; personalised is measured before the round trains. "
    caption += "Accuracies are shares from 0 to 1" if run.metric == ACCURACY else f"Figures are {NAMES[run.metric]}"
    return folded("Figures by round", table(head, rows, caption))
