"""Squared gradients of single examples in a batch: three ways, and which is the fastest (section 3 of docs/ALGORITHMS.md).

    python -m experiments.example_gradients [--examples 64] [--repeats 5]

    loop     a forward and a backward pass for each example
    owners   one pass, in which each example is a client of its own with equal parameters (what client_app/fisher.py does)
    vmap     torch.func: vmap over grad of the model as a function of its LoRA parameters, for one padded example

LoRA on MiniLM (`--model random:bert` for a small one), the embedded data, one thread.
All ways have to agree with the loop.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from client_app.fisher import squared_gradients
from data.batches import Encoded
from experiments.machine import RESULTS, facts, write
from federation import resources
from federation.evaluation import batch_inputs, stack_losses_on, targets
from federation.settings import defaults, parse
from models.tuned_model import TunedModel

MODULE, OUT = "experiments.example_gradients", RESULTS / "example-gradients" / "figures.json"
BATCH = 8
Way = Callable[[Sequence[int]], Tensor]


def ways(model: TunedModel, data: Encoded, labels: Sequence[str], row: Tensor) -> dict[str, Way]:
    """Each from places of examples to their squared gradients [n, R]."""
    losses, wanted = stack_losses_on(model, data, labels), targets(data, labels)

    def mapped(places: Sequence[int]) -> Tensor:
        inputs = batch_inputs(model.backbone, data, places)
        mask = inputs["attention_mask"].bool()  # whole, since transformers asks a mask of two dimensions for its values
        inputs["attention_mask"] = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)

        def loss(x: Tensor, one: dict[str, Tensor], label: Tensor) -> Tensor:
            model.bind(x[None])
            return model.loss({key: value[None] for key, value in one.items()}, label[None])

        found: Tensor = vmap(grad(loss), in_dims=(None, 0, 0))(row, inputs, wanted[list(places)])
        return found.square()

    return {
        "loop": lambda places: squared_gradients(row, losses, places, together=False),
        "owners": lambda places: squared_gradients(row, losses, places),
        "vmap": mapped,
    }


def measure(name: str, examples: int, repeats: int) -> dict[str, Any]:
    """Milliseconds an example of each way that works, and how far it is from the loop."""
    settings = parse({**defaults(), "model": name, "tuned": "lora", "device": "cpu"})
    data, labels = resources.tokenised(settings).train, resources.all_labels(settings)
    model = resources.tuned(settings, tuple(range(resources.backbone(settings).num_layers)), labels)
    row, found = model.initial(settings.federation.seed), {}
    known = ways(model, data, labels, row)
    places = sorted(range(examples), key=lambda place: len(data.input_ids[place]))
    groups = [places[start : start + BATCH] for start in range(0, examples, BATCH)]
    right = known["loop"](groups[-1])
    for way, squares in known.items():
        try:
            away = float((squares(groups[-1]) - right).abs().max() / right.abs().max())
        except (RuntimeError, TypeError, ValueError) as error:
            found[way] = {"fails": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
            continue
        seconds = [_seconds(squares, groups) for _ in range(repeats)]
        found[way] = {"ms_per_example": 1e3 * statistics.median(seconds) / examples, "largest_difference": away}
        print(f"{way:8} {found[way]}", flush=True)
    model.unbind()
    return {"model": name, "examples": examples, "batch": BATCH, "parameters": len(row), "ways": found}


def _seconds(squares: Way, groups: Sequence[Sequence[int]]) -> float:
    started = time.process_time()
    for group in groups:
        squares(group)
    return time.process_time() - started


def main() -> None:
    """Measures, and writes the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    write(given.out, {**facts(MODULE), **measure(given.model, given.examples, given.repeats)})


if __name__ == "__main__":
    main()
