"""The table of docs/TASKS.md is made of the raw figures, and of them alone."""

from __future__ import annotations

import json

from experiments.machine import RESULTS
from experiments.published_tasks import BASE, BEGIN, END, METHODS, PAGE, TASKS, table
from federation.settings import defaults, parse


def test_the_page_holds_the_raw_figures() -> None:
    paths = [RESULTS / "tasks" / f"{task}-seed0.json" for task in TASKS]
    figures = [json.loads(path.read_text(encoding="utf8")) for path in paths if path.exists()]
    shown = PAGE.read_text(encoding="utf8").split(BEGIN)[1].split(END)[0].strip()
    assert shown == table(figures)
    for task in figures:
        assert {name: found["settings"] for name, found in task["methods"].items()} == METHODS
        assert task["base"] == BASE


def test_its_methods_are_settings_and_take_as_many_epochs() -> None:
    """Four epochs over its own examples, or over all: as a client does in a run of which a tenth takes part in each round."""
    runs = {name: parse({**defaults(), **BASE, **own}) for name, own in METHODS.items()}
    method = runs["FedPepTAO"]
    epochs = method.federation.rounds * method.local.local_epochs * method.federation.clients_per_round
    assert epochs / method.federation.clients == runs["local-only"].local.final_local_epochs == 4
    central = runs["central"]
    assert central.federation.clients == 1
    assert central.federation.rounds * central.local.local_epochs == 4
