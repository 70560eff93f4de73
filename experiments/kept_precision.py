"""What half precision does to hidden states that are kept (`hidden-cache-dtype`): to the states, to losses, to gradients.

    python -m experiments.kept_precision [--model all-MiniLM-L6-v2] [--examples 96]

The upper third of the layers prompted, the embedded data, a linear head, initial values of the demo. Against a pass that keeps
nothing: the largest difference of a state to the largest state, of a loss in nats, and the norm of the difference of a batch's
gradient to the gradient's norm.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from client_app.local_update import gradient
from experiments.machine import RESULTS, facts, write
from federation import resources
from federation.evaluation import batch_inputs, losses_on
from federation.settings import defaults, parse
from models import deep_prompts
from models.hidden_states import DTYPES, LowerLayers, StateCache

MODULE, OUT = "experiments.kept_precision", RESULTS / "kept-precision" / "figures.json"
BATCH, ROOM = 8, 1 << 30


def measure(name: str, examples: int) -> dict[str, Any]:
    """The largest of each over all batches, by type."""
    settings = parse({**defaults(), "model": name, "device": "cpu"})
    data, labels = resources.tokenised(settings).train, resources.all_labels(settings)
    backbone = resources.tuned(settings, (0,), labels).backbone
    layers = tuple(range(backbone.num_layers - max(1, backbone.num_layers // 3), backbone.num_layers))
    exact = deep_prompts.prompted(backbone, layers, settings.model.prompt_tokens)
    row = exact.initial(settings.federation.seed, settings.model.prompt_init_std)[None]
    places = sorted(range(examples), key=lambda place: len(data.input_ids[place]))
    batches = [places[start : start + BATCH] for start in range(0, examples, BATCH)]
    found: dict[str, Any] = {}
    for dtype, kind in DTYPES.items():
        model = deep_prompts.prompted(backbone, layers, settings.model.prompt_tokens)
        model.keep_lower_states(StateCache(kind, ROOM, 0))
        assert model.lower is not None
        largest = {"states": 0.0, "loss": 0.0, "gradient": 0.0}
        for batch in batches:
            inputs = batch_inputs(backbone, data, batch)
            whole = backbone.states_entering(layers[0], inputs, exact.technique.shift)
            near = _states(model.lower, data, batch)
            real = inputs["attention_mask"][..., None].bool()
            away = ((near - whole) * real).abs().max() / (whole * real).abs().max()
            (grad, loss), (grad_near, loss_near) = (
                gradient(row, batch, losses_on(one, data, labels)) for one in (exact, model)
            )
            seen = {
                "states": float(away),
                "loss": float((loss - loss_near).abs().max()),
                "gradient": float((grad - grad_near).norm() / grad.norm()),
            }
            largest = {what: max(largest[what], value) for what, value in seen.items()}
        model.unbind()
        found[dtype] = largest
        print(f"{dtype:9} {largest}", flush=True)
    exact.unbind()
    return {"model": name, "examples": examples, "layers": layers, "largest_difference": found}


def _states(lower: LowerLayers, data: Any, batch: list[int]) -> torch.Tensor:
    types = data.token_type_ids
    return lower.states([data.input_ids[i] for i in batch], None if types is None else [types[i] for i in batch])


def main() -> None:
    """Measures, and writes the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--examples", type=int, default=96)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    write(given.out, {**facts(MODULE), **measure(given.model, given.examples)})


if __name__ == "__main__":
    main()
