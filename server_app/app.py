"""The ServerApp: settings in, a run, and an exit status that tells how it went."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import grpc_grid

from federation import pauses
from federation.settings import parse
from fedpeptao.console import fail
from fedpeptao.errors import InputError, RunError
from server_app.run import run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs; a message for the user comes before any traceback."""
    if isinstance(grid, grpc_grid.GrpcGrid):
        pauses.look_again_soon(grpc_grid)
    try:
        run(grid, parse(context.run_config))
    except (InputError, RunError) as error:
        fail(f"error: {error}")
        raise  # Flower marks the run as failed for any exception but SystemExit
