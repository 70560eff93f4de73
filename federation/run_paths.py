"""Where a run's files lie. Paths are absolute: a ServerApp's working directory is that of the first `flwr run` ever."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from federation.messages import MessageError
from federation.node_config import NodeConfig
from federation.settings import Settings

CLIENTS = "clients"
"""The folder of client states in a run's folder."""
_LONGEST_NAME = 255  # bytes, of a file system's names


def runs_folder(settings: Settings) -> Path:
    """`runs-dir`, or a folder in the user's data folder."""
    return Path(settings.run.runs_dir) if settings.run.runs_dir else platformdirs.user_data_path("fedpeptao") / "runs"


def state_folder(settings: Settings, run: str, node: NodeConfig) -> Path:
    """The folder of this node's clients' states in one run; the node's own `state-dir` goes before the run's setting.

    Raises:
        MessageError: a run name that is no plain folder name: it comes from outside.
    """
    if not run or "/" in run or "\0" in run or run in (".", "..") or len(run.encode()) > _LONGEST_NAME:
        raise MessageError(f"{run[:50]!r} is not a run's name")
    return (Path(node.state_dir) if node.state_dir else runs_folder(settings)) / run / CLIENTS
