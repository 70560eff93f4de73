"""The flat run-config, parsed once at the edge into frozen dataclasses.

Inside the application only these dataclasses travel, so a wrong key, type or value is found before anything starts.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from federation.pacing import Pacing
from federation.setting_groups import (
    CurriculumSettings,
    DataSettings,
    FederationSettings,
    LocalSettings,
    ModelSettings,
    PersonalSettings,
    RunSettings,
    SelectionSettings,
    ServerSettings,
)
from federation.setting_rules import check_together
from fedpeptao.errors import InputError

Scalar = str | int | float | bool
Flat = Mapping[str, Scalar]


@dataclass(frozen=True)
class Settings:
    """Everything a run is told, by who needs it."""

    model: ModelSettings
    data: DataSettings
    federation: FederationSettings
    selection: SelectionSettings
    local: LocalSettings
    curriculum: CurriculumSettings
    personal: PersonalSettings
    server: ServerSettings
    run: RunSettings

    @property
    def pacing(self) -> Pacing:
        """How many of its batches a client sees in a round."""
        own = self.curriculum
        return Pacing(own.curriculum, own.curriculum_start, own.curriculum_full, self.federation.rounds)

    def steps_in(self, server_round: int, examples: int) -> int:
        """K_i in a round, of a client with so many examples."""
        return self.pacing.steps(self.local.steps(examples), self.local.local_epochs, server_round)

    def flat(self) -> dict[str, Scalar]:
        """As a run-config: kebab-case keys, in the order of pyproject.toml's groups."""
        groups = (getattr(self, group.name) for group in fields(self))
        return {_key(f.name): getattr(group, f.name) for group in groups for f in fields(group)}


_GROUPS: dict[str, type] = {
    "model": ModelSettings,
    "data": DataSettings,
    "federation": FederationSettings,
    "selection": SelectionSettings,
    "local": LocalSettings,
    "curriculum": CurriculumSettings,
    "personal": PersonalSettings,
    "server": ServerSettings,
    "run": RunSettings,
}
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float,),
    "str": (str,),
    "bool": (bool,),
    "float | str": (float, str),
}
Group = TypeVar("Group")


def parse(flat: Flat) -> Settings:
    """Settings from a complete flat run-config.

    Raises:
        InputError: an unknown or missing key, a value of the wrong type or out of range, or values that contradict each other.
    """
    known = [_key(f.name) for group in _GROUPS.values() for f in fields(group)]
    for key, value in flat.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            mend = f"Did you mean {close[0]}" if close else "pyproject.toml lists every setting"
            raise InputError(key, value, "there is no such setting", mend)
    for key in known:
        if key not in flat:
            raise InputError(key, None, "the setting is missing", "Give it a value: pyproject.toml lists every default")
    settings = Settings(**{name: _parse_group(group, flat) for name, group in _GROUPS.items()})
    check_together(settings)
    return settings


def defaults() -> dict[str, Scalar]:
    """The run-config of pyproject.toml, the one place where defaults stand."""
    package = Path(__file__).resolve().parent
    inside = package / "pyproject.toml"  # of what a wheel installed; a checkout and a FAB have it beside the package
    path = inside if inside.exists() else package.parent / "pyproject.toml"
    config: dict[str, Scalar] = tomllib.loads(path.read_text(encoding="utf8"))["tool"]["flwr"]["app"]["config"]
    return config


def layer_list(layers: str) -> tuple[int, ...]:
    """The layers named by hand in `layers = "3,4,5"`, ascending and without repeats."""
    return tuple(sorted({int(part) for part in layers.split(",")}))


def _key(name: str) -> str:
    return name.replace("_", "-")


def _parse_group(group: type[Group], flat: Flat) -> Group:
    return group(**{f.name: _parse_value(f, flat[_key(f.name)]) for f in fields(group)})  # type: ignore[arg-type]


def _parse_value(f: Any, value: Scalar) -> Scalar:
    wanted = _TYPES[f.type]
    if float in wanted and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted == (str,) and f.name in ("layers", "labels") and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # layers=3 without quotes reaches us as a number
    finite = not isinstance(value, float) or math.isfinite(value)
    if type(value) not in wanted or not finite or not f.metadata["accepts"](value):
        expected: str = f.metadata["expected"]
        raise InputError(
            _key(f.name), value, f"it has to be {expected}", "Change it in --run-config or in your TOML file"
        )
    return value
