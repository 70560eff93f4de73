"""What a run shows in the terminal: its settings, what will travel, the layers, a line per round, a summary.

The functions only format; `say` and `warn` put text where the launcher finds it. Plain ASCII, fewer than 110 columns.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from federation.metrics import ACCURACY, NAMES, figure_key, metric_of
from fedpeptao.console import MARKER as MARK
from fedpeptao.console import say
from strategies.selection import layer_count

__all__ = [
    "MARK",
    "bytes_text",
    "classes_line",
    "duration",
    "layers_table",
    "ratio_table",
    "round_header",
    "round_line",
    "say",
    "settings_table",
    "some",
    "summary_table",
    "traffic_table",
    "warn",
]

_COLUMNS = 109
_CELL = 52
_BAR = 40
_NOTED = {
    "failed": "failed",
    "missing": "missing",
    "evaluation_failed": "failed to evaluate",
    "evaluation_missing": "missing in the evaluation",
    "joined": "joined",
    "back": "back",
    "left": "left",
}
_SUMMARY_FIGURES = {
    "personalised": "all clients, each with its own model and examples",
    "shared": "all clients, the shared model on their examples",
    "global": "the shared model on the common test set",
}


def warn(text: str) -> None:
    """Shows text to the user as a warning."""
    say(text, logging.WARNING)


def settings_table(settings: Mapping[str, object], defaults: Mapping[str, object]) -> str:
    """Every setting, in two columns; values too long for that stand below. Changed ones show the default too."""
    changed = {key for key, value in settings.items() if key not in defaults or defaults[key] != value}
    width = max(map(len, settings), default=0)
    cells = []
    for key, value in settings.items():
        default = f"  (default {_value(defaults[key])})" if key in changed and key in defaults else ""
        cells.append(f"{'*' if key in changed else ' '} {key:<{width}}  {_value(value)}{default}")
    short = [cell for cell in cells if len(cell) <= _CELL]
    half = (len(short) + 1) // 2
    pairs = zip_longest(short[:half], short[half:], fillvalue="")
    rows = [f"{left:<{_CELL}}  {right}".rstrip() for left, right in pairs]
    title = "Settings (* changed)" if changed else "Settings (all at their defaults)"
    return "\n".join([title, *rows, *(cell for cell in cells if len(cell) > _CELL)])


def traffic_table(entries: Sequence[tuple[str, int, int, bool]], all_layers_bytes: int | None = None) -> str:
    """What a client and the server send each other in one round.

    Args:
        entries: (name, floats, bytes, whether it travels).
        all_layers_bytes: what the share is of: all layers, there and back in float32; None: all entries together.
    """
    sent = [entry for entry in entries if entry[3]]
    floats, size = sum(entry[1] for entry in sent), sum(entry[2] for entry in sent)
    whole = sum(entry[2] for entry in entries) if all_layers_bytes is None else all_layers_bytes
    share = f"{size / whole:.1%} of all layers in float32" if whole else ""
    rows = [(name, n, b, "" if travels else "does not travel") for name, n, b, travels in entries]
    rows.append(("in all", floats, size, share))
    title = "Traffic per client and round"
    width = max(len(title) - 2, *(len(name) for name, *_ in rows))
    lines = [f"{title:<{width + 2}}  {'floats':>13}  {'bytes':>9}"]
    lines += [f"  {name:<{width}}  {n:>13,}  {bytes_text(b):>9}  {note}".rstrip() for name, n, b, note in rows]
    return "\n".join(lines)


def classes_line(counts: Mapping[str, int], clients: int) -> str:
    """How many of so many clients have each class."""
    return _clip(
        f"Classes, and how many of {clients} clients have each: {', '.join(f'{name} ({n})' for name, n in counts.items())}"
    )


def layers_table(scores: Sequence[float] | None, chosen: Sequence[int]) -> str:
    """A bar per layer, from 0 to the highest score; the chosen layers' bars are full."""
    if not scores:
        return f"Layers {', '.join(map(str, chosen))} (no scores: layers given by hand)"
    top = max(max(scores), 1e-12)
    lines = ["Layer      score"]
    for layer, score in enumerate(scores):
        bar = ("#" if layer in chosen else ".") * max(1, round(_BAR * max(score, 0) / top))
        lines.append(f"{layer:>5}  {score:>9.3f}  {bar:<{_BAR}}  {'chosen' if layer in chosen else ''}".rstrip())
    return "\n".join(lines)


def ratio_table(figures: Mapping[str, Any], layers: int) -> str:
    """spectrum.json, for people: a line per client, then r, the number of layers that it comes to, and what it cost."""
    columns = f"{'lowest gap':<18}  {'ratio':>7}  seconds"
    lines = [f"  client  examples  parameters  lambda min  lambda max  Lipschitz  gaps  {columns}"]
    for one in figures["clients"]:
        lipschitz, gaps, lowest, share = "-", "-", "-", one["ratio"]
        if figures["estimator"] == "eigengap":
            found = list(zip(one["gaps_low"], one["gaps_high"], strict=True))
            lipschitz, gaps = f"{one['lipschitz']:.2e}", str(len(found))
            lowest = f"{found[0][0]:.1e} to {found[0][1]:.1e}" if found else "none"
        lines.append(
            f"{one['client']:>8}  {one['examples']:>8}  {one['parameters']:>10,}  {min(one['theta']):>10.2e}"
            f"  {max(one['theta']):>10.2e}  {lipschitz:>9}  {gaps:>4}  {lowest:<18}"
            f"  {format(share, '.3f' if share >= 0.001 else '.1e'):>7}  {one['seconds']:>7.1f}"
        )
    cost = f"{duration(figures['seconds'])}, {bytes_text(figures['down_bytes'] + figures['up_bytes'])}"
    memory = f"at most {bytes_text(figures['peak_bytes'])} of memory in a client's process"
    count = layer_count(figures["ratio"], layers)
    lines.append(f"Ratio {figures['ratio']:.3g}: {count} of {layers} layers ({cost}, {memory})")
    return "\n".join(lines)


