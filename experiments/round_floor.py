"""What a round of real processes costs when there is nothing to learn: a server and three nodes on this machine's loopback.

    python -m experiments.round_floor

TLS and node keys as in a deployment; a tiny random model, three clients of a few texts. The nodes run in turn with a worker, with
shorter pauses, with both, and with neither (Flower's own command), against one server. Where a round's time goes is told by the
events that server and nodes write; what a client process of Flower's does until it works is timed in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.machine import RESULTS, facts, write
from federation.logs import LOG
from server_app.run_folder import read_history
from tests.deployed import Deployed
from tests.small_runs import SMALL, examples, write_jsonl

MODULE = "experiments.round_floor"
NODES = 3
VARIANTS: Mapping[str, list[str]] = {
    "both": ["--worker", "auto"],
    "worker": ["--plain", "--worker", "auto"],
    "pauses": ["--worker", "none"],
    "neither": ["--plain", "--worker", "none"],
}
PIECES = """
import json, time, sys
began, found = time.perf_counter(), {}
def lap(name):
    global began
    found[name], began = round(time.perf_counter() - began, 3), time.perf_counter()
import flwr.supernode.cli.flwr_clientapp; lap("imports of Flower")
import client_app.app, client_app.warm.asking; lap("imports of who passes a message on")
import torch; lap("imports of torch")
import client_app.answering; lap("imports of what answers, without torch")
from federation import resources
from federation.settings import defaults, parse
settings = parse({**defaults(), **json.loads(sys.argv[1])})
resources.backbone(settings); lap("model")
resources.tuned(settings, (0,), ("animals", "colours", "verbs")); lap("what is tuned")
resources.tokenised(settings), resources.shards(settings); lap("data")
print(json.dumps(found))
"""


def main() -> None:
    """Measures, prints a table, writes results/round-floor/figures.json."""
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        place = Path(folder)
        data = write_jsonl(place / "texts.jsonl", examples(100))
        found: dict[str, Any] = {"rounds": arguments.rounds, "nodes": NODES, "pieces_s": pieces(data)}
        with server(place / "federation") as deployed:
            found["variants"] = {name: variant(deployed, data, arguments.rounds, name) for name in arguments.variants}
    print(_table(found))
    write(arguments.results / "figures.json", {**facts(MODULE), **found})


def pieces(data: Path) -> dict[str, float]:
    """Seconds of what a client process does one after the other, and of Python's own start."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", ""], check=True)
    start = round(time.perf_counter() - began, 3)
    told = json.dumps({**SMALL, "dataset": str(data), "clients": NODES})
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PIECES, told], check=True, capture_output=True, text=True
    )
    return {"start of Python": start, **json.loads(ran.stdout.splitlines()[-1])}


@contextmanager
def server(folder: Path) -> Iterator[Deployed]:
    """With registered nodes that are not started."""
    deployed = Deployed(folder)
    deployed.make_server_keys()
    try:
        deployed.start_server()
        for number in range(NODES):
            deployed.make_node_keys(f"node{number}")
            deployed.register(f"node{number}")
        yield deployed
    finally:
        deployed.end()


def variant(deployed: Deployed, data: Path, rounds: int, name: str) -> dict[str, Any]:
    """A run on nodes of one kind; seconds of its rounds, and where they went."""
    for node in range(NODES):
        deployed.start_node(node, NODES, *VARIANTS[name])
    deployed.wait(lambda: deployed.nodes_online() == NODES, "the nodes")
    runs, run = deployed.folder / "runs", name
    settings = {"clients": NODES, "clients-per-round": NODES, "rounds": rounds, "test-every": 0, "dataset": str(data)}
    deployed.start_run({**SMALL, **settings, "runs-dir": str(runs), "run-name": run})
    deployed.wait(lambda: len(_history(runs / run)) == rounds, "the last round", 120 * (rounds + 2))
    deployed.wait(lambda: deployed.status().startswith("finished"), "the run's end", pause_s=3.0)
    seconds = [line["seconds"] for line in _history(runs / run)]
    states = [deployed.folder / f"node{node}" / "clients" / run / LOG for node in range(NODES)]
    for node in range(NODES):
        deployed.processes[f"node{node}"].terminate()
        deployed.processes[f"node{node}"].wait()
    deployed.wait(lambda: deployed.nodes_online() == 0, "the nodes' end")
    found = {"round_s": seconds, "median_s": statistics.median(seconds), **ways(runs / run / LOG, states)}
    print(f"  {name}: {found['median_s']:.2f} s", flush=True)
    return found


def ways(server_log: Path, node_logs: list[Path]) -> dict[str, float]:
    """Medians over rounds and nodes: until a client works, while it works, until its reply is there, in s."""
    begun, closed = (_times(server_log, f"round {what}") for what in ("begins", "closed"))
    to, at, back = [], [], []
    for log in node_logs:
        begins, ends = _times(log, "training begins"), _times(log, "training ends")
        to += [begins[r] - begun[r] for r in begins]
        at += [ends[r] - begins[r] for r in begins]
        back += [closed[r] - ends[r] for r in begins]
    names = ("until_a_client_works_s", "while_it_works_s", "until_the_round_closes_s")
    return {name: round(statistics.median(part), 3) for name, part in zip(names, (to, at, back), strict=True)}


def _times(log: Path, event: str) -> dict[int, float]:
    """Round -> when, in s since 1970."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf8").splitlines()]
    return {line["round"]: datetime.fromisoformat(line["time"]).timestamp() for line in lines if line["event"] == event}


def _history(folder: Path) -> list[dict[str, Any]]:
    return read_history(folder) if (folder / "metrics.jsonl").exists() else []


def _table(found: Mapping[str, Any]) -> str:
    lines = ["  a client process, one after the other:"]
    lines += [f"    {name:42} {seconds:6.2f} s" for name, seconds in found["pieces_s"].items()]
    lines.append(f"  {'nodes with':22} {'median':>8} {'longest':>8}   until it works   works   until the round closes")
    for name, line in found["variants"].items():
        lines.append(
            f"  {name:22} {line['median_s']:6.2f} s {max(line['round_s']):6.2f} s   {line['until_a_client_works_s']:12.2f} s "
            f"{line['while_it_works_s']:6.2f} s   {line['until_the_round_closes_s']:20.2f} s"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="which nodes")
    parser.add_argument("--folder", type=Path, help="where keys, states and logs go (default: the system's)")
    parser.add_argument("--results", type=Path, default=RESULTS / "round-floor", help="folder for the raw figures")
    return parser


if __name__ == "__main__":
    main()
