"""One run from settings to summary, over any grid: check, roll call, select, rounds, export.

The ServerApp calls it over Flower's grid; tests and experiments over one in their own process. It is the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid
from torch import Tensor

from federation import resources
from federation.codec import make_codec
from federation.evaluation import Counts, count
from federation.grids import RecordingGrid
from federation.run_paths import runs_folder
from federation.settings import Settings, defaults
from fedpeptao.console import RUN_FOLDER
from fedpeptao.errors import InputError
from models.export import save_parameters, to_peft
from models.layout import Layout
from models.prompted import PromptedModel
from server_app import roll_call
from server_app.console import layers_table, say, settings_table, summary_table, traffic_table
from server_app.finish import finish
from server_app.roll_call import RollCall
from server_app.rounds import Rounds, pooled_personalised, pooled_shared
from server_app.run_folder import RunFolder
from strategies.build import build
from strategies.fedpeptao import State
from strategies.roster import Roster
from strategies.selection import travelling_names
from strategies.shell import PromptStrategy

Summary = dict[str, Any]


def run(grid: Grid, settings: Settings) -> Summary:
    """A whole run; its folder holds everything that is known whenever it ends, and however.

    Raises:
        InputError: bad settings, model or data, before any training.
        RunError: the run cannot go on.
    """
    resources.set_threads(settings)
    say(settings_table(settings.flat(), defaults()))
    check_inputs(settings)
    folder = RunFolder.create(runs_folder(settings), settings.run.run_name)
    say(f"{RUN_FOLDER}{folder.path}")
    started, status = time.monotonic(), "failed"
    summary: Summary = {}
    try:
        summary = _run(RecordingGrid(grid), settings, folder)
        status = "completed"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        summary = finish(folder.path, {**summary, "status": status, "seconds": time.monotonic() - started})
        folder.close()
    say(summary_table(summary))
    return summary


def check_inputs(settings: Settings) -> None:
    """Everything that can be known before a node is asked: model, layers, data, lengths, shards.

    Raises:
        InputError: the first thing that is wrong.
    """
    backbone = resources.backbone(settings)
    roll_call.check_layers(settings, backbone.num_layers)
    tokens = settings.model.prompt_tokens
    positions = backbone.text_positions(tokens)
    if positions is not None and positions < 1:
        mend = f"Use fewer than {positions + tokens}"
        raise InputError("prompt-tokens", tokens, "they leave no position for a text", mend)
    data = resources.tokenised(settings)
    cut = sum(part.cut for part in (data.train, data.validation, data.test) if part is not None)
    if cut:
        say(f"{cut} texts are cut to {settings.data.max_length} tokens (max-length)")
    resources.shards(settings)  # refuses more clients than there are examples for


def _run(grid: RecordingGrid, settings: Settings, folder: RunFolder) -> Summary:
    splits, backbone = resources.splits(settings), resources.backbone(settings)
    folder.write_facts(
        settings.flat(),
        {
            "data": {"name": splits.name, "sha256": splits.sha256, "train": len(splits.train)},
            "model": {"name": backbone.name, "fingerprint": backbone.fingerprint},
        },
    )
    say(f"Roll call: {settings.federation.clients} clients ..")
    found = roll_call.call(grid, settings, folder.path.name)
    _check_data(settings, found)
    labels = roll_call.agree_labels(settings, found)
    layers, scores = roll_call.select_layers(settings, found, backbone.num_layers)
    say(layers_table(scores, layers))
    model = resources.prompted(settings, layers, len(labels))
    strategy = _strategy(settings, found, model, labels, layers, folder.path.name)
    say(_traffic(strategy, model))
    known: Summary = {
        "labels": list(labels),
        "layers": list(layers),
        "layer_scores": scores,
        "clients": {str(client): _facts(reply) for client, reply in sorted(found.replies.items())},
        "parameters_per_message": strategy.layout.size,
    }
    folder.write_summary({**known, "status": "running"})
    grid.reset()  # the roll call's bytes are no round's
    keep = _keeper(strategy.layout, folder.path)
    last = Rounds(strategy, grid, settings, folder, _tester(settings, strategy.layout, model, labels), keep).run()
    own, together = pooled_personalised(last.evaluations.values()), pooled_shared(last.evaluations.values())
    adapter = folder.path / "adapter"
    note = to_peft(model, _whole_row(settings, strategy.state.x, strategy.layout, model), adapter, labels)
    if note:
        say(note)
    return {
        **known,
        "final": {
            "personalised_accuracy": own.accuracy,
            "personalised_loss": own.loss,
            "shared_accuracy": together.accuracy,
            "shared_loss": together.loss,
            "per_client": {str(client): vars(counts) for client, counts in sorted(last.evaluations.items())},
        },
        "adapter_note": note,
    }


def _check_data(settings: Settings, found: RollCall) -> None:
    """Clients of a simulation hold parts of the server's own data set."""
    own = resources.splits(settings).sha256
    strange = [client for client, reply in sorted(found.replies.items()) if reply.data != own]
    if strange:
        raise InputError(
            "dataset",
            settings.data.dataset,
            f"client {strange[0]} holds another version of it than the server",
            "Run the same data set and Python version on all machines",
        )


