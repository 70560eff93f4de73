"""Events as lines for machines: what they hold, where they go, and that a log stops nobody."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client_app import host
from federation.logs import LOG, about, event, kept_in, logger
from tests.small_runs import Flat, go

MakeFlat = Callable[..., Flat]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def test_a_line_has_a_time_a_level_and_what_it_is_about(tmp_path: Path) -> None:
    with kept_in(tmp_path / LOG), about(run="r", round=3):
        with about(client=7):
            event("answered", seconds=0.5)
        event("lost", logging.WARNING, path=tmp_path)
    event("elsewhere")
    first, second = lines(tmp_path / LOG)
    assert first.pop("time") <= second.pop("time")
    assert first == {"level": "info", "event": "answered", "run": "r", "round": 3, "client": 7, "seconds": 0.5}
    assert second == {"level": "warning", "event": "lost", "run": "r", "round": 3, "path": str(tmp_path)}


def test_a_failure_has_its_traceback_and_warnings_of_the_package_come_too(tmp_path: Path) -> None:
    with kept_in(tmp_path / LOG), about(client=1):
        try:
            raise ValueError("too hot")
        except ValueError:
            event("failed", logging.ERROR)
        logger.warning("a file of %d bytes", 9)
    failed, warned = lines(tmp_path / LOG)
    assert "ValueError: too hot" in failed["traceback"]
    assert (warned["event"], warned["level"], warned["client"]) == ("a file of 9 bytes", "warning", 1)


def test_what_json_does_not_know_becomes_text_and_a_line_stays_one_line(tmp_path: Path) -> None:
    with kept_in(tmp_path / LOG):
        event("odd", value={1, 2}, text="a\nb")
    (line,) = lines(tmp_path / LOG)
    assert line["text"] == "a\nb"
    assert line["value"] == "{1, 2}"


def test_the_first_event_of_all_makes_the_folder(tmp_path: Path) -> None:
    with kept_in(tmp_path / "a node" / "a run" / LOG):
        event("training begins", round=1)
    assert [line["event"] for line in lines(tmp_path / "a node" / "a run" / LOG)] == ["training begins"]


def test_a_disk_that_takes_no_line_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with kept_in(tmp_path / "a file" / LOG):
        event("unheard")


def test_a_hosts_own_handlers_see_events_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fedpeptao"), about(round=2):
        event("round closed", accepted=3)
    (record,) = [record for record in caplog.records if record.name == "fedpeptao"]
    assert record.getMessage() == "round closed"
    assert record.fields == {"round": 2, "accepted": 3}


# -- of a whole run ----------------------------------------------------------------------------------------


def test_a_run_can_be_followed(make_flat: MakeFlat, no_plots: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = host.train

    def tired(settings: Any, ask: Any, client: int, *rest: Any) -> Any:
        if ask.round == 2 and client == ask.clients[0]:
            raise ValueError("too tired")
        return real(settings, ask, client, *rest)

    monkeypatch.setattr(host, "train", tired)
    ran = go(make_flat())
    found = lines(ran.folder / LOG)
    assert {line["run"] for line in found} == {ran.folder.name}
    events = [line["event"] for line in found]
    assert events[0] == "run begins"
    assert events[-1] == "run ends"
    assert found[-1]["status"] == "completed"
    assert [line["round"] for line in found if line["event"] == "round closed"] == [1, 2]
    assert [line["round"] for line in found if line["event"] == "checkpoint kept"] == [0, 1, 2]
    line = ran.lines[2]
    failed = {str(one["client"]): one["why"] for one in found if one["event"] == "reply failed"}
    assert failed == line["failed"]
    accepted = [one["client"] for one in found if one["event"] == "reply accepted" and one["round"] == 2]
    assert sorted(accepted) == sorted(client for client in line["clients"] if str(client) not in line["failed"])
    own = [one for one in found if one["event"] == "failed"]
    assert {str(one["client"]) for one in own} == set(failed)
    assert all("too tired" in one["traceback"] and one["node"] in (0, 1) for one in own)
    answered = [one for one in found if one["event"] == "answered" and one.get("round") == 1]
    assert {one["client"] for one in answered} >= set(ran.lines[1]["clients"])
    assert all(one["seconds"] >= 0 for one in answered)
