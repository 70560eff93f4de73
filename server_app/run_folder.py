"""The folder that a run leaves behind: settings, facts, one line of figures per round, summary.

A run can die at any moment, so that each round's line is on disk before the next round starts, and every other file is
either whole or not there.
"""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any, TextIO

import torch
from platformdirs import user_data_path
from safetensors import SafetensorError

from federation import locks
from federation.durable import write_atomically
from federation.resuming import DEPLOYED, FACTS, RESUME, how_to_go_on, is_deployed, read_facts
from federation.settings import Scalar
from fedpeptao import __version__
from fedpeptao.errors import InputError, RunError
from fedpeptao.run_config import to_toml
from server_app.console import warn
from server_app.events import Events

METRICS, SUMMARY, SETTINGS = "metrics.jsonl", "summary.json", "settings.json"
SPECTRUM, PARAMETERS = "spectrum.json", "parameters.safetensors"
"""The fact that a run's clients are on the nodes of a deployment."""
_PACKAGES = ("flwr", "torch", "transformers", "peft", "datasets", "numpy")


class RunFolder:
    """Writes one run's folder; `create` makes it, `reopen` goes on with one. No other server does meanwhile.

    Attributes:
        path: the folder, absolute; others put the parameters and the adapter there.
        locked: whether the system keeps other servers out; some file systems cannot.

    Raises:
        InputError: another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics = (path / METRICS).open("a", encoding="utf8")
        self.locked = _keep_others_out(self._metrics)
        self._events: Events | None = None

    @classmethod
    def create(cls, runs_dir: Path | None, name: str) -> RunFolder:
        """A new run's folder, runs_dir/name.

        Args:
            runs_dir: absolute; None: fedpeptao/runs in the user's data folder.
            name: "": date and time, with -2, -3, .. behind it where that is taken.

        Raises:
            InputError: the name is taken, or that of a folder with other things in it, or the folder cannot be written.
        """
        parent = runs_dir or user_data_path("fedpeptao", appauthor=False) / "runs"
        if name:
            if not _claim(parent / name):
                raise InputError("run-name", name, _taken(parent / name), "Choose another name, or none")
            return cls(parent / name)
        stem = time.strftime("%Y%m%d-%H%M%S")
        names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        return cls(next(path for path in map(parent.joinpath, names) if _claim(path)))

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """The folder of a run that died.

        Raises:
            InputError: it is no run's, cannot be written, or another server has it open.
        """
        try:
            if not (path / METRICS).exists():
                mend = "Give the folder that the run named in its first lines"
                raise InputError("resume", str(path), f"this is no run's folder: it has no {METRICS}", mend)
            return cls(path)
        except OSError as error:
            mend = "Make it one that you can write to"
            raise InputError("resume", str(path), error.strerror or str(error), mend) from error

    def write_facts(self, settings: Mapping[str, Scalar], facts: Mapping[str, object]) -> None:
        """What write_settings writes, and facts.json: the given ones, and those of this process."""
        self.write_settings(settings)
        write_json(self.path / FACTS, {**_process_facts(), **facts})

    def write_settings(self, settings: Mapping[str, Scalar]) -> None:
        """settings.json, and resume.toml: the same settings, to go on with."""
        here = {"resume": str(self.path), "runs-dir": str(self.path.parent)}
        write_json(self.path / SETTINGS, settings)
        write_atomically(self.path / RESUME, to_toml({**settings, **here}).encode())

    def note_deployed(self) -> None:
        """In the facts of a run that goes on, where they do not say so yet."""
        if not is_deployed(self.path):
            write_json(self.path / FACTS, {**read_facts(self.path), DEPLOYED: True})

    def append(self, line: Mapping[str, object]) -> None:
        """One round's figures: to metrics.jsonl, on disk when this returns, and to TensorBoard.

        Missing figures are None; what is not finite becomes null. Numbers may be numpy's or torch's. RunError if the disk does
        not take it.
        """
        figures = plain(line)
        with keeping(f"round {figures.get('round')}", self.path / METRICS, self.path):
            if self._events is None:
                self._events = Events(self.path / "tensorboard", self.history())
            self._metrics.write(json.dumps(figures, allow_nan=False) + "\n")
            self._metrics.flush()
            os.fsync(self._metrics.fileno())
            self._events.add(figures)

    def history(self) -> list[dict[str, Any]]:
        """The lines so far."""
        return read_history(self.path)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """summary.json. RunError if the disk does not take it."""
        with keeping("the summary", self.path / SUMMARY, self.path):
            write_json(self.path / SUMMARY, summary)

    def close(self) -> None:
        """Nothing can be appended any more; what a full disk did not take was told by `append`."""
        with suppress(OSError):
            self._metrics.close()
        if self._events is not None:
            with suppress(OSError):
                self._events.close()


@contextmanager
def keeping(what: str, path: Path, run: Path) -> Iterator[None]:
    """A block that writes a file into a run's folder.

    Raises:
        RunError: the disk does not take it; it says how the run goes on.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has a class of its own for what the system says
        reason = getattr(error, "strerror", None) or str(error)
        mend = f"Make room there and go on with {how_to_go_on(run)}"
        raise RunError(f"{what} cannot be kept in {path}: {reason}. {mend}") from error


