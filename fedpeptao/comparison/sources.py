"""Where a cell's data come from: a user's files lie in the folder that FEDPEPTAO_TASKS names; content identifies them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from data.endings import ENDINGS
from federation.settings import Scalar
from fedpeptao.comparison.grid import Cell
from fedpeptao.errors import InputError

FOLDER = "FEDPEPTAO_TASKS"
_KEYS = ("dataset", "validation", "test")


def check_located(cell: Cell) -> None:
    """Whether all that it reads is there.

    Raises:
        InputError: as `located`.
    """
    for settings in (cell.settings, *cell.prompt_sources.values()):
        located(settings)


def located(settings: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The settings with absolute paths of data files.

    Raises:
        InputError: the environment names no folder, or the file is not there.
    """
    files, folder = _files(settings), Path(os.environ.get(FOLDER, ""))
    for key, name in files.items():
        if not folder.is_absolute():
            mend = f"Set {FOLDER} to the absolute path of the folder that holds it"
            raise InputError(key, name, f"it is a file of your own, and {FOLDER} names no folder", mend)
        if not (folder / name).is_file():
            raise InputError(key, name, f"there is no such file in {folder}", f"Put it there, or change {FOLDER}")
    return in_folder(settings, folder)


def content_sha256(cell: Cell) -> str | None:
    """Of all that the rows are made from: the files' bytes, or the embedded data's rows; None where a file is out of reach."""
    if not cell.prompt_sources:
        return run_content_sha256(cell.settings)
    parts = [run_content_sha256(settings) for settings in (cell.settings, *cell.prompt_sources.values())]
    return None if None in parts else hashlib.sha256("".join(map(str, parts)).encode()).hexdigest()


def run_content_sha256(settings: Mapping[str, Scalar]) -> str | None:
    """Of all that a run's rows are made from; None where a file is out of reach."""
    try:
        told = located(settings)
    except InputError:
        return None
    if not _files(settings):
        return _embedded() if told["dataset"] == "stdlib-docs" else str(told["dataset"])
    digests = [_file(str(told[key])) for key in _files(settings)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def in_folder(settings: Mapping[str, Scalar], folder: Path) -> dict[str, Scalar]:
    """The settings with data files in a folder, there or not."""
    return {**settings, **{key: str(folder / name) for key, name in _files(settings).items()}}


def mixing(runs: Iterable[Path]) -> dict[str, Scalar]:
    """The setting that names the folders of the runs whose prompts a cell mixes, there or not; {} if it mixes none."""
    folders = ",".join(map(str, runs))
    return {"prompt-sources": folders} if folders else {}


def _files(settings: Mapping[str, Scalar]) -> dict[str, str]:
    return {key: str(settings[key]) for key in _KEYS if str(settings[key]).endswith(ENDINGS)}


@lru_cache(maxsize=64)
def _file(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@lru_cache(maxsize=1)
def _embedded() -> str:
    from data.sources import rows_sha256
    from data.stdlib_docs import stdlib_docs

    return rows_sha256([stdlib_docs()])
