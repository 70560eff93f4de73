"""Each node with a file of its own: the same run as over one data set cut into these files, and nothing of them travels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset
from flwr.app import Context, Message

from client_app import answering
from client_app.app import app
from client_app.discretion import reason
from client_app.disk_store import DiskStore
from client_app.state import ClientState, StateError
from federation import resources
from federation.settings import Scalar, parse
from fedpeptao.cli import main
from fedpeptao.errors import InputError, RunError
from tests.small_runs import Flat, Ran, Watched, go, small, write_jsonl

pytestmark = pytest.mark.usefixtures("no_plots")
NODES = 5
MakeFlat = Callable[..., Flat]
Nodes = Callable[[int], Mapping[str, Scalar]]


def rows(table: Dataset) -> list[dict[str, str]]:
    return [dict(row) for row in table]


def own_run(flat: Flat, folder: Path, nodes: Nodes) -> tuple[Ran, Watched]:
    """A run whose nodes have settings of their own."""

    def told(message: Message, context: Context) -> Message:
        own = {**context.node_config, **nodes(int(context.node_config["partition-id"]))}
        return app(message, replace(context, node_config=own))

    watched = Watched(told)
    return go({**flat, "runs-dir": str(folder)}, NODES, watched), watched


@pytest.fixture
def files(make_flat: MakeFlat, tmp_path: Path) -> Path:
    """The shards of the small run, as files of five nodes and a test set of the server's."""
    settings = parse(make_flat())
    data, shards = resources.splits(settings), resources.shards(settings)
    folder = tmp_path / "private-wards"
    folder.mkdir()
    for client in range(NODES):
        write_jsonl(folder / f"{client}.jsonl", rows(data.train.select(shards.train[client])))
        write_jsonl(folder / f"{client}-v.jsonl", rows(data.validation.select(shards.validation[client])))
    assert data.test is not None
    write_jsonl(folder / "test.jsonl", rows(data.test))
    return folder


@pytest.fixture
def own_flat(files: Path) -> MakeFlat:
    def make(**overrides: Scalar) -> Flat:
        told: dict[str, Scalar] = {"dataset": "stdlib-docs", "test": str(files / "test.jsonl"), "partition": "own"}
        return small(files, files.parent / "runs", **{**told, **overrides})

    return make


def each(files: Path) -> Nodes:
    return lambda node: {"data": str(files / f"{node}.jsonl"), "validation": str(files / f"{node}-v.jsonl")}


def test_it_is_the_run_over_the_whole_cut_into_these_files(
    files: Path, own_flat: MakeFlat, make_flat: MakeFlat, tmp_path: Path
) -> None:
    whole = go(make_flat(run_name="run"), NODES)
    own, _ = own_run(own_flat(run_name="run"), tmp_path / "own", each(files))
    assert own.parameter_bytes == whole.parameter_bytes
    assert own.lines_without("seconds", "bytes", "detail") == whole.lines_without("seconds", "bytes", "detail")
    assert own.summary["clients"] == whole.summary["clients"]


def test_no_path_and_no_row_travels(files: Path, own_flat: MakeFlat, tmp_path: Path) -> None:
    _, watched = own_run(own_flat(rounds=1), tmp_path / "own", each(files))
    up = [str(passed.content).encode() for passed in watched.passed if passed.way == "up"]
    texts = [json.loads(line)["text"] for line in (files / "0.jsonl").read_text(encoding="utf8").splitlines()]
    assert len(up) >= 2 * NODES
    for message in up:
        assert b"private-wards" not in message
        assert not [text for text in texts if text.encode() in message]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("absent", "data"),
        ("columns", "label-column"),
        ("json", "data"),
    ],
)
def test_a_bad_file_stops_the_run_without_telling_where_it_is_or_what_it_says(
    broken: str, said: str, files: Path, own_flat: MakeFlat, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = files / "3.jsonl"
    if broken == "absent":
        file.unlink()
    else:
        file.write_text('{"text": "secret", "ward": "b"}\n' if broken == "columns" else "secret\n", encoding="utf8")
    with pytest.raises((RunError, InputError)) as caught:
        own_run(own_flat(), tmp_path / "own", each(files))
    told = str(caught.value)
    assert f"InputError in {said}: the node's log says more" in told
    assert "private-wards" not in told
    assert "ward" not in told
    assert "secret" not in told
    assert "private-wards" in caplog.text  # who operates the node reads it


def test_a_bound_that_is_too_low_is_named_whosever_the_data_are(
    files: Path, own_flat: MakeFlat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who runs the server set it, and has to hear of it; the message has sizes and no path."""

    def small_part(folder: Path, run: str, fingerprint: str, part: int, kept: int) -> DiskStore:
        return DiskStore(folder, run, fingerprint, 1000, kept)

    monkeypatch.setattr(answering, "open_store", small_part)
    with pytest.raises(
        RunError, match=r"3 states of \d+ bytes are more than its part of state-disk-mb, 1000"
    ) as caught:
        own_run(own_flat(run_name="run"), tmp_path / "own", each(files))
    assert "round-" not in str(caught.value)
    assert "private-wards" not in str(caught.value)


def test_a_full_disk_is_told_by_its_kind_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError) as caught:
        DiskStore(tmp_path, "run", "fingerprint").keep(0, ClientState(1, 0, {}))
    assert str(tmp_path) in str(caught.value)
    assert reason(caught.value, own_data=True) == "StateError: the node's log says more, which stays there"
    assert str(tmp_path) in reason(caught.value, own_data=False)


def test_the_rest_goes_on_where_the_run_may_begin_without_it(files: Path, own_flat: MakeFlat, tmp_path: Path) -> None:
    (files / "3.jsonl").unlink()
    labels = "animals,colours,verbs"
    ran, _ = own_run(own_flat(min_clients=4, labels=labels), tmp_path / "own", each(files))
    assert sorted(ran.summary["clients"]) == ["0", "1", "2", "4"]
    assert ran.summary["rounds"] == 2


def test_evaluation_examples_are_split_off_where_none_are_named(
    files: Path, own_flat: MakeFlat, tmp_path: Path
) -> None:
    ran, _ = own_run(own_flat(rounds=1), tmp_path / "own", lambda node: {"data": str(files / f"{node}.jsonl")})
    for client, told in ran.summary["clients"].items():
        there = len((files / f"{client}.jsonl").read_text(encoding="utf8").splitlines())
        assert told["examples"] + told["validation_examples"] == there
        assert told["validation_examples"] == max(1, round(0.2 * there))


def test_no_common_test_set_is_needed(files: Path, own_flat: MakeFlat, tmp_path: Path) -> None:
    ran, _ = own_run(own_flat(rounds=1, test=""), tmp_path / "own", each(files))
    assert [line["global_accuracy"] for line in ran.lines] == [None, None]
    assert ran.summary["final"]["personalised_accuracy"] is not None


def test_a_test_set_with_a_class_that_no_node_has_is_named(files: Path, own_flat: MakeFlat, tmp_path: Path) -> None:
    write_jsonl(files / "test.jsonl", [{"text": "a b", "label": "minerals"}])
    with pytest.raises(InputError, match="labels that no client has: minerals"):
        own_run(own_flat(), tmp_path / "own", each(files))


def test_a_simulation_has_no_nodes_with_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--run-config", 'partition="own"']) == 2
    assert "simulation" in capsys.readouterr().err
