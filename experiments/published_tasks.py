"""Floor, method and ceiling on the published tasks, from files of the user's own (docs/TASKS.md holds the table).

    FEDPEPTAO_TASKS=/absolute/folder python -m experiments.published_tasks [sst2 mr mrpc rte cola]

The folder holds <task>.train.jsonl and <task>.dev.jsonl, the common test set. Each method's figures are kept as soon as
it has run; what is there with the same settings and data is not run again. The table is made from the kept figures alone.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.machine import RESULTS, facts, write
from experiments.one_run import one_run
from experiments.published import PUBLISHED
from federation import resources
from federation.settings import Scalar, defaults, parse

MODULE = "experiments.published_tasks"
TASKS = ("sst2", "mr", "mrpc", "rte", "cola")
PAGE = RESULTS.parent / "docs" / "TASKS.md"
BEGIN, END = "<!-- published-tasks -->", "<!-- /published-tasks -->"
BASE: dict[str, Scalar] = {"train-examples": 2000, **PUBLISHED}
"""Beside the defaults: 100 clients, 10 a round, 20 rounds of 2 epochs, label skew of alpha 0.3. FedPepTAO as published."""
AVERAGING: dict[str, Scalar] = {"layers": "all", "drift-correction": "none", "server-optimizer": "none"}
METHODS: dict[str, dict[str, Scalar]] = {
    "local-only": {"rounds": 0, "final-local-epochs": 4},
    "FedAvg and a local epoch": {**AVERAGING, "final-local-epochs": 1},
    "FedPepTAO": {},
    "central": {**AVERAGING, "clients": 1, "clients-per-round": 1, "rounds": 2, "restart-moments": False},
}
LINES = ("round", "train_loss", "global_", "all_personalised_", "all_shared_", "cumulative_bytes")


def measure(task: str, folder: Path, seed: int, kept: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of all methods on one task; those among `kept` of the same settings and data are taken from there."""
    path = RESULTS / "tasks" / f"{task}-seed{seed}.json"
    found: dict[str, Any] = {**facts(MODULE), "task": task, "seed": seed, "base": BASE, "methods": {}}
    for method, own in METHODS.items():
        files: dict[str, Scalar] = {
            "dataset": str(folder / f"{task}.train.jsonl"),
            "test": str(folder / f"{task}.dev.jsonl"),
        }
        changed = {**BASE, **own, "task": task, "seed": seed, **files}
        sha256 = resources.splits(parse({**defaults(), **changed})).sha256
        before = kept.get("methods", {}).get(method)
        if before is None or (before["settings"], before["sha256"]) != (own, sha256):
            print(f"{task}, {method}, seed {seed}", flush=True)
            before = {"settings": own, "sha256": sha256, **_run(changed)}
        found["methods"][method] = before
        write(path, found)
    return found


def _run(changed: Mapping[str, Scalar]) -> dict[str, Any]:
    summary, lines = one_run(changed)
    final = {key: value for key, value in summary["final"].items() if key != "per_client"}
    return {
        "metric": summary["metric"],
        "floor": summary["floor"],
        "final": final,
        "bytes": summary["bytes"],
        "layers": summary["layers"],
        "seconds": summary["seconds"],
        "lines": [{key: value for key, value in line.items() if key.startswith(LINES)} for line in lines],
    }


def table(figures: list[Mapping[str, Any]]) -> str:
    """Markdown: a row per task and metric; first what clients' own shards say, then the test set."""
    floor, epoch, method, ceiling = METHODS
    lines = [
        f"| task | figure | commonest label | {' | '.join(METHODS)} | FedAvg | FedPepTAO | central |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task in figures:
        metric = task["methods"][method]["metric"]
        for name in dict.fromkeys(("accuracy", metric)):
            key = name.replace("-", "_")
            final = {one: found["final"] for one, found in task["methods"].items()}
            commonest = task["methods"][method]["floor"].get(f"commonest_label_{key}")
            own = [commonest, *(final[one][f"personalised_{key}"] for one in (floor, epoch, method, ceiling))]
            test = [final[one][f"global_{key}"] for one in (epoch, method, ceiling)]
            cells = ["-" if value is None else f"{value:.3f}" for value in (*own, *test)]
            lines.append(f"| {task['task']} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table() -> None:
    """Puts the table of all kept figures into the page."""
    paths = [RESULTS / "tasks" / f"{task}-seed0.json" for task in TASKS]
    figures = [json.loads(path.read_text(encoding="utf8")) for path in paths if path.exists()]
    before, _, rest = PAGE.read_text(encoding="utf8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(figures)}\n{END}{after}", encoding="utf8")


def main() -> None:
    """Measures what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", default=TASKS, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.tasks and "FEDPEPTAO_TASKS" not in os.environ:
        parser.error("FEDPEPTAO_TASKS has to name the folder of <task>.train.jsonl and <task>.dev.jsonl")
    for task in given.tasks:
        path = RESULTS / "tasks" / f"{task}-seed{given.seed}.json"
        kept = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
        measure(task, Path(os.environ["FEDPEPTAO_TASKS"]), given.seed, kept)
    write_table()


if __name__ == "__main__":
    main()
