from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedpeptao.errors import InputError, RunError
from server_app.run_folder import RunFolder, plain


def test_a_named_run_lies_in_the_folder_of_that_name(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "not" / "there", "mine")
    assert folder.path == tmp_path / "not" / "there" / "mine"
    assert folder.history() == []


def test_a_name_is_used_once(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "mine").append({"round": 0})
    with pytest.raises(InputError, match=r"run-name = 'mine'.*taken") as caught:
        RunFolder.create(tmp_path, "mine")
    assert caught.value.key == "run-name"
    assert len((tmp_path / "mine" / "metrics.jsonl").read_text().splitlines()) == 1


def test_an_empty_folder_of_that_name_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert RunFolder.create(tmp_path, "mine").path == tmp_path / "mine"


@pytest.mark.parametrize("thing", ["notes.txt", "clients", ".git"])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, thing: str) -> None:
    """Also under a name that nobody gave: the next one is taken."""
    (tmp_path / "mine" / thing).mkdir(parents=True)
    with pytest.raises(
        InputError, match=rf"run-name = 'mine': .*mine is no run's folder, .* it holds {thing}\. Choose"
    ) as error:
        RunFolder.create(tmp_path, "mine")
    assert error.value.key == "run-name"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [thing]


def test_a_folder_of_that_second_that_holds_something_else_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda form: "20260102-030405")
    (tmp_path / "20260102-030405" / "clients").mkdir(parents=True)
    assert RunFolder.create(tmp_path, "").path.name == "20260102-030405-2"


def test_runs_of_the_same_second_get_a_number_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda form: "20260102-030405")
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: RunFolder.create(tmp_path, ""), range(8)))
    expected = ["20260102-030405", *(f"20260102-030405-{number}" for number in range(2, 9))]
    assert sorted(folder.path.name for folder in folders) == sorted(expected)


def test_by_default_a_run_lies_in_the_users_data_folder_under_date_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs.PlatformDirs, "user_data_dir", str(tmp_path))
    path = RunFolder.create(None, "").path
    assert path.parent == tmp_path / "runs"
    assert abs(datetime.now() - datetime.strptime(path.name, "%Y%m%d-%H%M%S")) < timedelta(seconds=30)


def test_a_runs_dir_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Name a folder that you can write to") as caught:
        RunFolder.create(tmp_path / "file", "")
    assert (caught.value.key, caught.value.value) == ("runs-dir", str(tmp_path / "file"))


def test_a_name_too_long_for_the_file_system_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        RunFolder.create(tmp_path, "x" * 300)
    assert caught.value.key == "run-name"


def test_lines_come_back_as_plain_json_values(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    line: dict[str, Any] = {
        "round": np.int64(1),
        "train_loss": torch.tensor(0.5),
        "personalised_accuracy": np.float32(0.25),
        "global_loss": math.nan,
        "update_norm": np.float64(math.inf),
        "global_accuracy": None,
        "clients": torch.tensor([3, 7]),
        "failed": {7: "RuntimeError: 50 % of memory\n"},
    }
    folder.append(line)
    expected = {
        "round": 1,
        "train_loss": 0.5,
        "personalised_accuracy": 0.25,
        "global_loss": None,
        "update_norm": None,
        "global_accuracy": None,
        "clients": [3, 7],
        "failed": {"7": "RuntimeError: 50 % of memory\n"},
    }
    assert folder.history() == [expected]


def test_a_line_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tmp_path, "run")
    synced: list[str] = []
    metrics = folder.path / "metrics.jsonl"
    monkeypatch.setattr("os.fsync", lambda _: synced.append(metrics.read_text()))
    folder.append({"round": 0})
    assert synced == ['{"round": 0}\n']


def test_a_disk_that_takes_no_line_is_named_and_the_folder_can_be_closed(tmp_path: Path) -> None:
    """What is left in the file's buffer is refused once more when it is closed."""
    folder = RunFolder.create(tmp_path, "run")
    folder._metrics.close()
    folder._metrics = open("/dev/full", "a")  # noqa: SIM115 (the folder closes it)
    said = (
        rf"round 3 cannot be kept in {folder.path}/metrics.jsonl: No space left on device\. .* --resume {folder.path}$"
    )
    with pytest.raises(RunError, match=said):
        folder.append({"round": 3})
    folder.close()
    assert folder._metrics.closed


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    folder.append({"round": 0})
    with (folder.path / "metrics.jsonl").open("ab") as file:
        file.write('{"round": 1, "failed": {"2": "\u00fc'.encode()[:-1])
    assert folder.history() == [{"round": 0}]


def test_another_broken_line_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    (folder.path / "metrics.jsonl").write_text('{"round": 0}\n{"rou\n{"round": 2}\n')
    with pytest.raises(ValueError, match="line 2 is no JSON object"):
        folder.history()


def test_tensorboard_holds_figures_by_round_and_by_traffic(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    folder.append({"round": 0, "global_accuracy": 0.125, "cumulative_bytes": 0})
    folder.append({"round": 1, "personalised_accuracy": 0.25, "train_loss": 2.0, "cumulative_bytes": 40_000})
    folder.append(
        {
            "round": 2,
            "personalised_accuracy": 0.5,
            "global_accuracy": 0.75,
            "train_loss": None,
            "cumulative_bytes": 80_000,
        }
    )
    folder.close()
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()

    def scalars(tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in events.Scalars(tag)]

    assert scalars("accuracy/global") == [(0, 0.125), (2, 0.75)]
    assert scalars("accuracy_by_kilobytes/global") == [(0, 0.125), (80, 0.75)]
    assert scalars("accuracy/personalised") == [(0, 0.25), (1, 0.5)]  # of the state that the clients received
    assert scalars("accuracy_by_kilobytes/personalised") == [(0, 0.25), (40, 0.5)]
    assert scalars("loss/train") == [(1, 2.0)]


def test_facts_hold_versions_and_what_the_caller_adds(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    folder.write_facts({"rounds": 3, "alpha": 0.3}, {"data": {"sha256": "ab"}, "torch_threads": 7})
    assert json.loads((folder.path / "settings.json").read_text()) == {"rounds": 3, "alpha": 0.3}
    facts = json.loads((folder.path / "facts.json").read_text())
    assert facts["versions"].keys() == {
        "fedpeptao", "python", "flwr", "torch", "transformers", "peft", "datasets", "numpy",
    }  # fmt: skip
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["data"] == {"sha256": "ab"}
    assert facts["torch_threads"] == 7
    assert facts["cpu"]
    assert datetime.fromisoformat(facts["started"]).utcoffset() == timedelta(0)


def test_a_summary_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tmp_path, "run")
    folder.write_summary({"status": "interrupted", "paths": {"run": folder.path}})

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(
        RunError, match=r"the summary cannot be kept .*No space left on device\. Make room there and go on"
    ):
        folder.write_summary({"status": "completed"})
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary == {"status": "interrupted", "paths": {"run": str(folder.path)}}
    assert not [path for path in folder.path.iterdir() if path.name.startswith(".")]


def test_what_json_cannot_hold_is_an_error() -> None:
    with pytest.raises(TypeError, match="set"):
        plain({"clients": {1, 2}})
