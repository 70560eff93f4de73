"""What is compared: each method a title, settings, and the learning rates to choose among. Adding a rival is adding a row."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.settings import Scalar
from fedpeptao.comparison.yaml_files import check_keys, of_type, read_yaml, without_repeats
from fedpeptao.errors import InputError

ROLES = ("method", "floor", "ceiling")
KEYS = ("title", "settings", "learning-rates", "like", "role", "skewed", "prompt-sources")
SOURCE_KEYS = ("like", "tasks")
EXAMPLE = "Write it like results/compare/methods.yaml"


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        name: in file names and on the command line.
        title: in the tables, one line.
        settings: on top of the grid's.
        rates: learning rates to choose among, ascending; (): the settings' own, or that of `rate_of`.
        rate_of: the method whose chosen rate this one takes; "": none.
        role: floors and ceilings stand in every table with their last evaluation, whatever they sent and when.
        skewed: False where alpha makes no difference (all data in one place): one cell serves all skews.
        prompt_sources: name -> settings, on top of the grid's, of the runs whose prompts this method mixes: trained once for
            all cells that want the same ones (fedpeptao/comparison/earlier_runs.py).
    """

    name: str
    title: str = ""
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    rate_of: str = ""
    role: str = "method"
    skewed: bool = True
    prompt_sources: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)

    @property
    def tuned_as(self) -> str:
        """The method whose tuning decides about this one's learning rate; "" where it is fixed."""
        return self.name if self.rates else self.rate_of


def read_methods(path: Path) -> dict[str, Method]:
    """Name -> method.

    Raises:
        InputError: the file or a row cannot be used.
    """
    rows = read_yaml(path, EXAMPLE)
    for name, row in rows.items():
        of_type(path, "method", name, str, "a name")
        check_keys(path, name, of_type(path, name, row, dict, "a row of title and settings"), KEYS)
    return {name: _method(path, name, rows) for name in rows}


def find(methods: Mapping[str, Any], name: str, key: str, path: Path) -> Any:
    """The method of that name; InputError with the nearest one if there is none."""
    if name not in methods:
        close = difflib.get_close_matches(str(name), list(methods), n=1)
        mend = f"Did you mean {close[0]}" if close else f"Known are {', '.join(methods)}"
        raise InputError(f"{key} in {path.name}", name, "there is no such method", mend)
    return methods[name]


def _method(path: Path, name: str, rows: Mapping[str, dict[str, Any]]) -> Method:
    row = rows[name]
    settings = dict(of_type(path, f"{name}: settings", row.get("settings") or {}, dict, "settings and values"))
    like, tuned = row.get("like", ""), False
    if like:
        other = find(rows, like, f"{name}: like", path)
        if other.get("like"):
            raise InputError(f"{name}: like in {path.name}", like, "it is like another one itself", "Name that one")
        settings, tuned = {**(other.get("settings") or {}), **settings}, bool(other.get("learning-rates"))
    role = row.get("role", "method")
    if role not in ROLES:
        raise InputError(f"{name}: role in {path.name}", role, "there is no such role", f"Known are {', '.join(ROLES)}")
    key = f"{name}: learning-rates"
    rates = of_type(path, key, row.get("learning-rates") or [], list, "a list of numbers")
    rates = [of_type(path, key, rate, (int, float), "a list of numbers") for rate in rates]
    return Method(
        name=name,
        title=str(row.get("title", "")),
        settings=settings,
        rates=tuple(sorted(map(float, without_repeats(path, key, rates)))),
        rate_of=like if tuned and not rates else "",
        role=role,
        skewed=bool(row.get("skewed", True)),
        prompt_sources=_prompt_sources(path, name, row.get("prompt-sources"), rows),
    )


def _prompt_sources(
    path: Path, name: str, content: Any, rows: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Scalar]]:
    """One for each task, with the settings of the row that they are like."""
    if content is None:
        return {}
    key = f"{name}: prompt-sources"
    check_keys(path, key, of_type(path, key, content, dict, "like and tasks"), SOURCE_KEYS)
    if missing := [part for part in SOURCE_KEYS if not content.get(part)]:
        raise InputError(f"{key} in {path.name}", missing[0], "it is missing", f"Give {', '.join(SOURCE_KEYS)}")
    common = find(rows, content["like"], f"{key}: like", path).get("settings") or {}
    tasks = of_type(path, f"{key}: tasks", content["tasks"], dict, "names of tasks with their settings")
    return {
        str(task): {**common, **of_type(path, f"{key}: {task}", own or {}, dict, "settings and values")}
        for task, own in tasks.items()
    }
