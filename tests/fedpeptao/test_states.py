"""`fedpeptao states`: it removes what it was told to and nothing else, and says what it did."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from client_app.state_folder import Held, KeptRun
from fedpeptao import states
from fedpeptao.cli import main
from tests.client_app.test_state_folder import lay

DAY_S = 86_400


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three runs whose states are 40, 10 and 0 days old."""
    for run, days in (("old", 40), ("older", 10), ("young", 0)):
        folder = lay(tmp_path, run, round_12=b"x" * 2_500_000)
        for path in [*folder.rglob("*"), folder]:
            os.utime(path, (time.time() - days * DAY_S,) * 2)
    return tmp_path


def runs(place: Path) -> list[str]:
    return sorted(path.parent.name for path in place.glob("*/clients"))


def test_the_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = Held(place / "young" / "clients")
    assert main(["states", "--state-dir", str(place)]) == 0
    held.close()
    head, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head == ["run", "clients", "size", "last", "round", "age"]
    assert lines[0] == ["old", "1", "2.5", "MB", "12", "40.0", "d"]
    assert lines[1] == ["older", "1", "2.5", "MB", "12", "10.0", "d"]
    assert lines[2] == ["young", "1", "2.5", "MB", "12", "0.0", "d", "in", "use"]


def test_a_small_size_is_not_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay(tmp_path, "run", round_1=b"x" * 1234)
    assert main(["states", "--state-dir", str(tmp_path)]) == 0
    assert "  1.2 kB  " in capsys.readouterr().out


def test_the_same_for_machines(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["states", "--state-dir", str(place), "--older-than", "20", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found.pop("age_days") == pytest.approx(40, abs=0.01)
    assert found == {
        "run": "old",
        "folder": str(place / "old" / "clients"),
        "clients": 1,
        "bytes": 2_500_000,
        "last_round": 12,
        "in_use": False,
    }
    assert runs(place) == ["old", "older", "young"]  # to list is not to remove


def test_the_runs_folder_is_where_it_looks_first(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "runs_folder", lambda settings: place)
    assert main(["states"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_no_states_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["states", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"No client states in {tmp_path}\n"
    assert main(["states", "--state-dir", str(tmp_path), "--remove", "--older-than", "0"]) == 0
    assert capsys.readouterr().out == "Nothing to remove\n"


def test_named_runs_are_removed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["states", "--state-dir", str(place), "--remove", "old", "young"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["old: removed (1 clients, 2.5 MB)", "young: removed (1 clients, 2.5 MB)"]
    assert runs(place) == ["older"]


def test_old_runs_are_removed(place: Path) -> None:
    assert main(["states", "--state-dir", str(place), "--remove", "--older-than", "5"]) == 0
    assert runs(place) == ["young"]


def test_of_the_named_only_the_old_where_both_are_said(place: Path) -> None:
    assert main(["states", "--state-dir", str(place), "--remove", "old", "young", "--older-than", "5"]) == 0
    assert runs(place) == ["older", "young"]


def test_half_a_removal_is_listed_and_ended(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "old" / "clients").rename(place / "old" / ".clients-removed")
    assert main(["states", "--state-dir", str(place), "--older-than", "20"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["old", "1"]
    assert main(["states", "--state-dir", str(place), "--remove", "old"]) == 0
    assert not (place / "old").exists()


def test_one_in_use_stays_and_the_others_go(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = Held(place / "old" / "clients")
    assert main(["states", "--state-dir", str(place), "--remove", "old", "older", "--json"]) == 1
    held.close()
    outcomes = json.loads(capsys.readouterr().out)
    assert outcomes["old"] == {"removed": False, "why": "a living process works with it"}
    assert outcomes["older"] == {"removed": True, "why": None}
    assert runs(place) == ["old", "young"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--remove"], "no run is named"),
        (["--remove", "old", "nobody"], "'nobody'"),
        (["--remove", "../old"], "'../old'"),
        (["--older-than", "-1"], "--older-than"),
        (["--older-than", "nan"], "--older-than"),
    ],
)
def test_bad_input_removes_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert main(["states", "--state-dir", str(place), *arguments]) == 2
    shown = capsys.readouterr()
    assert named in shown.err
    assert shown.out == ""
    assert runs(place) == ["old", "older", "young"]


@pytest.mark.parametrize("arguments", [[], ["--remove", "node"], ["--remove", "--older-than", "0"]])
def test_a_folder_above_a_nodes_is_refused_and_all_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    states_of_node = tmp_path / "node" / "clients"
    lay(states_of_node, "live", round_1=b"1")
    assert main(["states", "--state-dir", str(tmp_path), *arguments]) == 2
    assert str(states_of_node) in capsys.readouterr().err
    assert runs(states_of_node) == ["live"]


def test_a_place_of_another_users_is_said(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> list[KeptRun]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(states, "kept_runs", closed)
    assert main(["states", "--state-dir", str(place)]) == 2
    assert f"{str(place)!r}: it cannot be looked into (Permission denied)" in capsys.readouterr().err


def test_a_clock_that_was_set_back_makes_nothing_old(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """States from the future are 0 days old."""
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert main(["states", "--state-dir", str(place), "--remove", "--older-than", "1"]) == 0
    assert runs(place) == ["old", "older", "young"]
