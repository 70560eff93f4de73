"""Rounds that end: quorum, deadline, over-sampling, and replies that come when nobody waits for them any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from client_app import host
from client_app.app import app
from federation.grids import InProcessGrid, RecordingGrid, _parse
from federation.settings import defaults, parse
from fedpeptao.errors import InputError, RunError
from server_app.rounds import pause_after
from server_app.run import run
from server_app.run_folder import read_history
from tests.small_runs import Flat, go

pytestmark = pytest.mark.usefixtures("no_plots")
MakeFlat = Callable[..., Flat]


def failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, int], bool]) -> Counter[int]:
    """Clients whose training raises; how often each round was trained for."""
    real, asked = host.train, Counter[int]()

    def broken(settings: Any, ask: host.Ask, client: int, *rest: Any) -> Any:
        asked[ask.round] += 1
        if fails(client, ask.round):
            raise ValueError(f"client {client} is tired")
        return real(settings, ask, client, *rest)

    monkeypatch.setattr(host, "train", broken)
    return asked


def test_too_few_replies_stop_the_run_and_it_goes_on_later(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bits of a run in which everybody answered."""
    flat = make_flat(rounds=3, quorum=3, run_name="run")
    whole = go({**flat, "runs-dir": f"{flat['runs-dir']}-whole"})
    tired = whole.lines[2]["clients"][0]
    with monkeypatch.context() as context:
        failing(context, lambda client, made_in: (client, made_in) == (tired, 2))
        with pytest.raises(RunError, match=rf"round 2: 2 of the 3 replies of its quorum came. Client {tired}: .*tired"):
            go(flat)
    folder = f"{flat['runs-dir']}/run"
    ran = go({**flat, "resume": folder})
    assert ran.parameter_bytes == whole.parameter_bytes
    assert ran.summary["final"] == whole.summary["final"]
    assert ran.lines_without("seconds") == whole.lines_without("seconds")


def test_a_round_without_its_quorum_asks_others(make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch) -> None:
    """The void attempt leaves no trace in the parameters: they are those of the clients that were asked next, alone."""
    flat = make_flat(rounds=1, clients_per_round=2, quorum=2, quorum_wait_s=60.0)
    tired: list[int] = []

    def once(client: int, made_in: int) -> bool:
        if not tired:
            tired.append(client)
        return client == tired[0] and len(asked) < 2 and asked[1] <= 2

    asked = failing(monkeypatch, once)
    ran = go(flat)
    line = ran.lines[1]
    assert (line["attempts"], line["accepted"], line["failed"]) == (2, 2, {})
    assert asked[1] == 4
    assert line["down_bytes"] > 0
    alone = go({**flat, "run-name": "again"})  # nobody fails: the first sample is taken
    assert alone.lines[1]["attempts"] == 1
    assert alone.lines[1]["clients"] != line["clients"]
    assert alone.lines[1]["down_bytes"] < line["down_bytes"]


def test_it_waits_for_its_quorum_no_longer_than_it_was_told(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda s: None)
    asked = failing(monkeypatch, lambda client, made_in: made_in == 2)
    flat = make_flat(rounds=3, quorum_wait_s=0.3, run_name="run")
    with pytest.raises(RunError, match=r"round 2: no client gave an update within 0.3 s \(quorum-wait-s\)"):
        go(flat)
    assert asked[2] > 3
    lines = read_history_of(flat)
    assert [line["round"] for line in lines] == [0, 1, 2]
    assert lines[-1]["accepted"] == 0
    assert lines[-1]["attempts"] > 1


def test_pauses_double_up_to_the_longest_however_often_it_was_asked() -> None:
    assert [pause_after(attempt) for attempt in (0, 1, 6, 7, 8, 5000)] == [0.25, 0.5, 16.0, 30.0, 30.0, 30.0]


def read_history_of(flat: Flat) -> list[dict[str, Any]]:
    return read_history(Path(str(flat["runs-dir"])) / "run")


@pytest.mark.parametrize("quorum", [1, 2, 3])
def test_nothing_is_averaged_over_fewer_replies(
    make_flat: MakeFlat, monkeypatch: pytest.MonkeyPatch, quorum: int
) -> None:
    monkeypatch.setattr("time.sleep", lambda s: None)
    failing(monkeypatch, lambda client, made_in: (client * 7 + made_in * 3) % 4 == 0)
    flat = make_flat(rounds=6, quorum=quorum, quorum_wait_s=5.0, clients=7, run_name="run")
    try:
        lines = go(flat).lines
    except RunError:
        lines = read_history_of(flat)[:-1]
    assert len(lines) > 1
    assert all(line["accepted"] >= quorum for line in lines[1:])
    if quorum == 1:
        assert any(line["accepted"] < 3 for line in lines[1:])


class Awaited(InProcessGrid):
    """A node that answers only from the `after`-th pull on."""

    def __init__(self, flat: Flat, slow: int, after: int) -> None:
        super().__init__(app, flat, int(flat["clients"]))
        self._slow, self._after, self._pulls = 1000 + slow, after, 0

    def pull_messages(self, message_ids: Any) -> Any:
        self._pulls += 1
        ids = list(message_ids)
        if self._pulls < self._after:
            ids = [one for one in ids if not self._is_for_slow(one)]
        else:
            ids.reverse()  # what is overdue stands last
        return super().pull_messages(ids)

    def _is_for_slow(self, message_id: str) -> bool:
        data = self._waiting.get(message_id)
        if data is None:
            return False
        message = _parse(data)
        return message.metadata.message_type == "train" and message.metadata.dst_node_id == self._slow


def test_over_sampling_closes_with_the_replies_it_needs_and_counts_who_is_late(make_flat: MakeFlat) -> None:
    flat = make_flat(clients=5, clients_per_round=2, over_sampling=1, rounds=2)
    first = go({**flat, "run-name": "first"}, nodes=5)
    asked = first.lines[1]["clients"]
    assert len(asked) == 3
    assert first.lines[1]["accepted"] == 2
    slow = asked[0]
    summary = run(Awaited(flat, slow, 9), parse(flat))  # 5 pulls are the roll call's, 2 the first round's
    lines = read_history(Path(str(summary["paths"]["run_folder"])))
    assert lines[1]["missing"] == [slow]
    assert lines[1]["accepted"] == 2
    assert [line["late"] for line in lines] == [None, 0, 1]


def test_a_late_reply_is_dropped(make_flat: MakeFlat) -> None:
    """Its client goes on from its last accepted state, and what it sent changes nothing."""
    grid = RecordingGrid(InProcessGrid(app, make_flat(), 2))
    ids = ["gone"]
    grid.wait_no_longer(ids)

    class Late(InProcessGrid):
        def pull_messages(self, message_ids: Any) -> Any:
            assert "gone" in list(message_ids)
            reply = Message.__new__(Message)
            reply.__dict__["_metadata"] = type("M", (), {"reply_to_message_id": "gone"})()
            reply.has_content = reply.has_error = lambda: False  # type: ignore[method-assign]
            return [reply]

    grid._grid = Late(app, make_flat(), 2)
    assert grid.pull_messages([]) == []
    assert grid.late == 1


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"quorum": 4, "clients-per-round": 3}, "quorum"),
        ({"over-sampling": 91}, "over-sampling"),
        ({"clients": 12, "over-sampling": 3}, "over-sampling"),
    ],
)
def test_numbers_that_do_not_fit_each_other(changes: Flat, key: str) -> None:
    with pytest.raises(InputError) as caught:
        parse({**defaults(), **changes})
    assert caught.value.key == key
