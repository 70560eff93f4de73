"""What compose file and units promise, without an engine: TLS wherever a connection leaves a container, keys in volumes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedpeptao.cli import _parser

ROOT = Path(__file__).resolve().parent.parent
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker/compose.yml").read_text(encoding="utf8"))[
    "services"
]
ROLES = {name: service for name, service in SERVICES.items() if str(service.get("command", "")).startswith("start")}
UNITS = sorted((ROOT / "docs/systemd").glob("*.service"))


def test_there_are_a_server_and_three_nodes_with_shards_of_their_own() -> None:
    assert list(ROLES) == ["superlink", "superexec", "node0", "node1", "node2"]
    shards = [re.findall(r"--partition-id (\d) --num-partitions (\d)", ROLES[f"node{n}"]["command"]) for n in range(3)]
    assert shards == [[("0", "3")], [("1", "3")], [("2", "3")]]


@pytest.mark.parametrize("name", list(ROLES))
def test_each_is_a_command_of_ours_that_restarts_and_is_asked_for_its_health(name: str) -> None:
    service = ROLES[name]
    told = _parser().parse_args(shlex.split(service["command"]))
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][-1] == told.health
    assert told.health.startswith("127.0.0.1:")
    assert service["cap_drop"] == ["ALL"]
    keys, state = (volume.split(":") for volume in service["volumes"])
    assert keys[1:] == ["/keys", "ro"]
    assert not keys[0].startswith((".", "/")), "a volume, no folder of the checkout"
    assert state[1] == "/state"


def test_only_the_nodes_api_leaves_a_namespace_and_nothing_leaves_the_machine() -> None:
    assert not [name for name, service in SERVICES.items() if "ports" in service]
    shared = [name for name, service in SERVICES.items() if service.get("network_mode") == "service:server"]
    assert shared == ["superlink", "superexec", "operator"]
    told = _parser().parse_args(shlex.split(SERVICES["superlink"]["command"]))
    assert (told.fleet, told.control, told.appio) == ("0.0.0.0:9092", None, None)
    assert not [name for name, service in SERVICES.items() if "--insecure" in str(service)]


def test_the_servers_namespace_is_there_when_the_superlink_has_died() -> None:
    assert SERVICES["server"]["entrypoint"] == ["sleep", "infinity"]
    assert SERVICES["server"]["restart"] == "unless-stopped"
    assert SERVICES["server"]["networks"] == {"federation": {"aliases": ["superlink"]}}, "the name in its certificate"


def test_someone_takes_the_exit_status_of_a_worker() -> None:
    assert all(service["init"] is True for service in SERVICES.values())
    assert " --init " in (ROOT / "docs/DEPLOYMENT.md").read_text(encoding="utf8").partition("docker run -d")[2]


def test_no_key_gets_into_an_image() -> None:
    allowed = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf8").splitlines() if line[:1] != "#"]
    assert allowed[0] == "*"
    assert all(line[0] == "!" or line == "**/__pycache__" for line in allowed[1:])
    assert not [name for name in SERVICES if "keys" in str(SERVICES[name].get("build", ""))]


def test_the_image_is_flowers_base_for_this_python_and_not_root() -> None:
    lines = (ROOT / "docker/Dockerfile").read_text(encoding="utf8").splitlines()
    assert "ARG BASE=flwr/base:1.31.0-py3.11-ubuntu24.04" in lines
    assert [line for line in lines if line.startswith("USER")][-1] == "USER app"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_of_ours_as_a_user_of_its_own(unit: Path) -> None:
    told = dict(line.split("=", 1) for line in unit.read_text(encoding="utf8").splitlines() if "=" in line[1:])
    command = told["ExecStart"].replace("${NODE}", "0").replace("${NODES}", "2").split()
    role = _parser().parse_args(command[1:])
    assert role.keys == Path("/etc/fedpeptao")
    assert unit.stem == f"fedpeptao-{command[2]}"
    assert (told["User"], told["Restart"], told["StateDirectoryMode"]) == ("fedpeptao", "always", "0700")


@pytest.mark.parametrize(
    ("unit", "policy"), [("superexec", "continue"), ("supernode", "continue"), ("superlink", None)]
)
def test_a_worker_or_a_run_that_wants_memory_does_not_end_who_started_it(unit: str, policy: str | None) -> None:
    """systemd's own way is to end the whole unit. A SuperLink is one process, and starts no others."""
    lines = (ROOT / f"docs/systemd/fedpeptao-{unit}.service").read_text(encoding="utf8").splitlines()
    told = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    assert told.get("OOMPolicy") == policy
