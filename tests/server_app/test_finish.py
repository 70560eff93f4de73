"""A folder that nobody closed is closed later, from its lines alone; one that was closed is left as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server_app.finish import close_interrupted, finish
from server_app.lines import FIGURES
from server_app.run_folder import RunFolder

KNOWN: dict[str, Any] = {"labels": ["a", "b"], "layers": [1], "layer_scores": [1.0, 2.0], "parameters_per_message": 7}


def line(number: int, **figures: Any) -> dict[str, Any]:
    whole = {**dict.fromkeys(FIGURES), "round": number, "cumulative_bytes": 150 * number, "clients": [1], **figures}
    return (
        whole
        if not number
        else {"down_bytes": 100, "up_bytes": 50, **{k: v for k, v in whole.items() if v is not None}}
    )


def folder_of(path: Path, rounds: int, summary: dict[str, Any] | None) -> Path:
    """A run's folder as its server leaves it when it is killed after some rounds; a global accuracy in every second."""
    folder = RunFolder.create(path, "run")
    folder.write_facts({"rounds": 9, "layers": "auto"}, {})
    if summary is not None:
        folder.write_summary(summary)
    for number in range(rounds + 1):
        tested = {"global_accuracy": number / 10, "global_loss": 1.0 - number / 10} if number % 2 == 0 else {}
        folder.append(line(number, train_loss=1.0, evaluation_bytes=30 if number == 2 else None, **tested))
    folder.close()
    return folder.path


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / "summary.json").read_text(encoding="utf8")))


def test_a_killed_run_is_closed_with_all_that_its_lines_say(tmp_path: Path) -> None:
    path = folder_of(tmp_path, 3, {**KNOWN, "status": "running"})
    assert not list(path.glob("*.png"))
    summary = close_interrupted(path)
    assert summary | {"paths": str(path)} == read(path) | {"paths": str(path)}
    assert read(path)["paths"] == {"run_folder": str(path)}
    assert {key: summary[key] for key in KNOWN} == KNOWN
    assert (summary["status"], summary["rounds"]) == ("interrupted", 3)
    assert summary["final"] == {"global_accuracy": 0.2, "global_loss": 0.8, "global_round": 2}
    assert summary["bytes"] == {"down": 300, "up": 150, "evaluation": 30}
    assert {picture.name for picture in path.glob("*.png")} == {
        "accuracy_by_round.png",
        "accuracy_by_bytes.png",
        "loss.png",
        "layer_scores.png",
    }


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = folder_of(tmp_path, 2, {**KNOWN, "status": "running"})
    with (path / "metrics.jsonl").open("a", encoding="utf8") as file:
        file.write('{"round": 3, "down_by')
    assert close_interrupted(path)["rounds"] == 2


@pytest.mark.parametrize("summary", [None, {"status": "running"}])
def test_a_run_that_was_killed_before_its_first_round(tmp_path: Path, summary: dict[str, Any] | None) -> None:
    folder = RunFolder.create(tmp_path, "run")
    if summary is not None:
        folder.write_summary(summary)
    folder.close()
    closed = close_interrupted(folder.path)
    assert (closed["status"], closed["rounds"], closed["bytes"]["down"]) == ("interrupted", 0, 0)
    assert closed["final"]["global_accuracy"] is None
    assert read(folder.path)["status"] == "interrupted"


@pytest.mark.parametrize("status", ["completed", "failed", "interrupted"])
def test_a_closed_folder_is_left_as_it_is(tmp_path: Path, status: str) -> None:
    path = folder_of(tmp_path, 2, {**KNOWN, "status": status})
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert close_interrupted(path) == {**KNOWN, "status": status}
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_the_servers_own_close_keeps_what_was_known_and_adds_the_end(tmp_path: Path) -> None:
    """A run that fails has only its status to add."""
    folder = RunFolder.create(tmp_path, "run")
    folder.write_summary({**KNOWN, "status": "running"})
    folder.append(line(0, global_accuracy=0.1))
    folder.append(line(1, train_loss=1.0))
    summary = finish(folder.path, {"status": "failed", "seconds": 3.5})
    folder.close()
    assert {key: summary[key] for key in KNOWN} == KNOWN
    assert (summary["status"], summary["seconds"], summary["rounds"]) == ("failed", 3.5, 1)
    assert summary["final"]["global_round"] == 0
    assert (
        finish(folder.path, {"status": "completed", "final": {"shared_accuracy": 0.5}})["final"]["shared_accuracy"]
        == 0.5
    )
