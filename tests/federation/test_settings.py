from __future__ import annotations

import dataclasses
import pickle

import pytest

from federation.settings import Scalar, Settings, defaults, parse
from tests.refusals import refused


def with_(key: str, value: Scalar) -> Settings:
    return parse({**defaults(), key: value})


def test_every_default_parses_and_comes_back() -> None:
    """Same keys, values, types and order: what a run records is what it was told."""
    flat = parse(defaults()).flat()
    assert flat == defaults()
    assert list(flat) == list(defaults())
    assert {key: type(value) for key, value in flat.items()} == {key: type(value) for key, value in defaults().items()}


def test_flat_is_what_parse_takes() -> None:
    changed: dict[str, Scalar] = {"layers": "3,4", "alpha": 1.5, "rounds": 3, "runs-dir": "/data/runs", "labels": "a,b"}
    settings = parse({**defaults(), **changed})
    assert parse(settings.flat()) == settings
    assert {key: settings.flat()[key] for key in changed} == changed


def test_values_land_in_their_group() -> None:
    settings = parse({**defaults(), "prompt-tokens": 7, "alpha": 0.7, "clip-norm": 2.5, "max-lost-share": 0.25})
    assert settings.model.prompt_tokens == 7
    assert settings.federation.alpha == 0.7
    assert settings.local.clip_norm == 2.5
    assert settings.server.max_lost_share == 0.25


def test_settings_cannot_be_changed() -> None:
    settings = parse(defaults())
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.federation.rounds = 3  # type: ignore[misc]


# -- keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("client-per-round", "clients-per-round"),
        ("lerning-rate", "learning-rate"),
        ("clients_per_round", "clients-per-round"),
    ],
)
def test_an_unknown_key_suggests_the_close_one(typed: str, meant: str) -> None:
    error = refused({**defaults(), typed: 3})
    assert (error.key, error.value) == (typed, 3)
    assert error.mend == f"Did you mean {meant}"
    assert str(error) == f"{typed} = 3: there is no such setting. Did you mean {meant}."


def test_a_key_like_no_other_points_to_the_list() -> None:
    error = refused({**defaults(), "zzz": "on"})
    assert (error.key, error.value) == ("zzz", "on")
    assert "pyproject.toml" in error.mend


@pytest.mark.parametrize("key", defaults())
def test_a_missing_key_is_named(key: str) -> None:
    error = refused({k: v for k, v in defaults().items() if k != key})
    assert error.key == key
    assert "missing" in error.problem


def test_the_error_survives_a_process_boundary() -> None:
    error = refused({**defaults(), "ratio": 0.0})
    again = pickle.loads(pickle.dumps(error))
    assert (again.key, again.value, again.problem, again.mend) == (error.key, error.value, error.problem, error.mend)
    assert str(again) == str(error)


def test_what_travels_has_the_precision_of_all_or_its_own() -> None:
    server = parse(
        {**defaults(), "precision": "int8", "control-precision": "float32", "model-precision": "float16"}
    ).server
    assert [server.precision_of(what) for what in ("model", "control", "update")] == ["float16", "float32", "int8"]


@pytest.mark.parametrize(
    ("changes", "feeds_back"),
    [
        ({}, False),
        ({"precision": "float16"}, False),
        ({"precision": "int8"}, True),
        ({"update-precision": "int8"}, True),
        ({"precision": "int8", "update-precision": "float16"}, False),
        ({"precision": "int8", "error-feedback": False}, False),
    ],
)
def test_only_updates_in_int8_are_fed_back(changes: dict[str, Scalar], feeds_back: bool) -> None:
    assert parse({**defaults(), **changes}).server.feeds_back is feeds_back


def test_lists_of_folders_and_names_are_taken_apart() -> None:
    model = parse({**defaults(), "prompt-sources": "/runs/a, /runs/b", "lora-targets": "query , value"}).model
    assert model.source_folders == ("/runs/a", "/runs/b")
    assert model.target_names == ("query", "value")
    assert parse(defaults()).model.source_folders == parse(defaults()).model.target_names == ()


@pytest.mark.parametrize(
    ("tuned", "taken"), [("deep-prompts", 7), ("input-prompts", 7), ("late-prompts", 7), ("lora", 0), ("adapter", 0)]
)
def test_prompts_take_positions_that_texts_cannot_have(tuned: str, taken: int) -> None:
    flat = {**defaults(), "tuned": tuned, "layers": "all", "prompt-tokens": 7}
    assert parse(flat).model.positions_taken == taken
