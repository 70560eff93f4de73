"""How many layers travel, estimated after the warm-up (section 2.2 of docs/ALGORITHMS.md): ask, average, keep, report.

The estimate is a function of model, data, settings and seed, so it is kept beside the runs, and a second run that warms up the
same way asks nobody again.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from federation import resources
from federation.grids import RecordingGrid, exchanges
from federation.messages import CurvatureReply
from federation.settings import Settings
from fedpeptao import __version__
from fedpeptao.errors import RunError
from server_app.console import bytes_text, duration, say, warn
from server_app.roll_call import with_progress
from server_app.run_folder import SPECTRUM, RunFolder, write_json
from strategies.fedpeptao import State
from strategies.ratio import weighted_ratio
from strategies.selection import layer_count
from strategies.shell import PromptStrategy

FORMAT = 1
CACHE = ".curvature"
AFTER = (
    *("rounds", "score-order", "score-batches", "unselected-prompts", "proximal", "device-second-moment"),
    *("variant", "drift-correction", "max-lost-share", "step-normalised", "server-optimizer", "server-momentum"),
    *("server-second-momentum", "server-adaptivity", "server-learning-rate"),
    *("round-timeout-s", "test-every", "evaluate-every", "evaluation-batch-size", "test", "runs-dir", "run-name"),
)
"""Settings without influence on the warm-up's prompts or on the estimate; every other one is part of the cache's key."""

Figures = dict[str, Any]


def estimate(
    grid: RecordingGrid, settings: Settings, strategy: PromptStrategy, sent: State, folder: RunFolder
) -> Figures:
    """The ratio and what stands behind it, for the summary; all of it is in the run folder's spectrum.json.

    Args:
        strategy: of the warm-up, after its last round.
        sent: its state before that round, whose x went out.

    Raises:
        RunError: no client answered.
    """
    grid.reset()
    cache = folder.path.parent / CACHE / f"{_key(settings, strategy)}.json"
    figures = _cached(cache)
    if figures is None:
        figures = _ask(grid, settings, strategy, sent)
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, figures)
    else:
        say(f"Ratio: taken from {cache}, measured then in {duration(figures['seconds'])}")
        figures["from_cache"] = True
    write_json(folder.path / SPECTRUM, figures)
    _tell(settings, figures, len(strategy.roster.layers))
    kept = ("estimator", "ratio", "found", "seconds", "peak_bytes", "bytes", "from_cache")
    return {**{key: figures[key] for key in kept}, "clients": len(figures["clients"])}


def _ask(grid: RecordingGrid, settings: Settings, strategy: PromptStrategy, sent: State) -> Figures:
    selection, started = settings.selection, time.monotonic()
    messages = strategy.curvature_messages(sent)
    probes = 1 if selection.estimator == "plateau" else selection.curvature_probes
    say(
        f"Ratio by {selection.estimator}: {len(strategy.last_accepted())} clients, {selection.curvature_steps} Lanczos steps "
        f"for each of {probes} probes, {selection.curvature_examples} examples .."
    )
    answers = with_progress(exchanges(grid, messages, settings.run.round_timeout_s), len(messages))
    outcome, replies = strategy.close_curvature(answers)
    for client, why in outcome.failed.items():
        warn(f"client {client} is left out of the ratio: {why}")
    if outcome.missing:
        warn(f"clients {outcome.missing} are left out of the ratio: no answer within round-timeout-s")
    if not replies:
        why = next(iter(outcome.failed.values()), "no answer within round-timeout-s")
        raise RunError(f"no client could estimate the ratio: {why}. Give ratio a number, such as 0.5, to do without")
    down, up = grid.reset()
    examples = strategy.roster.examples
    return {
        "estimator": selection.estimator,
        "ratio": weighted_ratio((examples[reply.client], reply.ratio) for reply in replies),
        "found": sum(reply.found for reply in replies),
        "round": sent.round + 1,
        "steps": selection.curvature_steps,
        "seconds": time.monotonic() - started,
        "peak_bytes": max(reply.peak_bytes for reply in replies),
        "bytes": down.total() + up.total(),
        "from_cache": False,
        "clients": [{**asdict(reply), "examples": examples[reply.client]} for reply in replies],
        "failed": {str(client): why for client, why in outcome.failed.items()},
        "missing": outcome.missing,
    }


def _tell(settings: Settings, figures: Figures, layers: int) -> None:
    clients = figures["clients"]
    lines = ["   client  examples  ratio   lambda min   lambda max  Lipschitz  widest gap  seconds"]
    for one in clients:
        widest = max((b - a for a, b in zip(one["gaps_low"], one["gaps_high"], strict=True)), default=None)
        lines.append(
            f"{one['client']:>9}  {one['examples']:>8}  {one['ratio']:.3f}"
            f"  {min(one['theta']):>11.3e}  {max(one['theta']):>11.3e}"
            f"  {one['lipschitz']:>9.2e}  {'none' if widest is None else f'{widest:.2e}':>10}  {one['seconds']:>7.1f}"
        )
    count = layer_count(figures["ratio"], layers)
    cost = (
        f"{duration(figures['seconds'])}, {bytes_text(figures['bytes'])}, {bytes_text(figures['peak_bytes'])} of memory"
    )
    lines.append(f"Ratio {figures['ratio']:.3f}: {count} of {layers} layers ({cost} at a process's peak)")
    say("\n".join(lines))
    if not figures["found"]:
        warn(
            "No client found a gap in its spectrum, so that every layer travels. Give ratio a number, such as 0.5; "
            "or look at spectral_density.png, and try more curvature-examples or a lower learning-rate"
        )


def _key(settings: Settings, strategy: PromptStrategy) -> str:
    told = {key: value for key, value in settings.flat().items() if key not in AFTER}
    about = {
        "format": FORMAT,
        "versions": [__version__, str(torch.__version__)],
        "model": resources.backbone(settings).fingerprint,
        "data": resources.splits(settings).sha256,
        "clients": strategy.last_accepted(),
        "settings": told,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _cached(path: Path) -> Figures | None:
    try:
        figures: Figures = json.loads(path.read_text(encoding="utf8"))
        [CurvatureReply(**{k: v for k, v in one.items() if k != "examples"}) for one in figures["clients"]]
        float(figures["ratio"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warn(f"{path} cannot be used ({type(error).__name__}): the ratio is estimated again")
        return None
    return figures
