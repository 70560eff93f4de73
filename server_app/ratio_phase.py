"""How many layers travel, estimated after the warm-up (section 2.2 of docs/ALGORITHMS.md): ask, average, keep, report.

    r = sum (n_i/n) r_i        over the clients of the last warm-up round that answered

The estimate is a function of model, data, settings, seed and where the warm-up came to, so it is kept beside the runs, and a
second run that warms up the same way asks nobody again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from federation import resources
from federation.grids import RecordingGrid, exchanges
from federation.settings import Scalar, Settings
from fedpeptao import __version__
from fedpeptao.errors import RunError
from server_app.console import duration, ratio_table, say, warn
from server_app.progress import with_progress
from server_app.run_folder import SPECTRUM, RunFolder, plain, write_json
from strategies.ratio import weighted_ratio
from strategies.shell import SelectiveStrategy

FORMAT = 2
CACHE = ".curvature"
WITHOUT_INFLUENCE = (
    *("rounds", "score-order", "score-batches", "unselected-prompts", "device-second-moment", "proximal"),
    *("score", "perturbation", "perturbation-examples", "update-share", "fisher-momentum", "fisher-batches"),
    *("variant", "drift-correction", "control-precision", "max-lost-share", "step-normalised"),
    *("server-optimizer", "server-momentum", "server-second-momentum", "server-adaptivity", "server-learning-rate"),
    "server-ema",
    *("round-timeout-s", "test-every", "evaluate-every", "evaluation-batch-size", "runs-dir", "run-name"),
    *("final-local-epochs", "checkpoints", "resume", "min-clients", "quorum", "quorum-wait-s", "state-disk-mb"),
    *("norm-limit", "strikes", "message-limit-mb"),
)
"""Settings that change neither the warm-up's prompts nor the estimate, or by the point that it came to alone, as `rounds` under
a curriculum; every other one is part of the cache's key, and so is that point."""

Figures = dict[str, Any]


def estimate(grid: RecordingGrid, settings: Settings, strategy: SelectiveStrategy, folder: RunFolder) -> Figures:
    """The ratio and what it cost, for the summary; all that stands behind it is in the run folder's spectrum.json.

    Args:
        strategy: of the warm-up, after its last round.

    Raises:
        RunError: no client could answer.
    """
    history = folder.history()
    facts = {**_facts(settings, folder.path.name), "point": _point(strategy)}
    cache = folder.path.parent / CACHE / f"{cache_key(settings.flat(), facts, history)}.json"
    figures = _cached(cache)
    if figures is None:
        figures = _ask(grid, settings, strategy)
        if not figures["failed"] and not figures["missing"]:
            _keep(cache, figures)
    else:
        figures["from_cache"] = True
        say(f"Ratio: taken from {cache}, estimated then in {duration(figures['seconds'])}")
    write_json(folder.path / SPECTRUM, figures)
    say(ratio_table(figures, len(strategy.roster.layers)))
    if not figures["found"]:
        warn(
            "No client found a gap in its spectrum, so that every layer travels.\n"
            'Give ratio a number, such as 0.5, or "plateau"; or look at spectral_density.png:\n'
            "more curvature-steps narrow what covers a gap, and with a lower learning-rate a narrower gap is enough."
        )
    kept = ("estimator", "ratio", "found", "seconds", "peak_bytes", "from_cache")
    return {
        **{key: figures[key] for key in kept},
        "clients": len(figures["clients"]),
        "bytes": figures["down_bytes"] + figures["up_bytes"],
    }


def _ask(grid: RecordingGrid, settings: Settings, strategy: SelectiveStrategy) -> Figures:
    grid.reset()  # what has passed is counted with its round
    started, messages = time.monotonic(), strategy.curvature_messages()
    say(f"Ratio by {settings.selection.estimator}: {len(strategy.last_accepted())} clients ..")
    answers = with_progress(exchanges(grid, messages, settings.run.round_timeout_s), len(messages))
    outcome, replies = strategy.close_curvature(answers)
    for client, why in outcome.failed.items():
        warn(f"client {client} is left out of the ratio: {why}")
    for client in outcome.missing:
        warn(f"client {client} is left out of the ratio: no answer within round-timeout-s")
    if not replies:
        why = next(iter(outcome.failed.values()), "no answer within round-timeout-s")
        raise RunError(f"no client could estimate the ratio: {why}. Give ratio a number, such as 0.5, to do without")
    down, up = grid.reset()
    examples = strategy.roster.examples
    return {
        "estimator": settings.selection.estimator,
        "ratio": weighted_ratio((examples[reply.client], reply.ratio) for reply in replies),
        "found": sum(reply.found for reply in replies),
        "round": strategy.state.round,
        "settings": {key: value for key, value in settings.flat().items() if key.startswith(("curvature-", "warmup-"))},
        "seconds": time.monotonic() - started,
        "peak_bytes": max(reply.peak_bytes for reply in replies),
        "down_bytes": down.total(),
        "up_bytes": up.total(),
        "from_cache": False,
        "clients": [{**asdict(reply), "examples": examples[reply.client]} for reply in replies],
        "failed": {str(client): why for client, why in outcome.failed.items()},
        "missing": outcome.missing,
    }


# -- the cache ---------------------------------------------------------------------------------------------


def cache_key(flat: Mapping[str, Scalar], facts: Mapping[str, str], history: Sequence[Mapping[str, Any]]) -> str:
    """A name for all that the estimate follows from.

    Args:
        flat: the run's settings.
        facts: of model, data, versions and the point.
        history: the warm-up's lines of metrics.jsonl; who was asked, and whose replies were lost, has a part in its prompts.
    """
    about = {
        "format": FORMAT,
        "facts": facts,
        "settings": {key: value for key, value in flat.items() if key not in WITHOUT_INFLUENCE},
        "rounds": [_asked_and_lost(line) for line in history],
    }
    return _digest(about)[:32]


def _asked_and_lost(line: Mapping[str, Any]) -> list[Any]:
    return [list(line.get(key) or ()) for key in ("clients", "failed", "missing", "left_out")]


def _facts(settings: Settings, run: str) -> dict[str, str]:
    """Of nodes' own data nobody knows whether another run had the same: then an estimate is good for its run alone."""
    return {
        "fedpeptao": __version__,
        "torch": str(torch.__version__),
        "model": resources.backbone(settings).fingerprint,
        "data": f"of {run}" if settings.federation.own_data else resources.splits(settings).sha256,
    }


def _point(strategy: SelectiveStrategy) -> str:
    """Of where the last round began and ended: what settings do not tell, such as a state that a client lost, shows there.

    So does the pace of a curriculum, whose rounds may be others since the warm-up began.
    """
    names = json.dumps(strategy.layout.names).encode()
    values = torch.stack([strategy.sent, strategy.state.x]).to(torch.float64).cpu().numpy()
    return hashlib.sha256(names + values.tobytes()).hexdigest()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def _keep(path: Path, figures: Figures) -> None:
    """Complete estimates only: one that lacks a client is good for its own run."""
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"sha256": _digest(figures), "figures": figures})
    except OSError as error:
        warn(f"the estimate is not kept for other runs: {error}")


def _cached(path: Path) -> Figures | None:
    try:
        kept = json.loads(path.read_text(encoding="utf8"))
        figures: Figures = kept["figures"]
        if kept["sha256"] != _digest(figures):
            raise ValueError("its checksum is another")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        warn(f"{path} is damaged ({type(error).__name__}: {error}): the ratio is estimated again")
        return None
    return figures
