"""What leaving out padding saves (`unpadding`), and that nothing else changes: training steps and forward passes.

    python -m experiments.padding [--model all-MiniLM-L6-v2] [--clients 12] [--repeats 5]

Prompts on all layers, the embedded data, batches of 8, one thread: those of a round, in which texts of similar length keep
company, and the same examples drawn at random, as a curriculum cuts them. Both ways take turns; times are of the CPU.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client_app.batching import whole_epochs
from client_app.local_update import gradient
from client_app.start import shard_of
from experiments.machine import RESULTS, facts, write
from federation import resources
from federation.evaluation import losses_on
from federation.settings import Settings, defaults, parse
from models.tuned_model import TunedModel

MODULE, OUT = "experiments.padding", RESULTS / "padding" / "figures.json"
WAYS = ("with padding", "without")
Batches = list[list[int]]


def measure(name: str, clients: int, repeats: int) -> dict[str, Any]:
    """By kind of batches: the share of padding, milliseconds a batch, their ratio, the largest difference of a gradient."""
    torch.set_num_threads(1)
    settings = parse({**defaults(), "model": name, "device": "cpu"})
    model = resources.tuned(settings, (), resources.all_labels(settings))
    return {kind: _measured(settings, model, batches, repeats) for kind, batches in kinds(settings, clients).items()}


def kinds(settings: Settings, clients: int) -> dict[str, Batches]:
    """An epoch of the first clients, as places in the training set."""
    own, shards = [], resources.shards(settings).train
    for client in range(clients):
        cut = whole_epochs(settings, shard_of(settings, client)[0], client, 1, 1)
        own += [shards[client][batch].tolist() for batch in cut]
    examples = [place for batch in own for place in batch]
    random.Random(0).shuffle(examples)
    sizes = iter(examples)
    return {"a round's": own, "drawn at random": [[next(sizes) for _ in batch] for batch in own]}


def _measured(settings: Settings, model: TunedModel, batches: Batches, repeats: int) -> dict[str, Any]:
    data = resources.tokenised(settings).train
    row = model.initial(0, settings.model.prompt_init_std)[None]
    losses = losses_on(model, data, resources.all_labels(settings))
    lengths = [[len(data.input_ids[place]) for place in batch] for batch in batches]
    works: dict[str, Callable[[Sequence[int]], Tensor]] = {
        "training step": lambda batch: gradient(row, batch, losses)[0],
        "forward pass": torch.no_grad()(lambda batch: losses(row, batch)),
    }
    spent: dict[str, dict[str, list[float]]] = {work: {way: [] for way in WAYS} for work in works}
    found: dict[tuple[str, str], list[Tensor]] = {}
    for work, run in works.items():
        for _ in range(repeats):
            for way in WAYS:
                model.backbone.leaves_out_padding = way == "without"
                began = time.process_time()
                found[work, way] = [run(batch) for batch in batches]
                spent[work][way].append(1000 * (time.process_time() - began) / len(batches))
    ms = {work: {way: statistics.median(times) for way, times in ways.items()} for work, ways in spent.items()}
    pairs = zip(*(found["training step", way] for way in WAYS), strict=True)
    return {
        "batches": len(batches),
        "padding_share": 1 - sum(map(sum, lengths)) / sum(len(one) * max(one) for one in lengths),
        "ms": ms,
        "ratio": {work: ways["with padding"] / ways["without"] for work, ways in ms.items()},
        "gradient_difference": max(float((one - other).norm() / one.norm()) for one, other in pairs),
    }


def main() -> None:
    """Measures, and writes the raw figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    found = measure(asked.model, asked.clients, asked.repeats)
    write(asked.out, {**facts(MODULE), "model": asked.model, "batches": found})
    print(found)


if __name__ == "__main__":
    main()
