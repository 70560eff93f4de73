"""The run's log says from which state each accepted client went on: a new one, its own, or none where it had one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, Message

from tests import small_runs
from tests.small_runs import Flat, Watched

LOSER, LOST_IN = 1, 3


@pytest.mark.usefixtures("no_plots")
def test_who_lost_its_state_is_told_from_who_never_had_one(make_flat: Callable[..., Flat]) -> None:
    flat = make_flat(clients=3, clients_per_round=3, rounds=4, run_name="run", max_lost_share=1.0)
    state = Path(str(flat["runs-dir"])) / "run" / "clients" / f"client-{LOSER}"

    def loses(message: Message, context: Context) -> None:
        here = context.node_config["partition-id"] == LOSER
        if here and message.metadata.message_type == "train" and message.content["round"]["round"] == LOST_IN:
            shutil.rmtree(state)

    ran = small_runs.go(flat, nodes=3, client_app=Watched(loses))
    told = [json.loads(line) for line in (ran.folder / "log.jsonl").read_text().splitlines()]
    states = {(one["round"], one["client"]): one["state"] for one in told if one["event"] == "reply accepted"}
    assert states.pop((LOST_IN, LOSER)) == "lost"
    assert states == {key: "new" if key[0] == 1 else "restored" for key in states}
    assert len(states) == 4 * 3 - 1
