"""What int8 saves, and what it costs in accuracy: FedPepTAO as published, with control variates to be sent, by codec and seed.

    python -m experiments.codec                                                    the embedded data
    python -m experiments.codec --task sst2 --dataset /absolute/sst2.train.jsonl --test /absolute/sst2.dev.jsonl \
        --train-examples 6000

A run leaves one file under results/codec/<name>/, and is not run again where that is there. Bytes are those that the recording
grid counted, per client and round, against one round in float32 in which all layers travel: of the same method, and of plain
averaging, which sends no control variate.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.machine import RESULTS, facts, write
from experiments.one_run import one_run
from experiments.published import PUBLISHED
from federation.settings import Scalar

MODULE = "experiments.codec"
Row = dict[str, Any]
METHODS: dict[str, dict[str, Scalar]] = {
    "float32": {},
    "float16": {"precision": "float16"},
    "int8": {"precision": "int8"},
    "int8, no error feedback": {"precision": "int8", "error-feedback": False},
    "int8 updates only": {"update-precision": "int8"},
}
WHOLE: dict[str, dict[str, Scalar]] = {
    "all layers": {"layers": "all"},
    "all layers, plain averaging": {"layers": "all", "drift-correction": "none", "server-optimizer": "none"},
}
MEASURES = {
    "personalised_accuracy": "personalised",
    "shared_accuracy": "shared model, clients' shards",
    "global_accuracy": "shared model, test set",
}


def main() -> None:
    """Runs what is missing, then writes and prints the table of all that is there."""
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    folder = arguments.results / (arguments.task or "stdlib-docs")
    for method in WHOLE:
        _cell(arguments, folder, method, {**WHOLE[method], "rounds": 1}, 0)
    for seed in arguments.seeds:
        for method in arguments.methods or METHODS:
            _cell(arguments, folder, method, {**METHODS[method], "rounds": arguments.rounds}, seed)
    text = table([json.loads(path.read_text(encoding="utf8")) for path in sorted(folder.glob("*.json"))])
    (folder / "TABLE.md").write_text(f"Made by `python -m {MODULE}` from the raw figures in this folder.\n\n{text}\n")
    print(text)


def _cell(arguments: argparse.Namespace, folder: Path, method: str, own: Mapping[str, Scalar], seed: int) -> None:
    """One run, if its file is not there."""
    path = folder / f"{method.replace(',', '').replace(' ', '-')}-seed{seed}.json"
    if path.exists():
        print(f"{path} is there", flush=True)
        return
    given: dict[str, Scalar] = {"task": arguments.task, "dataset": arguments.dataset, "test": arguments.test}
    given |= {**PUBLISHED, "train-examples": arguments.train_examples, "test-every": 0, "seed": seed, **own}
    summary, history = one_run(given)
    lines = [line for line in history if line["round"]]
    final = {**summary["final"], "global_accuracy": lines[-1]["global_accuracy"]}
    made = {**facts(MODULE), "method": method, "settings": {**given, **_file_names(given)}}
    made["command"] = f"python -m {MODULE}"
    write(path, {**made, **_traffic(lines), **{key: final[key] for key in MEASURES}})


def _traffic(lines: list[Row]) -> Row:
    """Bytes per client and round, by kind."""
    answers = sum(line["accepted"] for line in lines)
    found: Row = {"rounds": len(lines), "accepted": answers}
    for way in ("down", "up"):
        kinds = {kind for line in lines for kind in line[f"{way}_detail"]}
        found[way] = {
            kind: sum(line[f"{way}_detail"].get(kind, 0) for line in lines) / answers for kind in sorted(kinds)
        }
    found["bytes"] = sum(sum(found[way].values()) for way in ("down", "up"))
    return found


def _file_names(given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {key: Path(str(given[key])).name for key in ("dataset", "test")}


def table(cells: list[Row]) -> str:
    """Markdown: bytes and their shares of both kinds of all layers; accuracies, and their mean distance to float32's."""
    by_method = {method: [cell for cell in cells if cell["method"] == method] for method in (*WHOLE, *METHODS)}
    whole, plain = (by_method[method][0]["bytes"] for method in WHOLE)
    head = ["codec", "kB per client and round", "of all layers", "of plain averaging", *MEASURES.values()]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method in METHODS:
        if here := by_method[method]:
            size = statistics.mean(cell["bytes"] for cell in here)
            cells_of = [f"{size / 1e3:.1f}", f"1/{whole / size:.2f}", f"1/{plain / size:.2f}"]
            cells_of += [_compared(here, by_method["float32"], measure) for measure in MEASURES]
            lines.append(f"| {method} | {' | '.join(cells_of)} |")
    return "\n".join(lines)


def _compared(here: list[Row], exact: list[Row], measure: str) -> str:
    """Mean and each seed's figure in percent, and the mean distance to float32 with the same seeds, in points."""
    seeds = {cell["settings"]["seed"]: 100 * cell[measure] for cell in here}
    base = {cell["settings"]["seed"]: 100 * cell[measure] for cell in exact}
    text = f"{statistics.mean(seeds.values()):.1f} ({', '.join(f'{value:.1f}' for value in seeds.values())})"
    both = [seeds[seed] - base[seed] for seed in seeds if seed in base]
    return text + (f", {statistics.mean(both):+.1f}" if both and here is not exact else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--task", default="", help="such as sst2; of a file that --dataset names")
    parser.add_argument("--dataset", default="stdlib-docs", help="stdlib-docs, or an absolute path to a .jsonl file")
    parser.add_argument("--test", default="", help="an absolute path to the common test set, where there is one")
    parser.add_argument("--train-examples", type=int, default=0, help="at most so many (default: all)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="only these (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS / "codec")
    return parser


if __name__ == "__main__":
    main()
