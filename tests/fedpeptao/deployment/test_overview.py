"""What a federation's operator is shown: Flower's nodes joined with a run's log, for people and for machines."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fedpeptao.cli import main
from fedpeptao.deployment import federation_command
from fedpeptao.deployment.overview import Overview, as_table, overview, read_log

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def node(number: int, status: str, **times: str) -> dict[str, Any]:
    return {"node-id": str(number), "status": status, "online-at": "N/A", "offline-at": "N/A", **times}


LISTED = {
    "success": True,
    "nodes": [
        node(11, "online", **{"online-at": "2026-11-21 10:00:00Z"}),
        node(12, "offline", **{"online-at": "2026-11-21 10:00:00Z", "offline-at": "2026-11-21 11:55:00Z"}),
        node(13, "registered"),
        node(14, "online", **{"online-at": "2026-11-20 00:00:00Z"}),
    ],
}
RUNS = {
    "success": True,
    "runs": [{"run-id": "7", "status": "pending"}, {"run-id": "6", "status": "finished:completed"}],
}


def said(event: str, minute: int, round_: int, client: int, at: int, **more: object) -> dict[str, Any]:
    time = f"2026-11-21T11:{minute:02}:00.000+00:00"
    return {"time": time, "event": event, "round": round_, "client": client, "node": at, **more}


EVENTS = [
    said("reply missing", 45, 1, 2, 12),  # client 2 lives elsewhere since
    said("reply accepted", 50, 1, 0, 11, state="new"),
    said("reply accepted", 51, 1, 1, 12, state="new"),
    said("reply accepted", 52, 2, 0, 11, state="restored"),
    said("reply missing", 53, 2, 1, 12),
    said("reply accepted", 54, 3, 0, 11, state="lost"),
    said("reply accepted", 54, 3, 2, 15, state="new"),
    said("reply refused", 56, 4, 2, 15, why="refused: delta is not finite"),
    {"time": "2026-11-21T11:40:00.000+00:00", "event": "may not take part", "node": 14, "why": "no data"},
]


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """Its server was killed."""
    folder = tmp_path / "runs" / "run-1"
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS) + '{"event": "cut of')
    (folder / "metrics.jsonl").write_text('{"round": 3}\n{"round": 4}\n{"rou')
    (folder / "summary.json").write_text('{"status": "running"}')
    (folder / "facts.json").write_text('{"deployed": true}')
    return folder


@pytest.fixture
def run(dead: Path) -> Iterator[Path]:
    """A server works on it."""
    with (dead / "metrics.jsonl").open("a") as metrics:
        fcntl.flock(metrics, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield dead


def shown(folder: Path) -> Overview:
    return overview(LISTED, RUNS, folder, read_log(folder))


def test_nodes_have_the_clients_that_a_run_saw_on_them(run: Path) -> None:
    found = shown(run)
    assert [(one.node, one.status, [seen.client for seen in one.clients]) for one in found.nodes] == [
        (11, "online", [0]),
        (12, "offline", [1]),
        (13, "registered", []),
        (14, "online", []),
    ]
    assert [seen.client for seen in found.elsewhere] == [2]
    assert (found.status, found.round, found.waiting) == ("running", 4, ("7",))


def test_a_client_is_told_by_its_last_reply_and_counted_by_those_that_were_used(run: Path) -> None:
    first, second = shown(run).nodes[0].clients[0], shown(run).nodes[1].clients[0]
    assert (first.accepted, first.round, first.state, first.trouble) == (3, 3, "lost", "")
    assert (second.accepted, second.round, second.state, second.trouble) == (1, 1, "new", "no reply in round 2")
    (away,) = shown(run).elsewhere
    assert (away.accepted, away.round, away.trouble) == (1, 4, "refused: delta is not finite")


def test_a_void_round_and_one_that_is_done_again_are_not_counted_twice() -> None:
    void = {"time": "2026-11-21T11:57:00.000+00:00", "event": "round void", "round": 1, "accepted": 1}
    once = said("reply accepted", 50, 1, 0, 11, state="new")
    for events, accepted in (([once, void], 0), ([once, void, once], 1), ([once, once], 1)):
        (seen,) = overview(LISTED, RUNS, None, events).nodes[0].clients
        assert seen.accepted == accepted


def test_people_read_a_line_per_client(run: Path) -> None:
    head, waiting, columns, *rows = as_table("fed", shown(run), NOW)
    assert head == "fed: 2 of 4 nodes online; run run-1: running, round 4"
    assert waiting == "waiting to begin: 7 (if that lasts, is the SuperExec running?)"
    assert " ".join(columns.split()) == "node status since client last reply state accepted"
    assert columns.index("client") == rows[0].index("0       round")
    lines = [" ".join(row.split()) for row in rows]
    assert lines[0] == "11 online 2 h ago 0 round 3, 6 min ago lost 3"
    assert lines[1] == "12 offline 5 min ago 1 round 1, 9 min ago new 1 no reply in round 2"
    assert lines[2] == "13 registered - - - - -"
    assert lines[3] == "14 online 36 h ago - - - - no data"
    assert lines[4] == "no node - - 2 round 4, 4 min ago new 1 refused: delta is not finite"


@pytest.mark.parametrize(
    ("facts", "command"),
    [
        ('{"deployed": true}', "flwr run . fed --stream --run-config {0}/resume.toml"),
        ("{}", "fedpeptao run --resume {0}"),
        ("cut", "fedpeptao run --resume {0}"),
    ],
)
def test_a_run_whose_server_died_is_told_with_how_it_goes_on(dead: Path, facts: str, command: str) -> None:
    (dead / "facts.json").write_text(facts)
    assert shown(dead).status == "died"
    head, mend, waiting, *_ = as_table("fed", shown(dead), NOW)
    assert head == "fed: 2 of 4 nodes online; run run-1: died, round 4"
    assert mend == f"to go on with it: {command.format(dead)}"
    assert waiting.startswith("waiting to begin")


def test_a_look_leaves_a_dead_run_free_and_a_live_one_locked(dead: Path) -> None:
    shown(dead)
    with (dead / "metrics.jsonl").open("a") as server, (dead / "metrics.jsonl").open("a") as second:
        fcntl.flock(server, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shown(dead)
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_run_that_ended_and_one_that_cannot_be_asked_are_not_called_dead(
    dead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(file: object, how: int) -> None:
        raise OSError("no locks here")

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", unsupported)
        assert shown(dead).status == "running"
    (dead / "summary.json").write_text('{"status": "failed"}')
    assert shown(dead).status == "failed"


def test_without_a_run_there_are_nodes_alone() -> None:
    found = overview(LISTED, {"runs": []}, None, [])
    assert next(as_table("fed", found, NOW)) == "fed: 2 of 4 nodes online; no run was found"
    assert found.flat()["run"] is None


# -- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def flwr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers as Flower's command does; a test may write another."""
    script = tmp_path / "bin" / "flwr"
    script.parent.mkdir()
    for name, answer in (("supernode", LISTED), ("ls", RUNS)):
        (script.parent / f"{name}.json").write_text(json.dumps(answer))
    script.write_text('#!/bin/sh\ncat "$(dirname "$0")/$1.json"\n')
    script.chmod(0o755)
    monkeypatch.setattr(federation_command.sysconfig, "get_path", lambda name: str(script.parent))
    return script