def run_name(folder: Path, summary: Mapping[str, Any]) -> str:
    """A run's name, wherever its folder lies now."""
    return Path(str((summary.get("paths") or {}).get("run_folder") or folder)).name


def check_simulated(folder: Path) -> None:
    """A simulation goes on with what was one: its clients would begin anew, without what they have on their nodes.

    Raises:
        InputError: it was none.
    """
    if is_deployed(folder):
        problem = "its clients are on the nodes of a deployment, and a simulation has none of what they keep"
        raise InputError("resume", str(folder), problem, f"Go on with {how_to_go_on(folder)}")


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json as it is now; {} if there is none."""
    path = folder / SUMMARY
    return dict(json.loads(path.read_text(encoding="utf8"))) if path.exists() else {}


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's metrics.jsonl; a last line that was cut short (the run was killed) is left out.

    Raises:
        ValueError: another line is no JSON object.
    """
    path = folder / METRICS
    lines = path.read_text(encoding="utf8", errors="replace").split("\n")
    lines.pop()  # what follows the last line end: nothing, or a torn line
    history = []
    for number, line in enumerate(lines, start=1):
        try:
            history.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is no JSON object: {line[:60]!r}") from error
    return history


def plain(value: object) -> Any:
    """As JSON holds it: numpy's and torch's numbers and arrays as Python's, NaN and infinity as None, paths as text.

    Raises:
        TypeError: JSON has no place for it.
    """
    if isinstance(value, float):  # numpy.float64 is one
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{value!r} ({type(value).__name__}) has no place in JSON")


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file atomically."""
    write_atomically(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def _claim(path: Path) -> bool:
    """Makes the folder with an empty metrics.jsonl in it; False if anything is there. Of many at once, one succeeds."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            return False
        (path / METRICS).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.ENAMETOOLONG:
            raise InputError("run-name", path.name, reason, "Choose a shorter name, or none") from error
        raise InputError("runs-dir", str(path.parent), reason, "Name a folder that you can write to") from error
    return True


def _taken(path: Path) -> str:
    """By whom."""
    if not path.is_dir() or (path / METRICS).exists():
        return f"it is taken in {path.parent}"
    return f"{path} is no run's folder, and not empty: it holds {min((one.name for one in path.iterdir()), default=METRICS)}"


def _keep_others_out(metrics: TextIO) -> bool:
    """From a folder that is written to, until the file is closed or this process ends, however it ends; False: nobody can."""
    try:
        locks.take(metrics)
        return True
    except BlockingIOError as error:
        metrics.close()
        folder = str(Path(metrics.name).parent)
        problem = "a server that is alive works in this folder"
        raise InputError("resume", folder, problem, "Wait for its end, or stop it first") from error
    except OSError as error:
        warn(f"{metrics.name} cannot be locked ({error.strerror}): take care that no second server works in its folder")
        return False


def _process_facts() -> dict[str, object]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "fedpeptao": __version__,
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in _PACKAGES},
        },
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
    }


def _cpu() -> str:
    """The CPU's type: the same bits are promised on one type only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
