"""The ceiling: the same model, data and number of optimiser steps, trained in one place.

Prompts in all layers and the head, one Adam that never restarts, batches drawn from everybody's examples. What a federated run
falls short of this is the price of not pooling the data.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from client_app.local_update import Adam, local_update
from data.batches import Encoded, length_batches
from federation import resources
from federation.evaluation import count, losses_on
from federation.metrics import ACCURACY, NAMES, metric_of, score, square
from federation.randomness import generator
from federation.settings import Settings
from fedpeptao.errors import InputError
from models.tuned_model import TunedModel
from strategies.selection import sample_clients

PROGRESS_S = 10.0


def federated_steps(settings: Settings) -> int:
    """Optimiser steps that a federated run of these settings takes in all: the sum of K_i over its rounds and sampled clients.

    InputError without rounds.
    """
    federation = settings.federation
    if federation.own_data:
        problem = "what lies on nodes alone cannot be trained on in one place"
        raise InputError("partition", federation.partition, problem, "Give a partition of one data set")
    if not federation.rounds:
        mend = "Give the rounds of the run that it is the ceiling of"
        raise InputError("rounds", 0, "a run without rounds has no steps to take centrally", mend)
    sizes = [len(rows) for rows in resources.shards(settings).train]
    return sum(
        settings.steps_in(server_round, sizes[client])
        for server_round in range(1, federation.rounds + 1)
        for client in sample_clients(
            range(federation.clients), federation.clients_per_round, generator(federation.seed, "sample", server_round)
        )
    )


def train_centrally(settings: Settings, quiet: bool = False) -> dict[str, Any]:
    """Trains, evaluates on the common test set and on all clients' evaluation shards, and returns the figures.

    quiet: no progress lines.
    """
    resources.set_threads(settings)
    data, backbone = resources.tokenised(settings), resources.backbone(settings)
    labels = resources.classes(settings, data.train.labels)
    model = resources.tuned(settings, tuple(range(backbone.num_layers)), labels)
    steps, started = federated_steps(settings), time.monotonic()
    local = settings.local
    batches = _batches(settings, data.train, steps)
    if not quiet:
        batches = _with_progress(batches, steps)
    start = model.initial(settings.federation.seed, settings.model.prompt_init_std)[None].to(backbone.device)
    optimizer = Adam(local.learning_rate, local.weight_decay, local.clip_norm)
    result = local_update(start, batches, losses_on(model, data.train, labels), optimizer)
    model.bind(result.rows)
    return {
        "steps": steps,
        "train_loss": float(result.losses[0]),
        "test": _figures(settings, model, data.test, labels),
        "validation": _figures(settings, model, data.validation, labels),
        "seconds": time.monotonic() - started,
        "seed": settings.federation.seed,
        "metric": resources.metric(settings),
    }


def as_table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"Central training: {figures['steps']} steps, {figures['seconds']:.0f} s, seed {figures['seed']}"]
    for key, what in (("validation", "all clients' evaluation shards"), ("test", "common test set")):
        if figures[key] is not None:
            found, metric = figures[key], metric_of(figures)
            own = "" if metric == ACCURACY else f"{NAMES[metric]} {found[metric.replace('-', '_')]:.3f}  "
            lines.append(
                f"  {own}accuracy {found['accuracy']:.3f}  loss {found['loss']:.3f}  {what}, {found['examples']} examples"
            )
    return "\n".join(lines)


def _figures(
    settings: Settings, model: TunedModel, examples: Encoded | None, labels: list[str]
) -> dict[str, Any] | None:
    if examples is None:
        return None
    counts = count(model, examples, labels, settings.run.evaluation_batch_size)
    metric = resources.metric(settings)
    own = {} if metric == ACCURACY else {metric.replace("-", "_"): score(metric, square(counts.confusion))}
    return {"accuracy": counts.accuracy, **own, "loss": counts.loss, "examples": counts.examples}


def _batches(settings: Settings, train: Encoded, steps: int) -> Iterator[list[int]]:
    """So many batches, epoch after epoch over all examples."""
    lengths, epoch = [len(ids) for ids in train.input_ids], 0
    while steps > 0:
        rng = generator(settings.federation.seed, "central", epoch)
        for batch in length_batches(lengths, settings.local.batch_size, rng)[:steps]:
            yield batch
            steps -= 1
        epoch += 1


def _with_progress(batches: Iterator[list[int]], steps: int) -> Iterator[list[int]]:
    said = time.monotonic()
    for step, batch in enumerate(batches, start=1):
        yield batch
        if time.monotonic() - said > PROGRESS_S:
            said = time.monotonic()
            print(f"  step {step} of {steps}", flush=True)
