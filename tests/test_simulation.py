"""The same run with Flower and Ray for real: by the launcher and by plain `flwr run .`, bit for bit the one in this process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedpeptao.processes import end_all, free_port
from fedpeptao.run_config import to_toml
from server_app.run_folder import read_history
from tests.small_runs import SMALL, Flat, go

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_plots")]
CHECKOUT = Path(__file__).resolve().parent.parent
LIMIT_S = 240


@pytest.fixture
def settings_file(data_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """A TOML file of overrides for a run into a folder of the given name."""

    def write(name: str, **more: str | int) -> Path:
        given = {key.replace("_", "-"): value for key, value in more.items()}
        told: Flat = {**SMALL, "dataset": str(data_file), "runs-dir": str(tmp_path), "run-name": name, **given}
        path = tmp_path / f"{name}.toml"
        path.write_text(to_toml(told), encoding="utf8")
        return path

    return write


def launched(settings: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedpeptao", "run", str(CHECKOUT), "--run-config", str(settings)]
    return subprocess.Popen(
        command, cwd=settings.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf8"
    )


def figures(folder: Path) -> list[dict[str, object]]:
    """The lines but for time, and for bytes, which follow the number of nodes."""
    dropped = ("seconds", "bytes", "detail")
    return [{k: v for k, v in line.items() if not any(d in k for d in dropped)} for line in read_history(folder)]


def test_two_simulations_and_a_run_in_this_process_agree_bit_for_bit(
    settings_file: Callable[..., Path], make_flat: Callable[..., Flat], tmp_path: Path
) -> None:
    """At once, on 5 nodes each; in this process on 2."""
    here = go(make_flat(device_second_moment="shared"))
    started = [launched(settings_file(name, device_second_moment="shared")) for name in ("one", "two")]
    for name, process in zip(("one", "two"), started, strict=True):
        out, error = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, out + error
        assert "Run completed: 2 rounds" in out
        assert (tmp_path / name / "parameters.safetensors").read_bytes() == here.parameter_bytes
        assert figures(tmp_path / name) == figures(here.folder)
    traffic = [[line["down_bytes"] for line in read_history(tmp_path / name)] for name in ("one", "two")]
    assert traffic[0] == traffic[1]


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`flwr` with a home and a port of its own, from the checkout; all that it leaves running ends with the test."""
    home = Path(tempfile.mkdtemp(prefix="fp-", dir="/tmp" if Path("/tmp").is_dir() else None))  # Ray's paths are short
    own = {
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_GCS_SERVER_PORT": str(free_port()),
        "RAY_TMPDIR": str(home),
        "SPT_NOENV": "1",  # else Ray's processes cannot be found by their environment
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
    }

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["flwr", *arguments]
        return subprocess.run(
            command,
            cwd=CHECKOUT,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    yield call
    left = end_all(home)
    shutil.rmtree(home, ignore_errors=True)
    assert left == []


def test_plain_flwr_run_is_the_same_run(
    flower: Callable[..., subprocess.CompletedProcess[str]],
    settings_file: Callable[..., Path],
    make_flat: Callable[..., Flat],
    tmp_path: Path,
) -> None:
    """On Flower's own 10 nodes, of which 5 have no client."""
    ran = flower("run", ".", "--stream", "--run-config", str(settings_file("plain")))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (listed,) = json.loads(flower("ls", "--format", "json").stdout)["runs"]
    assert listed["status"] == "finished:completed", ran.stdout + ran.stderr
    here = go(make_flat())
    assert (tmp_path / "plain" / "parameters.safetensors").read_bytes() == here.parameter_bytes
    assert figures(tmp_path / "plain") == figures(here.folder)
    assert (tmp_path / "plain" / "summary.json").exists()


def test_bad_data_end_a_run_with_one_clear_message(settings_file: Callable[..., Path], tmp_path: Path) -> None:
    """Found in the ServerApp, far from the user's screen."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "hello", "tag": "a"}\n' * 50, encoding="utf8")
    process = launched(settings_file("bad-data", dataset=str(bad)))
    out, error = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1, out + error
    first, *rest = error.splitlines()
    assert f"label-column = 'label': {bad} has no such column, but text, tag." in first
    assert all(line.startswith("log: ") for line in rest)
    assert "Traceback" not in out + error
    assert not (tmp_path / "bad-data").exists()


def test_a_bad_key_starts_nothing(settings_file: Callable[..., Path], tmp_path: Path) -> None:
    process = launched(settings_file("bad-key", clients_per_rounds=3))
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2, out + error
    assert error.strip() == (
        "fedpeptao: clients-per-rounds = 3: there is no such setting. Did you mean clients-per-round."
    )
    assert out == ""
    assert not (tmp_path / "bad-key").exists()