def _strategy(
    settings: Settings,
    found: RollCall,
    model: PromptedModel,
    labels: tuple[str, ...],
    layers: tuple[int, ...],
    run: str,
) -> PromptStrategy:
    codec = make_codec(settings.server.precision)
    algorithm = build(settings, found.examples, codec)
    layout = model.layout.select(travelling_names(model.layout, layers))
    x = layout.flatten({name: value for name, value in _initial(settings, model).items() if name in layout.names})
    roster = Roster(
        run=run,
        seed=settings.federation.seed,
        examples={client: reply.examples for client, reply in found.replies.items()},
        nodes=found.nodes,
        labels=labels,
        layers=layers,
        per_round=settings.federation.clients_per_round,
    )
    shared_moments = settings.local.device_second_moment == "shared"
    return PromptStrategy(algorithm, algorithm.initial(layout.names, x), roster, layout, codec, shared_moments)


def _initial(settings: Settings, model: PromptedModel) -> dict[str, Tensor]:
    row = model.initial(settings.federation.seed, settings.model.prompt_init_std)
    return model.layout.unflatten(row)


def _whole_row(settings: Settings, x: Tensor, layout: Layout, model: PromptedModel) -> Tensor:
    """The shared model, [R] float32: x on the layers that travel, the common initial prompts elsewhere (rule 11)."""
    return model.layout.flatten({**_initial(settings, model), **layout.unflatten(x.to(torch.float32))})


def _tester(
    settings: Settings, layout: Layout, model: PromptedModel, labels: tuple[str, ...]
) -> Callable[[State], Counts] | None:
    examples = resources.tokenised(settings).test
    if examples is None:
        return None

    def test(state: State) -> Counts:
        model.bind(_whole_row(settings, state.x, layout, model)[None].to(model.backbone.device))
        return count(model, examples, labels, settings.run.evaluation_batch_size)

    return test


def _keeper(layout: Layout, folder: Path) -> Callable[[State], None]:
    """Writes the shared parameters after each round, so that a run that dies leaves its last ones."""

    def keep(state: State) -> None:
        temporary = folder / ".parameters.safetensors"
        save_parameters(temporary, layout, state.x.to(torch.float32))
        temporary.chmod(0o644)  # safetensors writes files for their owner alone
        temporary.replace(folder / "parameters.safetensors")

    return keep


def _traffic(strategy: PromptStrategy, model: PromptedModel) -> str:
    """What will travel per client and round, and what stays."""
    size = strategy.codec.encode(torch.zeros(1)).itemsize
    layers = strategy.roster.layers
    head = sum(entry.size for entry in model.layout.entries if entry.layer is None)
    here = strategy.layout.size - head
    per_layer = here // len(layers)
    elsewhere = per_layer * (model.backbone.num_layers - len(layers))
    control = strategy.layout.size if strategy.algorithm.drift.downlink(strategy.state) is not None else 0
    rows = [
        (f"prompts of {len(layers)} selected layers, down", here, True),
        (f"prompts of {len(layers)} selected layers, up", here, True),
        ("head, down", head, True),
        ("head, up", head, True),
        ("control variate, down", control, True),
        ("prompts of the other layers, down", elsewhere, False),
        ("prompts of the other layers, up", elsewhere, False),
    ]
    whole = 2 * (here + elsewhere + head) * size
    return traffic_table([(name, n, n * size, travels) for name, n, travels in rows if n], whole)


def _facts(reply: Any) -> dict[str, Any]:
    kept = ("examples", "validation_examples", "steps", "labels")
    return {key: getattr(reply, key) for key in kept}
