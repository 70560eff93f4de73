"""Clients' states on disk: a folder per client, in it a file per round, under rules that hold whatever happens to the disk.

A state's round is its file's name, so that accepting one moves nothing: a new state is on disk beside the accepted one before
the reply leaves, and the older one goes when the server says that it accepted the newer. Every file is read whole before it is
used or dropped. One that is not what it should be is set aside, never deleted, and counts as lost. No rule asks a clock.
"""

from __future__ import annotations

import contextlib
import os
from functools import lru_cache
from itertools import count
from pathlib import Path

from client_app.state import ClientState, StateBoundError, StateError
from client_app.state_file import NotAStateError, Owner, pack, unpack
from client_app.state_folder import Held, client_folder, round_of, state_name
from federation.durable import make_folder, write_atomically
from federation.logs import logger

_ASIDE = "set-aside"


class DiskStore:
    """The states of a run's clients on this node; see StateStore. Holds the run's lock while it lives.

    Args:
        folder: of the run's states.
        run: its name.
        fingerprint: of what a state fits.
        part: bytes that each client may take; 0: no bound.
        kept: accepted states that stay, so that a server can go on from an earlier checkpoint.
    """

    def __init__(self, folder: Path, run: str, fingerprint: str, part: int = 0, kept: int = 1) -> None:
        self._folder, self._run, self._fingerprint, self._part, self._kept = folder, run, fingerprint, part, kept
        self._held: Held | None = None

    def resume(self, client: int, accepted: int) -> ClientState | None:
        """See StateStore."""
        try:
            self._hold()
            files = self._files(client)
            stay = sorted(made for made in map(round_of, files) if 0 <= made <= accepted)[-self._kept :]
            for path in files:
                if round_of(path) not in stay and self._read(client, path) is not None:
                    _drop(path)
            return self.look(client, accepted)
        except OSError as error:
            raise StateError(f"client {client}: its state cannot be read: {error}") from error

    def look(self, client: int, accepted: int) -> ClientState | None:
        """See StateStore."""
        try:
            self._hold()
            paths = [path for path in self._files(client) if round_of(path) == accepted]
            return self._read(client, paths[0]) if paths else None
        except OSError as error:
            raise StateError(f"client {client}: its state cannot be read: {error}") from error

    def keep(self, client: int, state: ClientState) -> None:
        """See StateStore. On disk when this returns."""
        content, folder = pack(state, Owner(self._run, client, self._fingerprint)), client_folder(self._folder, client)
        path = folder / state_name(state.round)
        try:
            make_folder(folder)
            self._hold()
            self._check_part(client, folder, len(content))
            write_atomically(path, content)
        except OSError as error:
            raise StateError(f"client {client}: its state cannot be kept in {path}: {error}") from error

    def close(self) -> None:
        """Gives the run's lock back."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _hold(self) -> None:
        """A file system without locks is no reason to stop: there only the command that removes states needs care."""
        if self._folder.is_dir() and not (self._held is not None and self._held.holds()):
            with contextlib.suppress(OSError):
                self._held = Held(self._folder)

    def _files(self, client: int) -> list[Path]:
        """A client's states; what a write that was cut short left goes."""
        folder = client_folder(self._folder, client)
        if not folder.is_dir():
            return []
        names = sorted(os.listdir(folder))
        for name in names:
            if name.startswith("."):
                _drop(folder / name)
        return [folder / name for name in names if name.endswith(".safetensors") and not name.startswith(".")]

    def _read(self, client: int, path: Path) -> ClientState | None:
        """None: it is not what it should be, and was set aside."""
        try:
            owner, state = unpack(path.read_bytes())
            why = Owner(self._run, client, self._fingerprint).differs(owner)
            if not why and path.name != state_name(state.round):
                why = f"holds the state of round {state.round}"
        except NotAStateError as error:
            why = str(error)
        if not why:
            return state
        aside = _set_aside(path)
        logger.warning("client %d: %s %s. It is set aside as %s and counts as lost", client, path, why, aside.name)
        return None

    def _check_part(self, client: int, folder: Path, size: int) -> None:
        """A client holds the accepted states that stay, a new one, and what was set aside."""
        if not self._part:
            return
        aside = sum(path.stat().st_size for path in folder.glob(f"*.{_ASIDE}-*"))
        states = self._kept + 1
        if states * size + aside > self._part:
            beside = f" beside {aside} bytes that were set aside" if aside else ""
            raise StateBoundError(
                f"client {client}: {states} states of {size} bytes{beside} are more than its part of state-disk-mb, "
                f"{self._part} bytes. Raise state-disk-mb, or set it to 0"
            )


@lru_cache(maxsize=1)
def open_store(folder: Path, run: str, fingerprint: str, part: int, kept: int) -> DiskStore:
    """The store of the run that this process works for: its lock is held between messages too."""
    return DiskStore(folder, run, fingerprint, part, kept)


def peek(folder: Path, run: str, client: int, accepted: int) -> ClientState | None:
    """A client's state of its last accepted round, for a reader beside the run: drops nothing and sets nothing aside.

    None if there is none, or it is damaged or another's. It may fit another model: who asks knows which.
    """
    with contextlib.suppress(OSError, NotAStateError):
        owner, state = unpack((client_folder(folder, client) / state_name(accepted)).read_bytes())
        if (owner.run, owner.client, state.round) == (run, client, accepted):
            return state
    return None


def _drop(path: Path) -> None:
    """What stays in a folder that cannot be changed does no harm: its round was not accepted, and it is never given."""
    with contextlib.suppress(OSError):
        path.unlink()


def _set_aside(path: Path) -> Path:
    """Under the first name that is free."""
    names = (path.with_name(f"{path.stem}.{_ASIDE}-{number}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    return aside
