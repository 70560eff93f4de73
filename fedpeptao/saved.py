"""What a run left, read from its folder alone, before any model is loaded.

A folder that `fedpeptao export` wrote holds the same files, so it is read the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from federation.resuming import FACTS
from federation.run_paths import runs_folder
from federation.settings import Scalar, Settings, defaults, parse
from fedpeptao.errors import InputError, within_reach
from models.export import load_named
from server_app.run_folder import PARAMETERS, SETTINGS, SUMMARY, read_history, run_name

EXPORTED = "exported"
"""The status in the summary of a folder that holds one model and no run."""
_LATEST = 3


@dataclass(frozen=True)
class Saved:
    """What lies in a folder, before any model is loaded.

    Attributes:
        folder: absolute.
        settings: the run's, under those given when it was read.
        summary: summary.json; labels are in it from the roll call on.
        facts: facts.json.
        parameters: by name, float32; their prompts say which layers' were shared (in an exported folder: all prompts).
        remarks: what a user should know, a line each.
    """

    folder: Path
    settings: Settings
    summary: Mapping[str, Any]
    facts: Mapping[str, Any]
    parameters: Mapping[str, Tensor]
    remarks: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's, wherever its folder lies now."""
        return str(self.summary.get("run") or run_name(self.folder, self.summary))

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the outputs."""
        return tuple(self.summary["labels"])

    @property
    def layers(self) -> tuple[int, ...]:
        """Those of which something is among the parameters: the second part of a name, `prompt.3`, is its layer."""
        tuned = (name.split(".") for name in self.parameters if not name.startswith("head."))
        return tuple(sorted({int(parts[1]) for parts in tuned if parts[1].isdigit()}))


def find_run(given: str | Path) -> Path:
    """A run's folder: a path, or a name in the default place.

    Raises:
        InputError: there is none, or it is no run's.
    """
    place = runs_folder(parse(defaults()))
    for path in (Path(given).expanduser(), place / given):
        with within_reach("RUN", path):
            if path.is_dir():
                return _run_folder(path.resolve())
    latest = sorted((path for path in place.glob("*") if (path / SETTINGS).exists()), key=lambda p: p.stat().st_mtime)
    names = ", ".join(path.name for path in reversed(latest[-_LATEST:]))
    there = f"The latest in {place}: {names}" if names else f"There are no runs in {place} either: name the folder"
    raise InputError("RUN", str(given), "there is no such folder", there)


def _run_folder(folder: Path) -> Path:
    if not (folder / SETTINGS).exists():
        mend = "Give the folder that the run named in its first lines"
        raise InputError("RUN", str(folder), f"this is no run's folder: it has no {SETTINGS}", mend)
    return folder


def read_run(given: str | Path, overriding: Mapping[str, Scalar] | None = None) -> Saved:
    """What a run left; of one that was cut short, what its last finished round left.

    Args:
        given: its folder, or its name in the default place.
        overriding: settings that go before the run's own.

    Raises:
        InputError: it is no run's folder, or no round was finished.
    """
    folder = find_run(given)
    settings = _settings(folder, overriding or {})
    summary, facts = read_json(folder / SUMMARY), read_json(folder / FACTS)
    if not (folder / PARAMETERS).exists() or "labels" not in summary:
        what = ", ".join(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
        status = summary.get("status", "unknown")
        problem = f"no round of it was finished (status {status}), so it has no parameters; it holds {what}"
        raise InputError("RUN", str(folder), problem, "Give a run that came further")
    remarks: tuple[str, ...] = ()
    if summary.get("status") not in ("completed", EXPORTED):
        last = max((line["round"] for line in read_history(folder)), default=0)
        rounds = settings.federation.rounds
        remarks = (f"this run is {summary.get('status')}: its parameters are those after round {last} of {rounds}",)
    return Saved(folder, settings, summary, facts, load_named(folder / PARAMETERS), remarks)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. InputError where it is damaged."""
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf8")))
    except (ValueError, TypeError) as error:
        raise InputError("RUN", str(path), f"it is damaged ({error})", "Give another copy of the run") from error


def _settings(folder: Path, overriding: Mapping[str, Scalar]) -> Settings:
    """Settings that came after the run was made have their defaults, which leave earlier runs as they were."""
    own, known = read_json(folder / SETTINGS), defaults()
    if strange := sorted(set(own) - set(known)):
        version = (read_json(folder / FACTS).get("versions") or {}).get("fedpeptao", "another version")
        problem = f"its settings have {strange[0]}, which this version does not know"
        raise InputError("RUN", str(folder), problem, f"Use the fedpeptao that made it ({version})")
    return parse({**known, **own, **overriding})
