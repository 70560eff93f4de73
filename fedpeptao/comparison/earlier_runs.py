"""Runs whose prompts a cell mixes: trained once for all cells that mix them, and kept beside the grids' folders."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from federation.prompt_sources import PARTS
from federation.settings import Scalar
from fedpeptao.comparison.sources import located, run_content_sha256

FOLDER = ".prompts"
Train = Callable[[dict[str, Scalar]], object]


def earlier_run(settings: Mapping[str, Scalar], code: str, grids: Path, train: Train) -> Path:
    """The absolute folder of the run with these settings, rows and code; `train` makes it where none is kept.

    Of two processes that want the same run one waits for the other.

    Args:
        code: of all that makes its figures.
        grids: the folder that holds the grids'.
        train: from a complete run-config to a finished run.

    Raises:
        InputError, RunError: of the run, which then is not kept.
    """
    facts = json.dumps([dict(settings), run_content_sha256(settings), code], sort_keys=True)
    kept = grids.resolve() / FOLDER / hashlib.sha256(facts.encode()).hexdigest()[:16]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
                train({**located(settings), "runs-dir": scratch, "run-name": "run"})
                part = Path(scratch) / "part"
                part.mkdir()
                for name in PARTS:
                    shutil.copy(Path(scratch) / "run" / name, part)
                part.rename(kept)
    return kept
