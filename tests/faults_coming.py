"""Faults of who is there: nodes that join, leave, come back, and are gone all at once."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from fedpeptao.errors import RunError
from tests.coming import AGAIN, Coming, There, nodes
from tests.fault_stage import ROUND, ROUNDS, VICTIM, Stage
from tests.small_runs import Flat, Ran

ALL = nodes(0, 1, 2, 3, 4)
OTHERS = ALL - nodes(VICTIM)
LATER = ROUND + 1


def among(stage: Stage, flat: Flat, there: There) -> Ran:
    return stage.go(flat, Coming(flat, there))


def asked(ran: Ran) -> list[int]:
    """In which rounds the victim was."""
    return [line["round"] for line in ran.lines[1:] if VICTIM in line["clients"]]


def joins(stage: Stage) -> None:
    ran = among(stage, stage.flat(min_clients=4), lambda r: ALL if r >= LATER else OTHERS)
    assert asked(ran) == list(range(LATER, ROUNDS + 1))
    assert [line.get("joined") for line in ran.lines[1:]] == [None, None, [VICTIM], None]
    assert [line["accepted"] for line in ran.lines[1:]] == [4, 4, 5, 5]
    assert "evaluated_clients" not in ran.summary["final"]


def returns(first: int) -> Callable[[Stage], None]:
    """Leaves for one round; the server finds it again under the id that it had, or under another."""

    def strike(stage: Stage) -> None:
        back = OTHERS | nodes(VICTIM, first=first)
        ran = among(stage, stage.flat(), lambda r: ALL if r < ROUND else OTHERS if r == ROUND else back)
        assert asked(ran) == [1, 3, 4]
        assert [(line.get("left"), line.get("back")) for line in ran.lines[2:4]] == [([VICTIM], None), (None, [VICTIM])]
        assert [line["failed"] or line["missing"] for line in ran.lines[1:]] == [[]] * ROUNDS
        log = [json.loads(line) for line in (stage.run / "log.jsonl").read_text().splitlines()]
        assert [(e["event"], e["round"]) for e in log if e["event"] in ("client left", "client back")] == [
            ("client left", ROUND),
            ("client back", LATER),
        ]
        assert not any("set aside" in line["event"] for line in log)

    return strike


def all_gone_for_a_while(stage: Stage) -> None:
    flat = stage.flat(quorum_wait_s=60.0)
    whole, looks = stage.whole(flat), []

    def there(coming: int) -> set[int]:
        looks.extend([coming] * (coming == LATER))
        return set() if coming == LATER and len(looks) < 4 else ALL

    ran = among(stage, flat, there)
    assert same_figures(ran, whole)
    assert ran.lines[LATER]["back"] == [0, 1, 2, 3, 4]


def all_gone_too_long(stage: Stage) -> None:
    flat = stage.flat(quorum_wait_s=1.0)
    whole = stage.whole(flat)
    stopped = rf"round {LATER}: 0 clients are there for a quorum of 1 after 1 s .*not there: 0, 1, 2, 3, 4.*--resume"
    with pytest.raises(RunError, match=stopped):
        among(stage, flat, lambda r: set() if r >= LATER else ALL)
    assert json.loads((stage.run / "summary.json").read_text())["status"] == "failed"
    again = {**flat, "resume": str(stage.run)}
    assert same_figures(among(stage, again, lambda r: nodes(0, 1, 2, 3, 4, first=AGAIN)), whole)


def same_figures(one: Ran, other: Ran) -> bool:
    """The same bits, but for who is said to have left and come back."""
    beside = ("seconds", "left", "back")
    return (
        one.parameter_bytes == other.parameter_bytes
        and one.lines_without(*beside) == other.lines_without(*beside)
        and one.summary["final"] == other.summary["final"]
    )
