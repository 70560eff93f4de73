"""What leaving out padding saves (`unpadding`), and that nothing else changes: training steps and forward passes.

    python -m experiments.padding [--model all-MiniLM-L6-v2] [--steps 25] [--repeats 5]

Prompts on all layers, the embedded data, batches of 8 drawn at random, one thread. Both ways take turns; times are of the CPU.
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

from client_app.local_update import gradient
from experiments.machine import RESULTS, facts, write
from federation import resources
from federation.evaluation import losses_on
from federation.settings import defaults, parse

MODULE, OUT = "experiments.padding", RESULTS / "padding" / "figures.json"
BATCH = 8


def measure(name: str, steps: int, repeats: int) -> dict[str, Any]:
    """Milliseconds a step, share of padding, and the largest difference of a gradient."""
    torch.set_num_threads(1)
    settings = parse({**defaults(), "model": name, "device": "cpu"})
    data, labels = resources.tokenised(settings).train, resources.all_labels(settings)
    model = resources.tuned(settings, (), labels)
    row, losses = model.initial(0, settings.model.prompt_init_std)[None], losses_on(model, data, labels)
    draw = random.Random(0)
    batches = [draw.sample(range(len(data)), BATCH) for _ in range(steps)]
    lengths = [[len(data.input_ids[place]) for place in batch] for batch in batches]
    ways: dict[str, Callable[[Sequence[int]], Tensor]] = {
        "training step": lambda batch: gradient(row, batch, losses)[0],
        "forward pass": torch.no_grad()(lambda batch: losses(row, batch)),
    }
    spent: dict[str, list[float]] = {}
    found: dict[str, list[Tensor]] = {}
    for what, run in ways.items():
        for _ in range(repeats):
            for way in ("with padding", "without"):
                model.backbone.leaves_out_padding = way == "without"
                began = time.process_time()
                found[f"{what}, {way}"] = [run(batch) for batch in batches]
                spent.setdefault(f"{what}, {way}", []).append(1000 * (time.process_time() - began) / steps)
    pairs = zip(found["training step, with padding"], found["training step, without"], strict=True)
    ms = {what: round(statistics.median(times), 2) for what, times in spent.items()}
    return {
        "padding_share": 1 - sum(map(sum, lengths)) / sum(BATCH * max(one) for one in lengths),
        "ms": ms,
        "ratio": {what: round(ms[f"{what}, with padding"] / ms[f"{what}, without"], 2) for what in ways},
        "gradient_difference": max(float((one - other).norm() / one.norm()) for one, other in pairs),
    }


def main() -> None:
    """Measures, and writes the raw figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    found = measure(asked.model, asked.steps, asked.repeats)
    write(asked.out, {**facts(MODULE), "model": asked.model, "batch": BATCH, **found})
    print(found)


if __name__ == "__main__":
    main()
