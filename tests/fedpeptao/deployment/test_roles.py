"""The commands that processes are started with: no plaintext, nothing but Fleet beyond the loopback, all checked before."""

from __future__ import annotations

import itertools
import shlex
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from federation.node_config import NodeConfig, parse_node_config
from fedpeptao.cli import main
from fedpeptao.deployment import certificates
from fedpeptao.deployment.roles import SuperExec, SuperLink, SuperNode, environment, node_config_text
from fedpeptao.errors import InputError
from fedpeptao.processes import free_port


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    certificates.make_authority(folder / "ca", 10)
    certificates.make_server(folder / "server", folder / "ca", [], 10)
    certificates.make_node(folder / "node", 10)
    (folder / "node" / "ca.crt").write_bytes((folder / "ca" / "ca.crt").read_bytes())
    return folder


def link(keys: Path) -> SuperLink:
    return SuperLink(keys / "server", keys / "state", *(f"127.0.0.1:{free_port()}" for _ in range(3)))


def node(keys: Path) -> SuperNode:
    superlink, appio = (f"127.0.0.1:{free_port()}" for _ in range(2))
    return SuperNode(keys / "node", keys / "state", superlink, NodeConfig(0, 2), appio)


def told(command: list[str]) -> dict[str, str]:
    """Option -> value."""
    return {option: value for option, value in itertools.pairwise(command) if option.startswith("--")}


def test_the_superlink_encrypts_every_api_and_lets_in_whom_it_knows(keys: Path) -> None:
    command = SuperLink(keys / "server", keys / "state").command()
    options = told(command)
    assert "--insecure" not in command
    assert "--enable-supernode-auth" in command
    for prefix in ("--ssl", "--appio-ssl"):
        assert options[f"{prefix}-certfile"] == str(keys / "server" / "server.crt")
        assert options[f"{prefix}-keyfile"] == str(keys / "server" / "server.key")
        assert options[f"{prefix}-ca-certfile"] == str(keys / "server" / "ca.crt")
    assert options["--isolation"] == "process"
    assert options["--superexec-auth-secret-file"] == str(keys / "server" / "superexec.secret")


def test_only_the_nodes_api_listens_beyond_the_loopback(keys: Path) -> None:
    commands = [SuperLink(keys / "server", keys).command(), SuperExec(keys / "server", keys).command()]
    commands.append(SuperNode(keys / "node", keys, "fed:9092", NodeConfig(0, 2)).command())
    addresses = {
        option: value for c in commands for option, value in told(c).items() if option.endswith("-api-address")
    }
    beyond = {option for option, value in addresses.items() if not value.startswith("127.0.0.1:")}
    assert len(addresses) == 5
    assert beyond == {"--fleet-api-address"}


def test_a_node_speaks_tls_with_its_own_processes_too(keys: Path) -> None:
    command = node(keys).command()
    options = told(command)
    assert "--insecure" not in command
    assert options["--root-certificates"] == str(keys / "node" / "ca.crt")
    assert options["--auth-supernode-private-key"] == str(keys / "node" / "node.key")
    assert options["--appio-ssl-certfile"] == options["--appio-ssl-ca-certfile"] == str(keys / "node" / "loopback.crt")


def test_plain_is_flowers_own_command_with_the_same_connections(keys: Path) -> None:
    quick = node(keys)
    plain = replace(quick, plain=True)
    assert quick.command()[:3] == [sys.executable, "-m", "fedpeptao.deployment.node"]
    assert plain.command() == ["flower-supernode", *quick.command()[3:]]


def test_flower_reads_the_nodes_settings_as_they_are_meant(tmp_path: Path) -> None:
    data = tmp_path / "Ärzte und Kranke = all.jsonl"
    data.touch()
    own = NodeConfig(1, 3, state_dir="/var/lib/a b", data=str(data), device="cuda:1", worker="auto")
    assert parse_node_config(parse_config_args([node_config_text(own.flat())])) == own


@pytest.mark.parametrize("path", ['/a"b', "/a\\b", "/a\nb"])
def test_a_path_that_cannot_be_told_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="cannot hold"):
        node_config_text({"data": path})


def test_whole_roles_pass(keys: Path) -> None:
    link(keys).check()
    SuperExec(keys / "server", keys).check()
    node(keys).check()


@pytest.mark.parametrize("name", ["ca.crt", "server.crt", "server.key", "superexec.secret"])
def test_a_server_lacks_no_file(name: str, keys: Path, tmp_path: Path) -> None:
    for path in (keys / "server").iterdir():
        if path.name != name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
            (tmp_path / path.name).chmod(0o600)
    with pytest.raises(InputError, match="No such file") as caught:
        SuperLink(tmp_path, tmp_path).check()
    assert caught.value.value == str(tmp_path / name)


@pytest.mark.parametrize("name", ["ca.crt", "node.key", "loopback.crt", "loopback.key"])
def test_nor_does_a_node(name: str, keys: Path, tmp_path: Path) -> None:
    for path in (keys / "node").iterdir():
        if path.name != name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
            (tmp_path / path.name).chmod(0o600)
    with pytest.raises(InputError, match="No such file") as caught:
        SuperNode(tmp_path, tmp_path, "127.0.0.1:1", NodeConfig(0, 2)).check()
    assert caught.value.value == str(tmp_path / name)


def test_a_taken_port_stops_the_start(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        where = ["--keys", str(keys / "server"), "--state", str(keys / "new"), "--fleet", address]
        assert main(["start", "superlink", *where]) == 2
    assert f"--fleet = '{address}': it cannot be listened on (Address already in use)" in capsys.readouterr().err
    assert not (keys / "new").exists()


def test_a_node_is_told_its_own_paths_and_keeps_states_in_its_folder(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").touch()
    where = ["--keys", str(keys / "node"), "--state", "here", "--superlink", f"127.0.0.1:{free_port()}"]
    port = ["--appio", f"127.0.0.1:{free_port()}", "--partition-id", "1", "--num-partitions", "3"]
    assert main(["start", "supernode", *where, *port, "--data", "own.jsonl", "--print"]) == 0
    found = parse_config_args([told(shlex.split(capsys.readouterr().out))["--node-config"]])
    assert found["worker"] == "auto"
    assert found["data"] == str(tmp_path / "own.jsonl")
    assert found["state-dir"] == str(tmp_path / "here" / "clients")
    assert main(["start", "supernode", *where, *port, "--data", "absent.jsonl", "--print"]) == 2


def test_nothing_is_told_to_the_outside() -> None:
    assert environment(Path("/s"))["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment(Path("/s"))["FLWR_HOME"] == "/s/flwr"
