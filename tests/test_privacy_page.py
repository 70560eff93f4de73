"""docs/PRIVACY.md has every field of every message, and none that does not travel."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from federation import messages
from tests import small_runs
from tests.small_runs import Flat, Watched

PAGE = Path(__file__).resolve().parent.parent / "docs" / "PRIVACY.md"
SECTIONS: dict[str, tuple[type, ...]] = {
    "Roll call, down": (messages.RollCallAsk,),
    "Roll call, up": (messages.RollCallReply,),
    "A round's question, down": (messages.Ask,),
    "A round's answer, up": (messages.TrainReply,),
    "An evaluation's answer, up": (messages.EvaluateReply, messages.Evaluation),
    "Spectra, up": (messages.CurvatureReply,),
}
OF_ALL = {"schema"}  # of what goes down, beside the dataclass


def rows(section: str) -> set[str]:
    """The fields that a section's table names."""
    text = PAGE.read_text(encoding="utf8").split(f"### {section}")[1].split("\n##")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def headed(section: str) -> set[str]:
    """The records that a section's heading names."""
    heading = PAGE.read_text(encoding="utf8").split(f"### {section}")[1].splitlines()[0]
    return {name.removesuffix(".<i>") for name in re.findall(r"`([^`]+)`", heading)}


@pytest.mark.parametrize("section", SECTIONS)
def test_each_field_is_on_the_page(section: str) -> None:
    wanted = {field.name for kind in SECTIONS[section] for field in fields(kind)}
    assert rows(section) - OF_ALL == wanted


def test_all_messages_have_a_section() -> None:
    kinds = {
        kind for kind in vars(messages).values() if isinstance(kind, type) and kind.__module__ == messages.__name__
    }
    listed = {kind for section in SECTIONS.values() for kind in section}
    assert kinds - {messages.MessageError, messages.NodeError, messages.AskHeader} == listed


@pytest.mark.usefixtures("no_plots")
def test_what_a_run_sends_is_on_the_page(make_flat: Callable[..., Flat]) -> None:
    """Every record, and every name in it that is no parameter's."""
    watched = Watched()
    parts = {"drift_correction": "device", "device_second_moment": "shared", "metric": "f1"}
    estimate = {"ratio": "plateau", "warmup_rounds": 1, "curvature_steps": 4, "curvature_examples": 2}
    small_runs.go(make_flat(**parts, **estimate, rounds=3, clients=3, clients_per_round=3), client_app=watched)
    sections = {
        ("query.roll_call", "down"): "Roll call, down",
        ("query.roll_call", "up"): "Roll call, up",
        ("train", "down"): "A round's question, down",
        ("evaluate", "down"): "A round's question, down",
        ("query.curvature", "down"): "A round's question, down",
        ("train", "up"): "A round's answer, up",
        ("evaluate", "up"): "An evaluation's answer, up",
        ("query.curvature", "up"): "Spectra, up",
    }
    assert {(one.kind, one.way) for one in watched.passed} == sections.keys()
    figures = rows("An evaluation's answer, up")
    for one in watched.passed:
        section = sections[one.kind, one.way]
        assert {name.split(".")[0] for name in one.content} <= headed(section)
        for name, record in one.content.config_records.items():
            allowed = figures if name.startswith("evaluation") else rows(section) | {"ids"}
            assert set(record) <= allowed, (section, name)
        assert not one.content.metric_records
