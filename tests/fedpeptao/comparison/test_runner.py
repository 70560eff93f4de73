"""Cells in processes of their own: one that fails or is killed is told, the others go on, and what is there stays."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedpeptao.comparison.grid import Cell
from fedpeptao.comparison.runner import run_cells


def work(cell: Cell) -> None:
    """Says something, then does what the cell's method says."""
    print(f"working on {cell.seed}")
    if cell.method == "fails":
        raise ValueError("no such thing")
    if cell.method == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    cell.path.write_text(str(os.getpid()), encoding="utf8")
    if cell.method == "waits":
        time.sleep(600)


def cells(folder: Path, *methods: str) -> list[Cell]:
    return [Cell(method, "", None, 7, None, {}, folder / f"{method}-seed{n}.jsonl") for n, method in enumerate(methods)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, jobs: int, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    given = cells(tmp_path, "works", "fails", "is killed", "works")
    failed = run_cells(given, work, jobs, told.append, heavy=())
    assert {cell.method for cell in failed} == {"fails", "is killed"}
    assert given[0].path.exists()
    assert given[3].path.exists()
    assert given[0].path.read_text(encoding="utf8") != given[3].path.read_text(encoding="utf8")  # a process each
    assert sorted(line.partition("  ")[0] for line in told) == [f"{n} of 4" for n in (1, 2, 3, 4)]
    said = "\n".join(told)
    assert re.search(r"  fails-seed1  FAILED after 0 min \d+ s: ValueError: no such thing; .*fails-seed1.log  \(", said)
    assert re.search(
        r"  is killed-seed2  FAILED after .*: its process ended by signal 9; .*is killed-seed2.log  \(", said
    )
    logs = {path.name: path.read_text(encoding="utf8") for path in tmp_path.glob("*.log")}
    assert set(logs) == {"fails-seed1.log", "is killed-seed2.log"}
    assert logs["fails-seed1.log"].startswith("working on 7\nProcess")
    assert all(line.endswith(" left)") for line in told)
    assert "working on" not in capfd.readouterr().out


def test_what_was_done_before_a_stop_stays(tmp_path: Path) -> None:
    """The runner is stopped between two cells, as by Ctrl-C."""
    given, told = cells(tmp_path, "works", "works", "works"), list[str]()

    def stop(line: str) -> None:
        told.append(line)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells(given, work, 1, stop, heavy=())
    assert [cell.path.exists() for cell in given] == [True, True, False]
    assert not list(tmp_path.glob("*.log"))


def test_without_cells_nothing_is_started(tmp_path: Path) -> None:
    assert run_cells([], work, 2, pytest.fail, heavy=()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_no_cell_outlives_a_runner_that_is_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import signal, sys; from pathlib import Path; signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # nohup ignores it
        "from tests.fedpeptao.comparison.test_runner import cells, run_cells, work; "
        "run_cells(cells(Path(sys.argv[1]), 'waits', 'waits'), work, 2, heavy=())"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=root) as runner:
        try:
            while len(begun := [path for path in tmp_path.glob("*.jsonl") if path.stat().st_size]) < 2:
                assert runner.poll() is None
                time.sleep(0.05)
            pids = [int(path.read_text(encoding="utf8")) for path in begun]
            runner.send_signal(number)
            assert runner.wait(timeout=30) == 128 + number
        finally:
            runner.kill()
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert list(tmp_path.glob("*.log")) == []
