"""`fedpeptao run` with Flower and Ray for real, on a random two-layer model."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

TINY = 'model="random:bert" clients=4 clients-per-round=2 local-epochs=1 score-batches=1 train-examples=200 test-examples=60'


def command(folder: Path, settings: str) -> list[str]:
    config = f'{TINY} runs-dir="{folder}" run-name="run" {settings}'
    return [sys.executable, "-m", "fedpeptao", "run", "--nodes", "2", "--run-config", config]


def start(folder: Path, settings: str) -> "subprocess.Popen[str]":
    """From a folder that is not the application's, with a mark by which its processes can be told from others."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        command(folder, settings),
        cwd=folder,
        env={**os.environ, "FEDPEPTAO_TEST": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_over(folder: Path) -> list[str]:
    names = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FEDPEPTAO_TEST") == str(folder):
                names.append(process.name())
        except (psutil.Error, OSError):
            continue
    return names


def rounds_of(folder: Path) -> list[int]:
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    return [json.loads(line)["round"] for line in lines]


def test_two_runs_at_once_complete_and_leave_their_folders(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    runs = [start(folder, "rounds=1") for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        out, error = run.communicate(timeout=300)
        assert run.returncode == 0, out + error
        assert str(folder / "run") in out
        assert "INFO" not in out
        assert rounds_of(folder)[-1] == 1
        assert left_over(folder) == []


def test_a_failing_run_says_why_and_exits_with_1(tmp_path: Path) -> None:
    run = start(tmp_path, f'rounds=1 dataset="{tmp_path / "absent.jsonl"}"')
    out, error = run.communicate(timeout=300)
    assert run.returncode == 1, out + error
    assert "absent.jsonl" in error.splitlines()[0]
    assert "Traceback" not in out + error
    assert left_over(tmp_path) == []


def test_ctrl_c_keeps_finished_rounds_and_leaves_nothing_running(tmp_path: Path) -> None:
    run = start(tmp_path, "rounds=500")
    assert run.stdout is not None
    seen = []
    for line in run.stdout:
        seen.append(line)
        if line.strip().startswith("2/500"):
            break
    run.send_signal(signal.SIGINT)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 130, "".join(seen) + error
    rounds = rounds_of(tmp_path)
    assert rounds[-1] >= 2
    assert rounds == list(range(rounds[0], rounds[-1] + 1))
    assert left_over(tmp_path) == []
