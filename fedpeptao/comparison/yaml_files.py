"""YAML files as people write them: what cannot be read, or says one thing twice, is refused by name."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from pathlib import Path
from typing import Any

import yaml

from fedpeptao.errors import InputError


class _Strict(yaml.SafeLoader):
    """A name that stands twice in a mapping is an error; YAML's own loader keeps the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":  # <<: another mapping's entries, which this one's go before
                continue
            name = self.construct_object(key, deep=deep)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, mend: str) -> dict[str, Any]:
    """A file's mapping.

    Raises:
        InputError: it is not there, no YAML, no mapping, or has a name twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf8"), _Strict)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = f"it cannot be read ({type(error).__name__}: {' '.join(str(error).split())})"
        raise InputError("grid", str(path), problem, mend) from error
    if not isinstance(content, dict):
        raise InputError(
            "grid", str(path), f"it cannot be read (a {type(content).__name__}, not keys and values)", mend
        )
    return content


def check_keys(path: Path, what: str, content: dict[str, Any], known: Collection[str]) -> None:
    """InputError where a mapping has a key that is none of those."""
    for key in content:
        if key not in known:
            raise InputError(f"{what} in {path.name}", key, "there is no such key", f"Known are {', '.join(known)}")


def of_type(path: Path, key: str, value: Any, wanted: type | tuple[type, ...], what: str) -> Any:
    """The value; InputError unless it has the type."""
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise InputError(f"{key} in {path.name}", value, f"it has to be {what}", "Change it in the file")
    return value


def without_repeats(path: Path, key: str, names: list[Any]) -> list[Any]:
    """The list; InputError where it names one thing twice."""
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError(f"{key} in {path.name}", name, "it stands twice", "Name it once")
    return names
