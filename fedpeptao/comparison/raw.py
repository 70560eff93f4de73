"""A cell's raw file: JSON lines, first what it was made with, then one line per evaluation over all clients, then its end.

Bytes and seconds are sums from the beginning. Bytes of evaluations over all clients, and their seconds, stand apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from federation.durable import make_folder, write_atomically
from federation.remarks import without_effect
from federation.settings import Scalar, defaults, parse
from fedpeptao.comparison.grid import Cell
from fedpeptao.comparison.sources import in_folder
from fedpeptao.errors import InputError

FIGURES = 1
"""Of the code that makes figures: raise it where a change makes other figures of the same settings. (The small cell that tests
run again says when.) Cells of an earlier number are run again."""
COMPLETED, FAILED = "completed", "failed"
PROCESSOR = "processor"
"""How a cell's seconds were taken: each client's processor time. Cells without this word have the clock's, cut down by the share
of a core that the process had in all: what they took as a whole is known, what each of their rounds took is not."""


@dataclass(frozen=True)
class Point:
    """An evaluation over all clients.

    Attributes:
        round: after which; 0 before any.
        personalised: by the run's metric, each client's shard with its own model, pooled.
        shared: likewise with the shared model.
        global_test: the shared model on the common test set; None without one.
        down, up: bytes of training messages so far.
        evaluation: bytes of evaluations over all clients so far.
        seconds: of training so far on a core of its own, with clients one after the other; None where it was not measured.
        side_by_side: of training so far, had each round's clients run side by side: the slowest one, and the server.
        train_loss: mean of the round's clients; None in round 0.
    """

    round: int
    personalised: float
    shared: float
    global_test: float | None
    down: int
    up: int
    evaluation: int
    seconds: float | None = None
    side_by_side: float | None = None
    train_loss: float | None = None

    @property
    def sent(self) -> int:
        """Bytes of training so far, both ways."""
        return self.down + self.up


@dataclass(frozen=True)
class Result:
    """A raw file.

    Attributes:
        made: method, task, alpha, seed, rate, settings, metric, source, data, model, versions, machine, how seconds were taken.
        points: by round.
        end: status, why, floor, layers, parameters per message, seconds in all (cpu_seconds: of the
            process; load: of the machine at the end), and the last evaluation's counts by client.
    """

    made: Mapping[str, Any]
    points: tuple[Point, ...]
    end: Mapping[str, Any]

    @property
    def completed(self) -> bool:
        """False where the run itself could not go on: training diverged."""
        return bool(self.end["status"] == COMPLETED)

    @property
    def last(self) -> Point:
        """The last evaluation."""
        return self.points[-1]


def evened(result: Result) -> Result:
    """Its seconds spread evenly over its rounds, where only those of the whole run are known."""
    if result.made.get("clock") == PROCESSOR or not result.points or not result.last.round:
        return result
    last = result.last

    def by(point: Point, whole: float | None) -> float | None:
        return None if whole is None else whole * point.round / last.round

    points = [
        replace(point, seconds=by(point, last.seconds), side_by_side=by(point, last.side_by_side))
        for point in result.points
    ]
    return replace(result, points=tuple(points))


def write_raw(path: Path, result: Result) -> None:
    """Whole or not there."""
    lines = [{"cell": result.made}, *({"evaluation": asdict(point)} for point in result.points), {"end": result.end}]
    make_folder(path.parent)
    write_atomically(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode())


def read_raw(path: Path) -> Result:
    """A raw file.

    Raises:
        OSError: it is not there.
        ValueError: it is none.
    """
    try:
        first, *points, last = (json.loads(line) for line in path.read_text(encoding="utf8").splitlines())
        return Result(first["cell"], tuple(Point(**line["evaluation"]) for line in points), last["end"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no raw file of a comparison ({type(error).__name__}: {error})") from error


def found(cell: Cell, source: str | None = None) -> Result | None:
    """What is there of a cell with the same settings, the same code for figures and the same data.

    source: sha256 of the data as they are now; None: not looked at. A setting that was added since the cell was made, and is
    at its default, changes nothing; nor does one without effect.

    Raises:
        InputError: the file is damaged.
    """
    try:
        result = read_raw(cell.path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError("raw file", str(cell.path), str(error), "Delete it, so that the cell runs again") from error
    same = _identity(result.made) == _identity(_told(cell)) and result.made["figures"] == FIGURES
    return result if same and source in (None, result.made["source"]) else None


def taken_over(cell: Cell, source: str | None) -> Path | None:
    """Where the same cell is there under another name, or of another grid beside this one: copies it, and says whence."""
    wanted, folder = _identity(_told(cell)), cell.path.parent.parent
    for path in sorted(folder.glob("*/*.jsonl"), key=lambda path: (path.name != cell.path.name, path)):
        if path != cell.path and _known(path, path.stat().st_mtime_ns, source) == wanted:
            there = read_raw(path)
            write_raw(cell.path, replace(there, made={**there.made, **cell.place}))
            return path
    return None


@lru_cache(maxsize=4096)
def _known(path: Path, changed: int, source: str | None) -> str:
    """The identity of what a raw file holds; "" of one that would not do, or is none. changed: when it was, in ns."""
    try:
        made = read_raw(path).made
    except ValueError:  # a grid whose own it is says so
        return ""
    return _identity(made) if made["figures"] == FIGURES and source in (None, made["source"]) else ""


def _told(cell: Cell) -> dict[str, Any]:
    return {"settings": cell.settings, "prompt_sources": cell.prompt_sources}


def _identity(made: Mapping[str, Any]) -> str:
    """What makes the figures, data aside: the cell's settings, and those of the runs whose prompts it mixes."""
    runs = {"": made["settings"], **made.get("prompt_sources", {})}
    return json.dumps({name: _that_count(settings) for name, settings in runs.items()}, sort_keys=True)


def _that_count(settings: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Without those that have no effect beside the others, whose defaults may have changed since; 1 is 1.0."""
    whole = {**defaults(), **settings}
    given = {**in_folder(whole, Path("/")), **({"prompt-sources": "/any"} if whole["prompt-sources"] else {})}
    try:
        parsed = parse(given)
    except InputError:  # of a version that knew other settings
        return whole
    flat, inert = parsed.flat(), without_effect(parsed)
    return {key: told if isinstance(told, str) else flat[key] for key, told in whole.items() if key not in inert}
