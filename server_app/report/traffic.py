"""What training sent in each round, by kind and direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server_app.console import bytes_text
from server_app.report.facts import Run
from server_app.report.markup import Element, folded, table
from server_app.report.plot import Axis, Frame, Key, axis
from server_app.report.sections import figure, section

MOST_BARS = 60
_TUNED = {"prompts": "blue", "lora": "blue", "adapter": "blue", "generator": "red"}
KINDS = {**_TUNED, "head": "orange", "control": "green", "moments": "purple", "config": "grey"}
_NAMES = {"control": "control variate", "moments": "second moments", "config": "all that is no array"}
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


def traffic_section(run: Run) -> Element:
    """Down and up as bars of the same scale, and totals."""
    lines = run.trained
    if not lines:
        return section("traffic", "Traffic", [])
    bars = _bars(lines)
    highest = max(sum(bar[way].values()) for bar in bars for way in ("down", "up"))
    x = Axis("round", lines[0]["round"] - 0.5, lines[-1]["round"] + 0.5, _ticks(lines))
    plots = [
        figure("Down: server to clients", _stack(x, bars, "down", highest), _caption(lines, bars)),
        figure(
            "Up: clients to server",
            _stack(x, bars, "up", highest),
            "On the scale of the plot of what goes down.",
        ),
    ]
    return section("traffic", "Traffic", [*plots, _totals(run, lines)], _table(lines))


def _bars(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One for each round; of a long run, means over several rounds."""
    size = -(-len(lines) // MOST_BARS)
    bars = []
    for start in range(0, len(lines), size):
        group = lines[start : start + size]
        bar: dict[str, Any] = {"first": group[0]["round"], "last": group[-1]["round"]}
        for way in ("down", "up"):
            bar[way] = {kind: sum(_sent(line, way, kind) for line in group) / len(group) for kind in KINDS}
        bars.append(bar)
    return bars


def _ticks(lines: Sequence[Mapping[str, Any]]) -> tuple[tuple[float, str], ...]:
    first, last = lines[0]["round"], lines[-1]["round"]
    return tuple(tick for tick in axis("", first, last, whole=True).ticks if first <= tick[0] <= last)


def _stack(x: Axis, bars: Sequence[Mapping[str, Any]], way: str, highest: float) -> Element:
    size, unit = next((one for one in _UNITS if highest >= one[0]), _UNITS[-1])
    present = [kind for kind in KINDS if any(bar[way][kind] for bar in bars)]
    keys = [Key(_NAMES.get(kind, kind), KINDS[kind], "square") for kind in present]
    title = "Bytes down in each round, by kind" if way == "down" else "Bytes up in each round, by kind"
    frame = Frame(title, x, axis(unit, 0, highest, unit=size), keys)
    for bar in bars:
        left, right, low = bar["first"] - 0.5, bar["last"] + 0.5, 0.0
        for kind in present:
            frame.bar(left, right, low, low + bar[way][kind], f"fill {KINDS[kind]}", gap=0.7)
            low += bar[way][kind]
        rounds = (
            f"round {bar['first']}" if bar["first"] == bar["last"] else f"rounds {bar['first']} to {bar['last']}, mean"
        )
        parts = [f"{_NAMES.get(kind, kind)}: {bytes_text(bar[way][kind])}" for kind in present]
        frame.band(left, right, "\n".join([f"{rounds}: {bytes_text(low)}", *parts]))
    return frame.element


def _caption(lines: Sequence[Mapping[str, Any]], bars: Sequence[Mapping[str, Any]]) -> str:
    text = "Content of the round's training messages, all sampled clients together."
    return text + (f" A bar is the mean of {-(-len(lines) // MOST_BARS)} rounds." if len(bars) < len(lines) else "")


def _totals(run: Run, lines: Sequence[Mapping[str, Any]]) -> Element:
    """Of the whole run, by kind."""
    rows = []
    for kind in KINDS:
        down, up = (sum(_sent(line, way, kind) for line in lines) for way in ("down", "up"))
        if down or up:
            rows.append((_NAMES.get(kind, kind), bytes_text(down), bytes_text(up), bytes_text(down + up)))
    down, up = (sum(line[way] for line in lines) for way in ("down_bytes", "up_bytes"))
    rows.append(("all training", bytes_text(down), bytes_text(up), bytes_text(down + up)))
    evaluation = (run.summary.get("bytes") or {}).get("evaluation")
    rows.append(("evaluation of all clients", "", "", bytes_text(evaluation)))
    return table(("kind", "down", "up", "both"), rows, "Traffic of the whole run")


def _table(lines: Sequence[Mapping[str, Any]]) -> Element:
    every = [(way, kind) for way in ("down", "up") for kind in KINDS]
    columns = [(way, kind) for way, kind in every if any(_sent(line, way, kind) for line in lines)]
    rows = [
        (line["round"], *(f"{_sent(line, way, kind):,}" for way, kind in columns), f"{line['cumulative_bytes']:,}")
        for line in lines
    ]
    head = ("round", *(f"{way}: {_NAMES.get(kind, kind)}" for way, kind in columns), "so far")
    return folded("Bytes by round", table(head, rows, "Bytes of each round's training messages"))


def _sent(line: Mapping[str, Any], way: str, kind: str) -> int:
    return int(line[f"{way}_detail"].get(kind, 0))
