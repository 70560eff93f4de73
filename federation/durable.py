"""Files that are whole or not there, whatever stops the process or the machine: written beside, on disk, then renamed."""

from __future__ import annotations

import errno
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

_NO_SUCH_THING = (errno.EINVAL, errno.ENOTSUP)  # what file systems say that cannot put a folder on disk by itself
_MODE = 0o644  # less what the process's umask takes
_TOKEN_BYTES = 8
_TEMPORARY = re.compile(rf"\.(.+)\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}", re.DOTALL)


def write_atomically(path: Path, content: bytes) -> None:
    """Readers see the old file or the new one, whole; after an error, the old one. On disk when this returns."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def tidy(folder: Path, spared: str = "") -> list[str]:
    """Removes what write_atomically left in a folder when its process was killed; the names, in their order.

    For who knows that nobody writes there: a file that is being written looks the same. What cannot be removed stays.

    Args:
        folder: need not be there; what lies in folders inside it stays.
        spared: the name of a file that others may write meanwhile.
    """
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        made_for = _TEMPORARY.fullmatch(path.name)
        if made_for and made_for[1] != spared and path.is_file() and not path.is_symlink():
            with suppress(OSError):
                path.unlink()
                removed.append(path.name)
    return removed


def make_folder(path: Path) -> None:
    """A folder with all above it; each new one is on disk in the one above it when this returns."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """A folder's names are on disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SUCH_THING:
            raise
    finally:
        os.close(handle)
