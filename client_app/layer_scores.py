"""A client's scores of the layers, once, before training, with dropout off: what the server selects layers by.

By similarity (section 2.1 of docs/ALGORITHMS.md) of a layer's outputs, or by how far they move with the embeddings (section 3).
"""

from __future__ import annotations

import numpy as np
import torch

from data.batches import Encoded, score_batches
from federation import resources
from federation.evaluation import batch_inputs, by_length, targets
from federation.randomness import generator
from federation.settings import Settings
from models.perturbation import layer_changes
from strategies.selection import SCORE_BATCH, batch_score


def layer_scores(settings: Settings, client: int, train: Encoded) -> list[float]:
    """One per layer; empty if the client's examples say nothing for the kind of score."""
    if settings.selection.score == "perturbation":
        return _by_perturbation(settings, client, train)
    return _by_similarity(settings, client, train)


def _by_similarity(settings: Settings, client: int, train: Encoded) -> list[float]:
    """zeta_i: without prompts; empty if the client has fewer than a batch of different examples."""
    backbone = resources.backbone(settings)
    rng = generator(settings.federation.seed, "score", client)
    per_batch = []
    for rows in score_batches(train, SCORE_BATCH, settings.selection.score_batches, rng):
        inputs = batch_inputs(backbone, train, rows)
        per_batch.append([batch_score(h, inputs["attention_mask"]) for h in backbone.block_outputs(inputs)])
    return [float(mean) for mean in np.mean(per_batch, axis=0)] if per_batch else []


def _by_perturbation(settings: Settings, client: int, train: Encoded) -> list[float]:
    """Mean relative change of each layer's output over at most `perturbation-examples` examples.

    Empty where no loss has a gradient, as with one class in the head: that no layer moves says nothing of layers.
    """
    layers, labels = tuple(range(resources.backbone(settings).num_layers)), resources.all_labels(settings)
    model, wanted = resources.tuned(settings, layers, labels), targets(train, labels)
    rng = generator(settings.federation.seed, "score", client)
    chosen = rng.permutation(len(train))[: settings.selection.perturbation_examples].tolist()
    changes = []
    model.bind(model.initial(settings.federation.seed, settings.model.prompt_init_std)[None].to(model.backbone.device))
    try:
        for rows in by_length(train, chosen, settings.local.batch_size):
            inputs = batch_inputs(model.backbone, train, rows)
            changes.append(layer_changes(model, inputs, wanted[rows], settings.selection.perturbation))
    finally:
        model.unbind()
    found = torch.cat(changes)
    mean: list[float] = found.mean(dim=0).tolist() if found.any() else []
    return mean
