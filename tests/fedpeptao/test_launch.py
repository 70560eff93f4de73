"""The launcher against a stand-in for `flwr`: what is shown, what is kept, the exit status, and that nothing stays."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from federation.settings import Settings, defaults, parse
from fedpeptao import launch
from fedpeptao.console import RUN_FOLDER

CHECKOUT = Path(launch.__file__).resolve().parent.parent
FAKE_FLWR = """#!{python}
import json, os, subprocess, sys
from pathlib import Path
play = json.loads(Path({play!r}).read_text())
if sys.argv[1] == "ls":
    print(json.dumps({{"runs": [{{"status": play["status"], "status-details": "as Flower sees it"}}]}}))
    sys.exit(0)
Path({play!r}).with_name("seen.json").write_text(json.dumps({{"argv": sys.argv, "env": dict(os.environ)}}))
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True,
                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
for line in play["lines"]:
    print(line, flush=True)
if play["wait"]:
    import time
    time.sleep(60)
sys.exit(play["exit"])
"""
OURS, THEIRS, ERROR = "INFO :      fedpeptao| round 1", "INFO :      Flower speaking", "ERROR :     fedpeptao| no data"
CAUSE = "ERROR :     ServerApp thread raised an exception: boom"


@pytest.fixture
def settings() -> Settings:
    return parse(defaults())


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for flwr on the launcher's path, its play in play.json, and logs in a folder below."""
    (tmp_path / "flwr").write_text(
        FAKE_FLWR.format(python=sys.executable, play=str(tmp_path / "play.json")), encoding="utf8"
    )
    (tmp_path / "flwr").chmod(0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setattr("platformdirs.user_log_path", lambda *a, **k: tmp_path / "logs")
    return tmp_path


def play(
    stage: Path, lines: list[str], status: str = "finished:completed", exit_status: int = 0, wait: bool = False
) -> None:
    content = {"lines": lines, "status": status, "exit": exit_status, "wait": wait}
    (stage / "play.json").write_text(json.dumps(content), encoding="utf8")


def simulation(settings: Settings, **changes: object) -> launch.Simulation:
    plain = launch.Simulation(CHECKOUT, {"rounds": 3}, settings, nodes=2, cpus_per_client=1, gpus_per_client=0.0)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def left_over(stage: Path) -> list[str]:
    """Processes and folders of the call that the stand-in saw."""
    import psutil

    from fedpeptao.processes import started_with

    home = Path(json.loads((stage / "seen.json").read_text(encoding="utf8"))["env"]["FLWR_HOME"])
    alive = [p.name() for p in started_with(home) if p.status() != psutil.STATUS_ZOMBIE]
    return alive + ([str(home)] if home.exists() else [])


def test_a_completed_run_shows_our_lines_only(
    stage: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    play(stage, [THEIRS, OURS])
    assert launch.run(simulation(settings)) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1:] == ["round 1"]
    assert shown.err == ""
    assert left_over(stage) == []


def test_verbose_shows_all(stage: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    play(stage, [THEIRS, OURS])
    assert launch.run(simulation(settings, verbose=True)) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [THEIRS, "round 1"]


def test_flwrs_zero_does_not_hide_a_failed_run(
    stage: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [OURS, CAUSE, *(f"line {n}" for n in range(20))]
    play(stage, lines, status="finished:failed")
    assert launch.run(simulation(settings)) == 1
    error = capsys.readouterr().err.splitlines()
    assert error[0] == "the run failed: boom"
    assert [line.strip() for line in error[2:-1]] == lines[-15:]
    assert Path(error[-1].removeprefix("log: ")).read_text(encoding="utf8").splitlines() == lines
    assert left_over(stage) == []


def test_a_run_that_explained_itself_needs_no_traceback(
    stage: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    play(stage, [ERROR, CAUSE, "Traceback (most recent call last):"], status="finished:failed")
    assert launch.run(simulation(settings)) == 1
    error = capsys.readouterr().err.splitlines()
    assert error[0] == "no data"
    assert len(error) == 2
    assert error[1].startswith("log: ")


def test_a_flwr_that_fails_fails_the_run(stage: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    play(stage, ["Error: cannot build the bundle"], exit_status=3)
    assert launch.run(simulation(settings)) == 1
    error = capsys.readouterr().err
    assert "flwr run ended with status 3" in error
    assert "cannot build the bundle" in error


@pytest.mark.parametrize(
    ("listing", "completed"),
    [
        ('{"runs": [{"status": "finished:completed", "status-details": "N/A"}]}', True),
        ('{"runs": [{"status": "finished:failed", "status-details": "x"}]}', False),
        ('{"runs": [{"status": "finished:stopped", "status-details": "x"}]}', False),
        ('{"runs": [{"status": "running", "status-details": "x"}]}', False),
        ('{"success": true, "runs": []}', False),
        ('{"success": false}', False),
        ("Error: no connection", False),
    ],
)
def test_only_completed_is_completed(listing: str, completed: bool) -> None:
    assert launch.read_outcome(listing).completed is completed


def test_flwr_gets_the_command_and_an_environment_of_its_own(stage: Path, settings: Settings) -> None:
    play(stage, [])
    launch.run(simulation(settings, nodes=7, cpus_per_client=2, gpus_per_client=0.5))
    seen = json.loads((stage / "seen.json").read_text(encoding="utf8"))
    federation = "num-supernodes=7 client-resources-num-cpus=2 client-resources-num-gpus=0.5"
    home = seen["env"]["FLWR_HOME"]
    options = ["--stream", "--federation-config", federation, "--run-config", f"{home}/run-config.toml"]
    assert seen["argv"][1:] == ["run", str(CHECKOUT), *options]
    assert len(home) < 30  # Ray's socket paths have to stay below 107 characters
    assert seen["env"]["RAY_TMPDIR"] == home


def test_two_environments_share_no_port(settings: Settings) -> None:
    one, two = (launch.environment(Path("/tmp/x"), settings, {}) for _ in range(2))
    ports = [env[key] for env in (one, two) for key in ("FLWR_LOCAL_CONTROL_API_PORT", "RAY_GCS_SERVER_PORT")]
    assert len(set(ports)) == 4


def test_the_environment_keeps_the_users_except_what_would_lead_astray(settings: Settings) -> None:
    base = {"RAY_ADDRESS": "10.0.0.1:1", "FLWR_LOG_LEVEL": "ERROR", "MINE": "1", "no_proxy": "x", "PATH": "/mine"}
    env = launch.environment(Path("/tmp/x"), settings, base)
    assert env["MINE"] == "1"
    assert "RAY_ADDRESS" not in env
    assert "FLWR_LOG_LEVEL" not in env
    assert env["no_proxy"] == "x,127.0.0.1,localhost"
    assert env["PATH"].endswith(f"{os.pathsep}/mine")
    assert env["GRPC_ENABLE_FORK_SUPPORT"] == "0"
    assert "OMP_NUM_THREADS" not in base


def test_threads_reach_every_process() -> None:
    env = launch.environment(Path("/tmp/x"), parse({**defaults(), "threads": 3}), {})
    assert env["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("changes", "offline"),
    [
        ({}, True),
        ({"model": "random:gpt2"}, True),
        ({"model": "/models/mine", "dataset": "/data/mine.jsonl"}, True),
        ({"model": "FacebookAI/roberta-large"}, False),
        ({"dataset": "nyu-mll/glue:sst2"}, False),
    ],
)
def test_the_hub_is_off_only_where_nothing_is_needed_from_it(changes: dict[str, str], offline: bool) -> None:
    env = launch.environment(Path("/tmp/x"), parse({**defaults(), **changes}), {})
    assert ("HF_HUB_OFFLINE" in env) is offline


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_everything_and_a_second_one_changes_nothing(stage: Path, number: int, status: int) -> None:
    folder = stage / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"round": 1}\n', encoding="utf8")
    play(stage, [OURS.replace("round 1", f"{RUN_FOLDER}{folder}"), OURS], wait=True)
    script = (
        "import sys, sysconfig, platformdirs; from pathlib import Path; from fedpeptao import launch; "
        "from federation.settings import defaults, parse; "
        f"sysconfig.get_path = lambda name: {str(stage)!r}; "
        f"platformdirs.user_log_path = lambda *a, **k: Path({str(stage / 'logs')!r}); "
        "s = launch.Simulation(Path('.'), {}, parse(defaults()), 1, 1, 0.0); sys.exit(launch.run(s))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        while command.stdout.readline() != "round 1\n":
            pass
        command.send_signal(number)
        time.sleep(0.05)
        command.send_signal(number)
        out, error = command.communicate(timeout=60)
    assert command.returncode == status, error
    assert "stopped\n" in error
    assert f"{folder} holds 1 finished rounds" in error
    assert json.loads((folder / "summary.json").read_text(encoding="utf8"))["status"] == "interrupted"
    assert "Traceback" not in out + error
    assert left_over(stage) == []


def test_a_folder_that_a_full_disk_does_not_let_close_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server_app.finish.close_interrupted", full)
    launch.close_folder(tmp_path)
    how = f"make room there and go on with: fedpeptao run --resume {tmp_path}"
    said = f"{tmp_path} holds no summary (No space left on device): {how}"
    assert capsys.readouterr().err.strip() == said
