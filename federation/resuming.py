"""How a run goes on, by what its folder says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FACTS, RESUME = "facts.json", "resume.toml"
DEPLOYED = "deployed"


def read_facts(folder: Path) -> dict[str, Any]:
    """facts.json; {} where it cannot be read."""
    try:
        return dict(json.loads((folder / FACTS).read_text(encoding="utf8")))
    except (OSError, ValueError, TypeError):
        return {}


def is_deployed(folder: Path) -> bool:
    """Whether a run's clients are on the nodes of a deployment; False where its facts do not say so."""
    return read_facts(folder).get(DEPLOYED) is True


def how_to_go_on(folder: Path, change: str = "", federation: str = "<federation>") -> str:
    """The command. `flwr run` takes a file of settings, and none beside it.

    Args:
        change: key=value, of a setting that has to be another.
        federation: its name, of a deployed run.
    """
    if not is_deployed(folder):
        return f"fedpeptao run --resume {folder}" + (f" --run-config '{change}'" if change else "")
    start, path = f"flwr run . {federation} --stream --run-config", folder / RESUME
    return f"copy {path}, set {change} in the copy, and {start} <the copy>" if change else f"{start} {path}"
