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

from federation import resources
from federation.evaluation import Counts, count
from federation.grids import RecordingGrid
from federation.messages import Evaluation
from federation.metrics import figures
from federation.remarks import remarks
from federation.run_paths import runs_folder
from federation.settings import Settings, defaults
from fedpeptao.console import RUN_FOLDER
from fedpeptao.errors import InputError
from models.curvature import check_second_derivative
from models.export import save_parameters, to_peft
from server_app import ratio_phase, roll_call
from server_app.assembly import Assembly, strategy_model, traffic, whole_row
from server_app.console import layers_table, say, settings_table, summary_table
from server_app.finish import finish
from server_app.roll_call import RollCall
from server_app.rounds import Rounds, pooled_personalised, pooled_shared
from server_app.run_folder import PARAMETERS, RunFolder
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
    for remark in remarks(settings):
        say(f"Remark: {remark}")
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
    two = [*resources.label_words(settings), "0", "1"][:2]  # of any labels: the run's are not known yet
    model = resources.prompted(settings, tuple(range(backbone.num_layers)), two)  # refuses a head that it cannot have
    if settings.selection.estimator:
        check_second_derivative(model, "ratio", settings.selection.estimator)
    if settings.local.clients_together > 1 and (other := model.of_one_client()):
        problem = f"the head's {other[0]} cannot differ from client to client within one forward pass"
        raise InputError(
            "clients-together", settings.local.clients_together, problem, 'Set it to 1, or head to "linear"'
        )
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
            "data": {
                "name": splits.name,
                "sha256": splits.sha256,
                "train": len(splits.train),
                "pairs": "text_pair" in splits.train.column_names,
            },
            "model": {"name": backbone.name, "fingerprint": backbone.fingerprint},
        },
    )
    say(f"Roll call: {settings.federation.clients} clients ..")
    found = roll_call.call(grid, settings, folder.path.name)
    _check_data(settings, found)
    labels = roll_call.agree_labels(settings, found)
    scores = roll_call.layer_scores(settings, found)
    metric = resources.metric(settings)
    known: Summary = {
        "metric": metric,
        "floor": {"commonest_label_accuracy": found.commonest_label_accuracy},
        "labels": list(labels),
        "layer_scores": scores,
        "clients": {str(client): _facts(reply) for client, reply in sorted(found.replies.items())},
    }
    folder.write_summary({**known, "status": "running"})
    grid.reset()  # the roll call's bytes are no round's
    assembly = Assembly(settings, found, labels, folder.path)
    rounds = Rounds(grid, settings, folder, _tester(settings), _keeper(folder.path))
    warm, ratio = None, settings.selection.ratio
    if isinstance(ratio, str):
        warm = assembly.warm_up(backbone.num_layers)
        rounds.run(warm, settings.selection.warmup_rounds)
        known["ratio"] = ratio_phase.estimate(grid, settings, warm, folder)
        ratio = float(known["ratio"]["ratio"])
    layers = roll_call.select_layers(settings, scores, ratio, backbone.num_layers)
    say(layers_table(scores, layers))
    strategy = assembly.strategy(layers, warm)
    say(traffic(settings, strategy))
    known |= {"layers": list(layers), "parameters_per_message": strategy.layout.size}
    folder.write_summary({**known, "status": "running"})
    rounds.run(strategy, settings.federation.rounds)
    evaluations = rounds.evaluation().evaluations
    own, together = pooled_personalised(evaluations.values()), pooled_shared(evaluations.values())
    note = to_peft(strategy_model(settings, strategy), whole_row(settings, strategy), folder.path / "adapter", labels)
    if note:
        say(note)
    return {
        **known,
        "final": {
            **figures("personalised", own, metric),
            "personalised_loss": own.loss,
            **figures("shared", together, metric),
            "shared_loss": together.loss,
            "per_client": {str(client): _counts(found) for client, found in sorted(evaluations.items())},
        },
        "adapter_note": note,
    }


def _counts(evaluation: Evaluation) -> dict[str, int | float]:
    """Without the confusion matrices."""
    return {name: value for name, value in vars(evaluation).items() if not isinstance(value, tuple)}


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


def _tester(settings: Settings) -> Callable[[PromptStrategy], Counts] | None:
    examples = resources.tokenised(settings).test
    if examples is None:
        return None

    def test(strategy: PromptStrategy) -> Counts:
        model = strategy_model(settings, strategy)
        model.bind(whole_row(settings, strategy)[None].to(model.backbone.device))
        return count(model, examples, strategy.roster.labels, settings.run.evaluation_batch_size)

    return test


def _keeper(folder: Path) -> Callable[[PromptStrategy], None]:
    """Writes the shared parameters after each round, so that a run that dies leaves its last ones."""

    def keep(strategy: PromptStrategy) -> None:
        temporary = folder / f".{PARAMETERS}"
        save_parameters(temporary, strategy.layout, strategy.state.x.to(torch.float32))
        temporary.chmod(0o644)  # safetensors writes files for their owner alone
        temporary.replace(folder / PARAMETERS)

    return keep


def _facts(reply: Any) -> dict[str, Any]:
    kept = ("examples", "validation_examples", "steps", "labels", "scores")
    return {key: getattr(reply, key) for key in kept}