def test_the_newest_run_is_shown_for_machines(run: Path, flwr: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older = run.parent / "older"
    older.mkdir()
    (older / "metrics.jsonl").touch()
    os.utime(older / "metrics.jsonl", (0, 0))
    assert main(["federation", "fed", "--runs-dir", str(run.parent), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["federation"], told["run"]) == ("fed", str(run))
    assert told["nodes"][0]["clients"][0]["state"] == "lost"


def test_where_no_run_is_found_is_said(flwr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["federation", "fed", "--runs-dir", str(tmp_path / "empty")]) == 0
    assert f"runs are looked for in {tmp_path / 'empty'} (" in capsys.readouterr().out


def test_a_run_that_is_not_there_is_named(run: Path, flwr: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["federation", "fed", "--runs-dir", str(run.parent), "--run", "other"]) == 2
    assert "there is no such run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('echo \'{"success": false, "error-message": "no connection fed"}\'; exit 1', "flwr says: no connection fed"),
        ("echo broken; exit 1", "flwr says: broken"),
    ],
)
def test_what_flower_says_is_passed_on(
    answer: str, said: str, flwr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flwr.write_text(f"#!/bin/sh\n{answer}\n")
    assert main(["federation", "fed", "--runs-dir", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "the SuperLink runs" in told
