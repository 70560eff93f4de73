"""One cell: a whole run in this process, and its raw file."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message

from client_app.app import app
from federation.grids import ClientCall, InProcessGrid
from federation.metrics import ACCURACY, figure_key, metric_of
from federation.resuming import FACTS
from federation.settings import Scalar, parse
from fedpeptao.comparison.earlier_runs import earlier_run
from fedpeptao.comparison.grid import Cell
from fedpeptao.comparison.raw import COMPLETED, FAILED, FIGURES, PROCESSOR, Point, Result, write_raw
from fedpeptao.comparison.sources import content_sha256, located, mixing
from fedpeptao.errors import RunError
from fedpeptao.saved import read_json
from server_app.run import run
from server_app.run_folder import read_history, read_summary

ROOT = Path(__file__).resolve().parents[2]
CODE = ("client_app", "data", "federation", "models", "strategies")
"""The packages whose code makes the figures."""
Line = dict[str, Any]


@dataclass
class Stopwatch:
    """A client app, and what each round's training took its nodes, in seconds.

    Attributes:
        seconds: round -> node -> of a core of its own: of processor time where that is less than what the clock showed.
        clock: round -> what the clock showed for all its nodes, with what other processes had of the core meanwhile.
    """

    app: ClientCall
    seconds: defaultdict[int, defaultdict[int, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )
    clock: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))

    def __call__(self, message: Message, context: Context) -> Message:
        """The app's answer."""
        started, worked = time.perf_counter(), time.process_time()
        reply = self.app(message, context)
        clock, work = time.perf_counter() - started, time.process_time() - worked
        if message.metadata.message_type == "train":
            server_round = int(message.content.config_records["round"]["round"])  # type: ignore[arg-type]
            self.seconds[server_round][context.node_id] += min(clock, work)
            self.clock[server_round] += clock
        return reply

    def of_round(self, server_round: int, clock: float, share: float) -> tuple[float, float]:
        """Seconds of a round with its nodes one after the other, and had they worked side by side: then the slowest's count.

        clock: what it showed for the whole round; share: of a core that this process had, by which the server's part is cut down.
        """
        nodes = self.seconds[server_round].values()
        server = share * max(0.0, clock - self.clock[server_round])
        return sum(nodes) + server, max(nodes, default=0.0) + server


def run_cell(cell: Cell) -> None:
    """Runs a cell and writes its raw file. A run that cannot go on (training diverged) leaves one that says so.

    Raises:
        InputError: bad settings or data.
        RunError: the run could not go on.
    """
    watch = Stopwatch(app)
    with tempfile.TemporaryDirectory() as scratch:
        grids = cell.path.parent.parent
        earlier = [
            earlier_run(settings, code_sha256(), grids, lambda told: _run(told, app))
            for settings in cell.prompt_sources.values()
        ]
        told = {**located(cell.settings), **mixing(earlier), "runs-dir": scratch, "run-name": "cell"}
        folder, why = Path(scratch) / "cell", None
        began, spent = time.perf_counter(), time.process_time()
        try:
            _run(told, watch)
        except RunError as error:
            why = str(error).replace(scratch, "..")
        share = min(1.0, (time.process_time() - spent) / (time.perf_counter() - began))
        summary, facts = read_summary(folder), read_json(folder / FACTS)
        points = evaluations(read_history(folder), metric_of(summary), watch, share)
    write_raw(cell.path, Result(_made(cell, summary, facts), points, _end(summary, why)))
    if why is not None:
        raise RunError(why)


def _run(told: dict[str, Scalar], answering: ClientCall) -> None:
    run(InProcessGrid(answering, told, nodes=int(told["clients"])), parse(told))


def evaluations(lines: list[Line], metric: str, watch: Stopwatch, share: float = 1.0) -> tuple[Point, ...]:
    """The lines of metrics.jsonl that hold an evaluation over all clients; sums are over all lines.

    share: of a core that this process had.
    """
    sums = {key: list(accumulate(line[key] or 0 for line in lines)) for key in ("down_bytes", "up_bytes")}
    evaluation = list(accumulate(line["evaluation_bytes"] or 0 for line in lines))
    rounds = [watch.of_round(line["round"], line["seconds"] or 0.0, share) for line in lines]
    seconds, beside = (list(accumulate(one[which] for one in rounds)) for which in (0, 1))
    own, shared, global_test = (figure_key(whose, metric) for whose in ("all_personalised", "all_shared", "global"))
    return tuple(
        Point(
            line["round"],
            line[own],
            line[shared],
            line[global_test],
            down=sums["down_bytes"][place],
            up=sums["up_bytes"][place],
            evaluation=evaluation[place],
            seconds=round(seconds[place], 3),
            side_by_side=round(beside[place], 3),
            train_loss=line["train_loss"],
        )
        for place, line in enumerate(lines)
        if line[own] is not None
    )


def _made(cell: Cell, summary: Line, facts: Line) -> Line:
    data = {key: value for key, value in facts["data"].items() if key != "name"}
    return {
        **cell.place,
        "metric": metric_of(summary),
        "figures": FIGURES,
        "code": code_sha256(),
        "source": content_sha256(cell),
        "data": data,
        "model": facts["model"]["fingerprint"],
        "versions": facts["versions"],
        "cpu": cpu_type(facts["cpu"]),
        "clock": PROCESSOR,
        "settings": dict(cell.settings),
        **({"prompt_sources": cell.prompt_sources} if cell.prompt_sources else {}),
    }


def _end(summary: Line, why: str | None) -> Line:
    final = summary.get("final") or {}
    clients = final.get("per_client") or {}
    counts = {"examples": "examples", "personalised": "correct", "shared": "shared_correct"}
    floor = (summary.get("floor") or {}).get(f"commonest_label_{ACCURACY}")
    return {
        "status": COMPLETED if why is None else FAILED,
        "why": why,
        "commonest_label": floor,
        "layers": summary.get("layers"),
        "parameters_per_message": summary.get("parameters_per_message"),
        "seconds": None if why else round(summary["seconds"], 1),
        "cpu_seconds": round(time.process_time(), 1),
        "load": round(os.getloadavg()[0], 1),
        "clients": {name: [one[key] for one in clients.values()] for name, key in counts.items()},
    }


def cpu_type(name: str) -> str:
    """The CPU's name, family and model, and the instructions that torch uses: where they agree, so should all bits."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()]
    except OSError:  # not Linux
        lines = []
    known = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    numbers = ", ".join(f"{key} {known[key]}" for key in ("cpu family", "model") if key in known) or platform.machine()
    return f"{name} ({numbers}, {torch.backends.cpu.get_cpu_capability()})"


def code_sha256() -> str:
    """Of the sources of CODE: says whether two cells were made by the very same code."""
    digest = hashlib.sha256()
    for package in CODE:
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