def round_header(metric: str = ACCURACY) -> str:
    """The columns of `round_line`; above them the metric, where it is not accuracy."""
    columns = "    round  train loss  personalised  global      down        up  seconds"
    return (
        columns
        if metric == ACCURACY
        else f"Figures are {NAMES[metric]}; metrics.jsonl has the accuracies too\n{columns}"
    )


def round_line(metrics: Mapping[str, Any], rounds: int, metric: str = ACCURACY) -> str:
    """One line of metrics.jsonl, for people; below it who failed, and why, and who did not answer."""
    place = f"{metrics['round']}/{rounds}"
    own, shared, everybody = (
        _number(metrics, figure_key(whose, metric), 3) for whose in ("personalised", "global", "all_personalised")
    )
    line = (
        f"{place:>9}  {_number(metrics, 'train_loss', 4):>10}  {own:>12}  {shared:>6}  {bytes_text(metrics.get('down_bytes')):>8}"
        f"  {bytes_text(metrics.get('up_bytes')):>8}  {_number(metrics, 'seconds', 1):>7}"
        f"{'' if everybody == '-' else f'  all clients {everybody}'}"
    )
    return "\n".join([line, *(_clip(f"{'':>11}{note}") for note in _round_notes(metrics))])


def _round_notes(metrics: Mapping[str, Any]) -> list[str]:
    notes = []
    for key, what in _NOTED.items():
        if clients := metrics.get(key):
            named = [str(client) for client in clients]
            if isinstance(clients, Mapping):
                named = [f"{client} ({' '.join(str(reason).split())})" for client, reason in clients.items()]
            notes.append(f"{len(clients)} {what}: {', '.join(named)}")
    return notes


def summary_table(summary: Mapping[str, Any]) -> str:
    """summary.json, for people. What an interrupted run has not measured is a dash."""
    final, traffic = summary.get("final") or {}, summary.get("bytes") or {}
    layers = ", ".join(map(str, summary.get("layers") or [])) or "-"
    rows = [("layers", layers, "")]
    metric = metric_of(summary)
    for whose, what in _SUMMARY_FIGURES.items():
        accuracy = "" if metric == ACCURACY else f", accuracy {_number(final, figure_key(whose, ACCURACY), 3)}"
        rows.append((f"{whose} {NAMES[metric]}", _number(final, figure_key(whose, metric), 3), what + accuracy))
    if floor := summary.get("floor"):
        what = "each client always answers its commonest training label"
        rows.append(("floor, accuracy", _number(floor, "commonest_label_accuracy", 3), what))
    rows.append(("traffic down", bytes_text(traffic.get("down")), "training"))
    rows.append(("traffic up", bytes_text(traffic.get("up")), "training"))
    rows.append(("traffic of evaluation", bytes_text(traffic.get("evaluation")), "both ways"))
    if known := final.get("known_clients"):
        rows.append(
            (
                "evaluated clients",
                f"{final.get('evaluated_clients')} of {known}",
                "the others were not there, or gave no figures",
            )
        )
    if left_out := summary.get("left_out"):
        rows.append(("left out", ", ".join(map(str, left_out)), "clients whose replies were refused"))
    parameters = summary.get("parameters_per_message")
    rows.append(("numbers per message", "-" if parameters is None else f"{parameters:,}", ""))
    rows += [(name.replace("_", " "), str(path), "") for name, path in (summary.get("paths") or {}).items()]
    width = max(len(name) for name, *_ in rows)
    seconds = summary.get("seconds")
    time = "" if seconds is None else f", {duration(seconds)}"
    lines = [f"Run {summary['status']}: {summary['rounds']} rounds{time}"]
    lines += [f"  {name:<{width}}  {value:<9}  {what}".rstrip() for name, value, what in rows]
    return "\n".join(lines)


def some(clients: Sequence[int]) -> str:
    """Their numbers, of ten at most."""
    shown = ", ".join(str(client) for client in clients[:10])
    return shown + (", .." if len(clients) > 10 else "")


def bytes_text(size: float | None) -> str:
    """A number of bytes to four digits, in units of 1000; a dash for None."""
    if size is None:
        return "-"
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if round(size, 1) < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:,.1f} TB"


def _number(figures: Mapping[str, Any], key: str, digits: int) -> str:
    value = figures.get(key)
    return "-" if value is None else f"{value:.{digits}f}"


def _value(value: object) -> str:
    return '""' if value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def duration(seconds: float) -> str:
    """Seconds, for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _clip(line: str) -> str:
    return line if len(line) <= _COLUMNS else line[: _COLUMNS - 3].rstrip() + "..."
