"""The folders of client states on one node: `<run>/clients/client-<i>/round-<t>.safetensors`. Loads no model library.

Who uses a run's states holds its lock together with others; who removes them holds it alone. The system takes a lock from a
process when it ends, however it ends, so that no lock outlives its holder and no clock decides.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from federation.logs import LOG
from federation.run_paths import CLIENTS
from fedpeptao.errors import InputError

_LOCK = ".lock"
_REMOVED = f".{CLIENTS}-removed"  # what is being removed, or was, when a removal was cut short
_CLIENT = re.compile(r"client-[0-9]+")
_STATE = re.compile(r"round-([0-9]+)\.safetensors")


def client_folder(folder: Path, client: int) -> Path:
    """Where a client's states lie, in a run's folder of states."""
    return folder / f"client-{client}"


def state_name(made_in: int) -> str:
    """The file of the state that a round made."""
    return f"round-{made_in}.safetensors"


def round_of(path: Path) -> int:
    """The round that made a state's file, by its name; -1 of another file."""
    made = _STATE.fullmatch(path.name)
    return int(made[1]) if made else -1


class InUseError(RuntimeError):
    """A living process works with these states, or it cannot be known that none does."""


class Held:
    """A run's states in use by this process, until close or the end of the process.

    Raises:
        OSError: there is no such folder, or the file system has no locks.
    """

    _file = -1  # none open

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK
        while not self.holds():  # who waits while another removes the folder gets the lock of a file that is gone
            self.close()
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def holds(self) -> bool:
        """Whether it is still the folder of that name that is held."""
        return self._file >= 0 and self._path.exists() and os.path.samestat(os.fstat(self._file), self._path.stat())

    def close(self) -> None:
        """Others may remove the states."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else works with these states meanwhile.

    Raises:
        InUseError: somebody does, or it cannot be known.
    """
    file = -1
    try:
        file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if file >= 0:
            os.close(file)
        held = isinstance(error, BlockingIOError)
        raise InUseError(
            "a living process works with it" if held else f"{folder}: {error.strerror or error}"
        ) from error
    try:
        yield
    finally:
        os.close(file)


@dataclass(frozen=True)
class KeptRun:
    """The states of a run's clients on this node.

    Attributes:
        run: its name.
        folder: of the states; of what is left of them, where a removal was cut short.
        clients: how many have a folder.
        size_bytes: of all files.
        last_round: the latest round that a state was made in; None without any.
        changed: when a file was last written, in seconds since 1970.
        in_use: whether a living process works with them, or it cannot be known.
    """

    run: str
    folder: Path
    clients: int
    size_bytes: int
    last_round: int | None
    changed: float
    in_use: bool

    def remove(self) -> None:
        """Removes the states, and the run's folder if nothing else is in it but the node's log of that run.

        Raises:
            InUseError: a living process works with them.
            OSError: the system refuses.
        """
        parent = self.folder.parent
        away = parent / _REMOVED
        with _alone(self.folder):
            if self.folder != away:
                shutil.rmtree(away, ignore_errors=True)  # of a removal that was cut short
                self.folder.rename(away)  # first, so that nobody works with half of it
            beside = {path.name for path in parent.iterdir()}
            if beside <= {_REMOVED, LOG}:  # a server's log stands beside the run's results
                (parent / LOG).unlink(missing_ok=True)  # before the states: while some are left, the run is listed
            shutil.rmtree(away)
        if not any(parent.iterdir()):
            parent.rmdir()


def kept_runs(place: Path) -> list[KeptRun]:
    """All runs with client states in a place, by name; [] if there is no such place.

    A run's folder is one whose `clients` holds what stands here and nothing else: other programs have folders of that name, too.
    What a removal that was cut short left counts as well, whatever is gone of it.

    Raises:
        InputError: the place is above one that holds runs, as the folder of a node (`start supernode --state`) is.
    """
    if not place.is_dir():
        return []
    paths = sorted(place.iterdir())
    for above in (place, *paths):
        if any(_state_folders(run) for run in _inside(above / CLIENTS)):
            problem = f"no runs lie there: client states of runs are in {above / CLIENTS}"
            raise InputError("--state-dir", str(place), problem, "Give that folder")
    return [_kept_run(path.name, folders) for path in paths if (folders := _state_folders(path))]


def _state_folders(run: Path) -> list[Path]:
    """Those that a run has: of its states, and of what is left of states that were to be removed."""
    folders = [run / CLIENTS] if _inside(run / CLIENTS) else []
    folders += [run / _REMOVED] if (run / _REMOVED).is_dir() else []
    return [folder for folder in folders if all(_is_ours(path.name) for path in _inside(folder))]


def _is_ours(name: str) -> bool:
    return name == _LOCK or _CLIENT.fullmatch(name) is not None


def _inside(folder: Path) -> list[Path]:
    """What lies in it; [] if it is no folder, or none that this user can look into."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _kept_run(run: str, folders: Sequence[Path]) -> KeptRun:
    rounds, size, clients, changed = [], 0, set(), 0.0
    for folder in folders:
        changed = max(changed, folder.stat().st_mtime)
        for client in os.scandir(folder):
            if not client.is_dir():
                continue
            clients.add(client.name)
            for file in os.scandir(client):
                facts, made = file.stat(), round_of(Path(file.name))
                size, changed = size + facts.st_size, max(changed, facts.st_mtime)
                rounds += [made] if made >= 0 else []
    return KeptRun(run, folders[0], len(clients), size, max(rounds, default=None), changed, _in_use(folders[0]))


def _in_use(folder: Path) -> bool:
    if not (folder / _LOCK).exists():
        return False
    try:
        with _alone(folder):
            return False
    except InUseError:
        return True
