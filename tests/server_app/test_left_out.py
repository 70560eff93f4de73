"""Clients that go on sending what is refused: left out, named, counted, and the run goes on, also where it died between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, Context, Message

from client_app.app import app
from federation.grids import InProcessGrid
from federation.settings import parse
from fedpeptao.errors import InputError, RunError
from server_app.checkpoint import Checkpoints
from server_app.run import run
from server_app.run_folder import read_history, read_summary
from tests.small_runs import Flat, Ran, go

pytestmark = pytest.mark.usefixtures("no_plots")
MakeFlat = Callable[..., Flat]
Spoil = Callable[[Message, int], None]


def times(factor: float) -> Spoil:
    """An update of another size."""

    def spoil(reply: Message, client: int) -> None:
        update = reply.content.array_records[f"update.{client}"]
        for name, array in list(update.items()):
            update[name] = Array(array.numpy() * array.numpy().dtype.type(factor))

    return spoil


def more_steps(reply: Message, client: int) -> None:
    reply.content.config_records[f"client.{client}"]["steps"] = 10**6


class Bad:
    """The client app on nodes of one client each; what the bad ones of them send in some rounds is spoilt."""

    def __init__(self, bad: tuple[int, ...], spoil: Spoil, when: Callable[[int], bool] = lambda made: True) -> None:
        self.bad, self.spoil, self.when = bad, spoil, when

    def __call__(self, message: Message, context: Context) -> Message:
        reply, client = app(message, context), int(context.node_config["partition-id"])
        made = int(message.metadata.group_id or 0)
        if message.metadata.message_type == "train" and client in self.bad and self.when(made):
            self.spoil(reply, client)
        return reply


@pytest.fixture
def flat(make_flat: MakeFlat) -> Flat:
    return make_flat(clients_per_round=5, rounds=4, strikes=2, run_name="run", test_every=0)


def with_bad(flat: Flat, *given: Any) -> Ran:
    return go(flat, 5, Bad(*given))


def test_a_client_that_goes_on_is_left_out(flat: Flat, shown: list[str]) -> None:
    ran = with_bad(flat, (3,), more_steps)
    lines = ran.lines
    assert [line["left_out"] for line in lines] == [[], [3], [3], [3]]
    assert [sorted(line["clients"]) for line in lines[1:3]] == [[0, 1, 2, 3, 4], [0, 1, 2, 4]]
    assert lines[1]["refused"] == {"3": 2}
    assert "it has 1000000 steps, 3 in the roll call" in lines[1]["failed"]["3"]
    assert [line["accepted"] for line in lines] == [4] * 4
    assert (ran.summary["left_out"], ran.summary["refused"]) == ([3], {"3": 2})
    assert "3" not in ran.summary["final"]["per_client"]
    (said,) = [line for line in shown if "left out from now on" in line]
    assert "client 3" in said
    assert any(line.strip().startswith("left out") for text in shown for line in text.splitlines())


def test_a_good_reply_between_keeps_it_in(flat: Flat) -> None:
    ran = with_bad(flat, (3,), more_steps, lambda made: made % 2 == 1)
    assert [line["left_out"] for line in ran.lines] == [[]] * 4
    assert ran.summary["refused"] == {"3": 2}


def test_a_machine_that_fails_is_not_left_out(flat: Flat) -> None:
    """Its owner knows of it, and it may be mended."""

    def fails(reply: Message, client: int) -> None:
        reply.content.config_records[f"client.{client}"]["fault"] = "OSError: disk full"

    ran = with_bad(flat, (3,), fails)
    assert all(line["failed"] == {"3": "OSError: disk full"} for line in ran.lines)
    assert (ran.summary["left_out"], ran.summary["refused"]) == ([], {})


def test_without_strikes_nobody_is_left_out(flat: Flat) -> None:
    ran = with_bad({**flat, "strikes": 0, "rounds": 3}, (3,), more_steps)
    assert (ran.summary["left_out"], ran.summary["refused"]) == ([], {"3": 3})


def test_a_norm_out_of_proportion_is_refused_and_in_proportion_is_not(flat: Flat) -> None:
    """From the second round on; an update that is refused is as one that never came."""
    own = {**flat, "norm-limit": 5.0, "rounds": 3}
    ran = with_bad(own, (3,), times(1000.0), lambda made: made == 2)
    assert list(ran.lines[1]["failed"]) == ["3"]
    assert "is in proportion (norm-limit)" in ran.lines[1]["failed"]["3"]
    assert [line["accepted"] for line in ran.lines] == [5, 4, 5]
    lost = with_bad({**own, "run-name": "lost"}, (3,), more_steps, lambda made: made == 2)
    assert ran.parameter_bytes == lost.parameter_bytes
    harmed = with_bad({**own, "norm-limit": 0.0, "run-name": "off"}, (3,), times(1000.0), lambda made: made == 2)
    assert harmed.lines[1]["failed"] == {}


def test_the_first_norms_are_let_in(flat: Flat) -> None:
    ran = with_bad({**flat, "norm-limit": 5.0, "rounds": 1}, (3,), times(1000.0))
    assert ran.lines[0]["failed"] == {}


@pytest.mark.parametrize("dies_before", [2, 3])
def test_a_run_that_died_goes_on_with_the_same_bits(
    flat: Flat, monkeypatch: pytest.MonkeyPatch, dies_before: int
) -> None:
    """Strikes, counts and norms are in the checkpoint."""
    own = {**flat, "strikes": 2, "norm-limit": 5.0}
    bad = ((3,), times(1000.0), lambda made: made > 1)
    whole = with_bad({**own, "runs-dir": f"{flat['runs-dir']}-whole"}, *bad)
    assert whole.summary["left_out"] == [3]
    real = Checkpoints.save

    def deadly(self: Checkpoints, identity: Any, progress: Any) -> None:
        if progress.state.round == dies_before:
            raise KeyboardInterrupt
        real(self, identity, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", deadly)
        with pytest.raises(KeyboardInterrupt):
            with_bad(own, *bad)
    ran = with_bad({**own, "resume": f"{flat['runs-dir']}/run"}, *bad)
    assert ran.parameter_bytes == whole.parameter_bytes
    assert ran.lines_without("seconds") == whole.lines_without("seconds")
    assert (ran.summary["left_out"], ran.summary["refused"]) == (whole.summary["left_out"], whole.summary["refused"])


def test_with_too_few_left_the_run_stops_and_may_go_on(flat: Flat) -> None:
    own = {**flat, "quorum": 4, "rounds": 2}
    grid = InProcessGrid(Bad((1, 3), more_steps, lambda made: made > 1), own, 5)
    with pytest.raises(RunError, match=r"round 2: 3 of the 4 replies"):
        run(grid, parse(own))
    own["quorum-wait-s"] = 60.0
    resumed = {**own, "resume": f"{flat['runs-dir']}/run"}
    with pytest.raises(
        RunError,
        match=r"round 2: 3 clients are left for a quorum of 4; .*\(strikes\): 1, 3\..*--resume .*'strikes=0', and all",
    ):
        run(InProcessGrid(Bad((1, 3), more_steps, lambda made: made > 1), own, 5), parse(resumed))
    folder = Path(str(flat["runs-dir"])) / "run"
    assert read_summary(folder)["status"] == "failed"
    run(InProcessGrid(app, own, 5), parse({**resumed, "strikes": 0}))
    assert [line["accepted"] for line in read_history(folder)] == [5] * 2


def test_default_runs_name_nobody(make_flat: MakeFlat) -> None:
    ran = go(make_flat())
    assert (ran.summary["left_out"], ran.summary["refused"]) == ([], {})
    assert all(line["left_out"] == [] and line["dropped"] == {} for line in ran.lines[1:])


def test_a_message_limit_below_what_will_travel_stops_the_run(make_flat: MakeFlat) -> None:
    own = make_flat(message_limit_mb=1, prompt_tokens=440, max_length=32, layers="all", clients_per_round=5)
    with pytest.raises(
        InputError, match=r"message-limit-mb = 1: messages of this run have up to [\d,]+ bytes\. Set it to \d"
    ):
        go(own, nodes=1)
    assert go(make_flat(message_limit_mb=1, rounds=1)).summary["status"] == "completed"
