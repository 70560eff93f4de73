"""Many runs in one Ray session: it takes longer to start than a small run takes.

A ServerApp does one run after the other; before each it leaves the run-config in a file, where the real ClientApp, in Ray's
processes, is told it. Called by tests/test_combinations_ray.py with a folder that holds run-configs.json, a list.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.server.superlink.fleet.vce.backend.backend import BackendConfig
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

import client_app.app
from federation.settings import parse
from server_app import plots
from server_app.run import run
from tests.small_runs import Flat

ASKED, NOW, DONE = "run-configs.json", "now.json", "done.jsonl"
NODES = 4


class ToldClientApp(ClientApp):
    """The real one, with the run-config of the run that goes on now."""

    def __init__(self, now: Path) -> None:
        super().__init__()
        self.now = now

    def __call__(self, message: Message, context: Context) -> Message:
        told: Flat = json.loads(self.now.read_text(encoding="utf8"))
        return client_app.app.app(message, replace(context, run_config=told))


def serve(folder: Path) -> ServerApp:
    """A ServerApp that does all the runs; one that raises is noted, and the next begins."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        for flat in json.loads((folder / ASKED).read_text(encoding="utf8")):
            temporary = folder / "next.json"
            temporary.write_text(json.dumps(flat), encoding="utf8")
            os.replace(temporary, folder / NOW)
            started, error = time.monotonic(), ""
            try:
                run(grid, parse(flat))
            except Exception:
                error = traceback.format_exc()
            with (folder / DONE).open("a", encoding="utf8") as done:
                done.write(json.dumps({"error": error, "seconds": time.monotonic() - started}) + "\n")

    return app


def no_pictures(folder: Path, tell: Callable[[str], None]) -> list[Path]:
    """They take longer than a small run."""
    return []


def main(folder: Path) -> None:
    """Returns when all runs have ended."""
    plots.draw = no_pictures
    backend: BackendConfig = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(serve(folder), ToldClientApp(folder / NOW), NODES, backend_config=backend)


if __name__ == "__main__":
    from tests.combinations_in_ray import main as begin  # Ray's processes import what it sends them by that name

    begin(Path(sys.argv[1]))
