"""A cell is a whole run; its raw file says what the run's own lines say."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client_app.app import app
from federation.grids import InProcessGrid
from federation.settings import Scalar, defaults, parse
from fedpeptao.comparison import cell as module
from fedpeptao.comparison.cell import Stopwatch, evaluations, run_cell
from fedpeptao.comparison.earlier_runs import earlier_run
from fedpeptao.comparison.grid import Cell
from fedpeptao.comparison.raw import found, read_raw
from fedpeptao.comparison.sources import FOLDER, check_located, content_sha256
from fedpeptao.errors import InputError, RunError
from server_app.run import run
from tests.small_runs import SMALL


@pytest.fixture
def cell(data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cell:
    """Two rounds, both evaluated, of the small data."""
    monkeypatch.setenv(FOLDER, str(data_file.parent))
    settings = {**defaults(), **SMALL, "dataset": data_file.name, "evaluate-every": 1}
    return Cell("ours", "small", None, 0, 0.01, settings, tmp_path / "g" / "ours-seed0.jsonl")


def test_side_by_side_is_the_slowest_node_and_what_is_not_the_nodes() -> None:
    """20 s on the clock, 16 of them the nodes', who worked 2 + 5 + 1; half a core: the server had 2; side by side 5 + 2."""
    watch = Stopwatch(lambda message, context: message)
    watch.seconds[1].update({1: 2.0, 2: 5.0, 3: 1.0})
    watch.clock[1] = 16.0
    assert watch.of_round(1, 20.0, share=0.5) == (10.0, 7.0)
    assert watch.of_round(2, 0.5, share=1.0) == (0.5, 0.5)


def test_the_stopwatch_sums_what_a_node_trains_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 4.0, 6.0, 6.0, 10.0, 10.0, 15.0, 15.0, 31.0])
    work = iter([0.0, 1.0, 1.0, 3.0, 3.0, 7.0, 7.0, 15.0, 20.0, 60.0])
    monkeypatch.setattr(
        module, "time", SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: next(work))
    )
    watch = Stopwatch(lambda message, context: message)
    for kind, server_round, node in (
        ("train", 1, 5),
        ("train", 1, 6),
        ("train", 1, 5),
        ("evaluate", 1, 5),
        ("train", 2, 6),
    ):
        content = RecordDict({"round": ConfigRecord({"round": server_round})})
        context = Context(1, node, {}, RecordDict(), {})
        watch(Message(content, node, kind), context)
    assert watch.seconds == {1: {5: 5.0, 6: 2.0}, 2: {6: 16.0}}  # threads work 40 s while the clock shows 16
    assert watch.clock == {1: 10.0, 2: 16.0}


def test_sums_are_over_all_rounds_and_evaluations_stand_apart() -> None:
    def line(number: int, own: float | None, **more: Any) -> dict[str, Any]:
        blank = dict.fromkeys(("down_bytes", "up_bytes", "seconds", "evaluation_bytes", "train_loss"))
        scores = {"all_personalised_f1": own, "all_shared_f1": own, "global_f1": 0.5}
        return {"round": number, **blank, **scores, **more}

    lines = [
        line(0, None),
        line(1, None, down_bytes=10, up_bytes=5, seconds=4.0, train_loss=3.0),
        line(2, 0.7, down_bytes=10, up_bytes=6, seconds=6.0, evaluation_bytes=100, train_loss=2.0),
    ]
    watch = Stopwatch(lambda message, context: message)
    watch.seconds[1] = defaultdict(float, {1: 1.0, 2: 2.0})
    watch.clock[1] = 3.0
    (point,) = evaluations(lines, "f1", watch)
    assert (point.round, point.personalised, point.down, point.up, point.evaluation) == (2, 0.7, 20, 11, 100)
    assert (point.seconds, point.side_by_side, point.train_loss) == (10.0, 9.0, 2.0)
    (half,) = evaluations(lines, "f1", watch, share=0.5)
    assert (half.seconds, half.side_by_side) == (6.5, 5.5)


