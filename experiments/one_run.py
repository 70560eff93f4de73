"""A whole run in this process, of which a study keeps figures alone."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client_app.app import app
from federation.grids import InProcessGrid
from federation.settings import Scalar, defaults, parse
from server_app.run import run
from server_app.run_folder import read_history


def one_run(changed: Mapping[str, Scalar]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and metrics.jsonl's lines of a run with the defaults but for `changed`; its folder is gone afterwards.

    Raises:
        InputError: settings or data that cannot be.
        RunError: the run could not go on.
    """
    with tempfile.TemporaryDirectory() as scratch:
        flat = {**defaults(), **changed, "runs-dir": scratch, "run-name": "run"}
        summary = run(InProcessGrid(app, flat, nodes=int(flat["clients"])), parse(flat))
        return dict(summary), read_history(Path(scratch) / "run")
