"""A run's settings as the user gave them: pyproject.toml's defaults under --run-config, read as `flwr run` reads it.

Read before `flwr run` starts: Flower answers a wrong key with a traceback, and drops text that is no key=value pair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpeptao.errors import InputError

if TYPE_CHECKING:
    from federation.settings import Settings

Scalar = str | int | float | bool
_PAIR = re.compile(r"(\S+?)=(\'[^\']*\'|\"[^\"]*\"|\S+)")  # what Flower takes for a pair
_OPTION = "--run-config"
_EXAMPLE = """Write key=value pairs, spaces between them, quotes around text: --run-config 'rounds=9 model="gpt2"'"""


def app_folder(given: str | None) -> Path:
    """The Flower app's folder: the one given, else the current folder if it is one, else the checkout of this package.

    Raises:
        InputError: no pyproject.toml of a Flower app there.
    """
    checkout = Path(__file__).resolve().parent.parent
    here = Path.cwd() if _is_app(Path.cwd()) else checkout
    folder = here if given is None else Path(given).expanduser().resolve()
    if not _is_app(folder):
        raise InputError(
            "APP_DIR", str(folder), "there is no pyproject.toml of a Flower app", "Name a checkout of fedpeptao"
        )
    return folder


def overrides(given: Iterable[str]) -> dict[str, Scalar]:
    """What --run-config says: each a TOML file or key=value pairs; the later wins.

    Raises:
        InputError: not readable as such.
    """
    merged: dict[str, Scalar] = {}
    for text in given:
        merged.update(_from_file(text) if text.endswith(".toml") else _from_pairs(text))
    return merged


def check(folder: Path, overriding: Mapping[str, Scalar]) -> Settings:
    """The effective settings of an app's folder.

    Raises:
        InputError: an unknown key, an impossible value, or a pyproject.toml that Flower would refuse.
    """
    from federation.settings import parse

    return parse({**defaults(folder), **overriding})


def defaults(folder: Path) -> dict[str, Scalar]:
    """[tool.flwr.app.config] of an app's folder, flat."""
    from flwr.common.config import flatten_dict, get_project_config

    try:
        return dict(flatten_dict(get_project_config(folder)["tool"]["flwr"]["app"].get("config", {})))
    except (OSError, ValueError) as error:
        raise InputError("APP_DIR", str(folder), _one_line(error), "Mend its pyproject.toml") from error


def to_toml(flat: Mapping[str, Scalar]) -> str:
    """As a TOML file, so that what Flower reads is what was checked here, whatever the quotes on the command line."""
    return "".join(f"{json.dumps(key)} = {_toml_value(value)}\n" for key, value in flat.items())


def _toml_value(value: Scalar) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _from_file(path: str) -> dict[str, Scalar]:
    try:
        return _parsed([path])
    except FileNotFoundError:
        raise InputError(
            _OPTION, path, "there is no such file", "Give the path of a TOML file, or key=value pairs"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            _OPTION, path, _one_line(error), "Write one `key = value` a line, with quotes around text"
        ) from error


def _from_pairs(text: str) -> dict[str, Scalar]:
    import click

    if rest := _PAIR.sub("", text).strip():
        raise InputError(_OPTION, text, f"{rest!r} is no key=value pair", _EXAMPLE)
    try:
        return _parsed([text])
    except (click.ClickException, ValueError) as error:
        raise InputError(_OPTION, text, "this is not TOML", _EXAMPLE) from error


def _parsed(config: list[str]) -> dict[str, Scalar]:
    from flwr.common.config import parse_config_args

    return dict(parse_config_args(config))


def _is_app(folder: Path) -> bool:
    import tomllib

    try:
        project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return False
    return "components" in project.get("tool", {}).get("flwr", {}).get("app", {})


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