@pytest.mark.usefixtures("no_plots")
def test_a_cell_leaves_one_file_of_the_whole_run(cell: Cell) -> None:
    run_cell(cell)
    result = found(cell, content_sha256(cell))
    assert result is not None
    assert [one.round for one in result.points] == [1, 2]
    assert result.made["settings"]["dataset"] == "texts.jsonl"  # where it lies is nobody's business
    assert result.made["source"] == content_sha256(cell)
    assert [path.name for path in cell.path.parent.iterdir()] == [cell.path.name]
    first, last = result.points
    assert (last.down, last.up) == (2 * first.down, 2 * first.up)
    assert last.side_by_side is not None
    assert last.seconds is not None
    assert 0 < last.side_by_side < last.seconds
    clients = result.end["clients"]
    assert len(clients["examples"]) == SMALL["clients"]
    assert sum(clients["personalised"]) / sum(clients["examples"]) == pytest.approx(last.personalised)
    assert sum(clients["shared"]) / sum(clients["examples"]) == pytest.approx(last.shared)
    assert 0 < result.end["commonest_label"] < 1
    assert cell.path.stat().st_size < 10_000
    again = cell.path.read_text(encoding="utf8")
    run_cell(cell)
    same = ("round", "personalised", "shared", "global_test", "down", "up", "train_loss")
    for before, after in zip(
        again.splitlines()[1:-1], cell.path.read_text(encoding="utf8").splitlines()[1:-1], strict=True
    ):
        one, other = (json.loads(text)["evaluation"] for text in (before, after))
        assert [one[key] for key in same] == [other[key] for key in same]


@pytest.mark.usefixtures("no_plots")
def test_a_run_that_cannot_go_on_leaves_a_file_that_says_so(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(*given: Any) -> None:
        raise FloatingPointError("the loss is not finite")

    monkeypatch.setattr("client_app.host.train_together", diverges)
    with pytest.raises(RunError, match="no client gave an update"):
        run_cell(cell)
    result = read_raw(cell.path)
    assert not result.completed
    assert "no client gave an update" in result.end["why"]
    assert found(cell) == result


@pytest.mark.usefixtures("no_plots")
def test_prompts_that_are_mixed_are_trained_once_for_all_cells(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {**cell.settings, "tuned": "input-prompts", "layers": "all", "rounds": 1, "evaluate-every": 0}
    asked = []

    def train(told: dict[str, Scalar]) -> None:
        asked.append(told["seed"])
        run(InProcessGrid(app, told, nodes=int(told["clients"])), parse(told))

    first = earlier_run(source, "code", tmp_path, train)
    assert sorted(path.name for path in first.iterdir()) == ["parameters.safetensors", "settings.json"]
    monkeypatch.chdir(tmp_path)
    assert earlier_run(source, "code", Path(), train) == first  # absolute, as prompt-sources has to be
    others = [earlier_run({**source, "seed": 5}, "code", tmp_path, train), earlier_run(source, "more", tmp_path, train)]
    assert len({first, *others}) == 3
    assert asked == [source["seed"], 5, source["seed"]]

    def dies(told: dict[str, Scalar]) -> None:
        raise RunError("diverged")

    with pytest.raises(RunError, match="diverged"):
        earlier_run({**source, "seed": 6}, "code", tmp_path, dies)
    assert earlier_run({**source, "seed": 6}, "code", tmp_path, train).is_dir()  # what failed was not kept
    assert asked[3:] == [6]
    assert not [path for path in (tmp_path / ".prompts").iterdir() if path.name.startswith("tmp")]


@pytest.mark.usefixtures("no_plots")
def test_a_cell_that_mixes_prompts_trains_them_first(cell: Cell) -> None:
    source = {**cell.settings, "tuned": "input-prompts", "layers": "all", "rounds": 1, "evaluate-every": 0}
    own = {"tuned": "mixed-prompts", "layers": "all", "prompt-sources": "one,two"}
    mixing = replace(
        cell, settings={**cell.settings, **own}, prompt_sources={"one": source, "two": {**source, "seed": 5}}
    )
    run_cell(mixing)
    result = found(mixing, content_sha256(mixing))
    assert result is not None
    assert result.completed
    assert content_sha256(mixing) != content_sha256(cell)
    assert found(replace(mixing, prompt_sources={"one": source, "two": {**source, "seed": 6}})) is None
    assert found(replace(mixing, prompt_sources={})) is None
    lacking = replace(mixing, prompt_sources={"one": source, "two": {**source, "dataset": "none.jsonl"}})
    assert content_sha256(lacking) is None
    with pytest.raises(InputError, match=r"dataset = 'none.jsonl': there is no such file"):
        check_located(lacking)


def test_a_file_that_is_out_of_reach_is_named(cell: Cell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert content_sha256(cell) is None
    with pytest.raises(InputError, match=rf"dataset = 'texts.jsonl': there is no such file in {tmp_path}"):
        run_cell(cell)
    monkeypatch.delenv(FOLDER)
    with pytest.raises(InputError, match=f"{FOLDER} names no folder. Set {FOLDER} to the absolute path"):
        run_cell(cell)
    assert not cell.path.exists()
