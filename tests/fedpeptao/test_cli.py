"""The command line: what it prints, its exit statuses, and that bad input starts nothing."""

import json
import subprocess
import sys

import pytest

from federation.settings import defaults
from fedpeptao import __version__, launch
from fedpeptao.cli import main


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[launch.Simulation]:
    """What the launcher was asked to run; it runs nothing."""
    simulations: list[launch.Simulation] = []

    def take(simulation: launch.Simulation) -> int:
        simulations.append(simulation)
        return 0

    monkeypatch.setattr(launch, "run", take)
    return simulations


def test_check_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--run-config", "rounds=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(defaults())
    assert [line.split() for line in lines if line.endswith("(changed)")] == [["rounds", "3", "(changed)"]]


def test_check_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "--run-config", "rounds=3 alpha=1"]) == 0
    assert json.loads(capsys.readouterr().out) == {**defaults(), "rounds": 3, "alpha": 1.0}


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("config", "named"),
    [("round=3", "rounds"), ("rounds=-1", "rounds"), ("rounds = 3", "--run-config"), ("no.toml", "no.toml")],
)
def test_bad_settings_are_named_and_start_nothing(
    command: str, config: str, named: str, asked: list[launch.Simulation], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--run-config", config]) == 2
    shown = capsys.readouterr()
    assert named in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""
    assert asked == []


@pytest.mark.parametrize(
    "option",
    ["--nodes=0", "--cpus-per-client=0", "--cpus-per-client=99999", "--gpus-per-client=-1", "--gpus-per-client=nan"],
)
def test_impossible_resources_start_nothing(
    option: str, asked: list[launch.Simulation], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", option]) == 2
    assert option.split("=")[0] in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize(
    ("arguments", "nodes"),
    [
        ([], 100),
        (["--run-config", "clients=12 clients-per-round=3"], 12),
        (["--run-config", "clients=5000"], 100),
        (["--nodes", "4"], 4),
    ],
)
def test_nodes_are_the_clients_up_to_a_hundred(
    arguments: list[str], nodes: int, asked: list[launch.Simulation]
) -> None:
    assert main(["run", *arguments]) == 0
    assert [simulation.nodes for simulation in asked] == [nodes]


def test_a_failed_run_is_a_failed_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "run", lambda simulation: 1)
    assert main(["run"]) == 1


def test_the_module_is_the_command(tmp_path: object) -> None:
    shown = subprocess.run([sys.executable, "-m", "fedpeptao", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"fedpeptao {__version__}\n"
