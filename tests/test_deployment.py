"""Real processes on the loopback, with TLS on every API and node authentication: the run in this process, and nothing to read."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from federation.settings import Scalar
from fedpeptao.deployment.roles import environment
from fedpeptao.processes import free_port, started_with
from fedpeptao.run_config import to_toml
from server_app.run_folder import read_history
from tests.capture import Capture, captured
from tests.deployed import Deployed
from tests.small_runs import SMALL, Flat, examples, go

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_plots")]
LIMIT_S = 300
NODES = 2


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Deployed]:
    deployed = Deployed(tmp_path / "federation")
    deployed.make_server_keys()
    yield deployed
    deployed.end()


def join(federation: Deployed, nodes: int) -> None:
    """Makes, registers and starts nodes, until all are there."""
    for number in range(nodes):
        federation.make_node_keys(f"node{number}")
        federation.register(f"node{number}")
        federation.start_node(number, nodes)
    federation.wait(lambda: federation.nodes_online() == nodes, "a node")


def figures(folder: Path) -> list[dict[str, object]]:
    """The lines but for time, and for bytes, which follow the number of nodes."""
    dropped = ("seconds", "bytes", "detail")
    return [{k: v for k, v in line.items() if not any(d in k for d in dropped)} for line in read_history(folder)]


def listening(federation: Deployed) -> list[int]:
    """Every TCP port of every process."""
    pids = {process.pid for name in federation.processes for process in started_with(federation.home(name))}
    sockets = psutil.net_connections("tcp")
    found = [one for one in sockets if one.pid in pids and one.status == psutil.CONN_LISTEN]
    assert {one.laddr.ip.removeprefix("::ffff:") for one in found} == {"127.0.0.1"}
    return [one.laddr.port for one in found]


def speaks_tls(port: int, authority: Path) -> bool:
    """With a certificate by this authority."""
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        try:
            context.wrap_socket(plain, server_hostname="127.0.0.1").close()
        except ssl.SSLError:
            return False
    return True


@contextmanager
def listened(ports: list[int]) -> Iterator[Capture | None]:
    """To all that passes over these ports; None without the right to."""
    try:
        with captured(ports) as capture:
            yield capture
    except PermissionError:
        yield None


def what_travels(folder: Path) -> dict[str, bytes]:
    """Pieces of a run by name: how each would look on a line that hides nothing."""
    parameters = load_file(folder / "parameters.safetensors")
    model = {f"array {name}": value.numpy().tobytes()[:64] for name, value in parameters.items()}
    return {**model, **{word: word.encode() for word in READABLE}}


READABLE = ("animals", "train_loss", "validation_examples", "commonest", "shared_loss_sum", "fedpeptao", "superexec")


def test_a_deployed_run_is_the_run_in_this_process_and_shows_nothing_of_itself(
    federation: Deployed, data_file: Path, make_flat: Callable[..., Flat], tmp_path: Path
) -> None:
    """The same bits, TLS on every port, and nothing readable on the line."""
    federation.start_server()
    join(federation, NODES)
    own = [federation.keys(f"node{number}") / "loopback.crt" for number in range(NODES)]
    trusted = [federation.keys("server") / "ca.crt", *own]
    ports = listening(federation)
    assert len(ports) == 3 + NODES
    assert [port for port in ports if not any(speaks_tls(port, authority) for authority in trusted)] == []
    told: dict[str, Scalar] = {**SMALL, "dataset": str(data_file), "runs-dir": str(tmp_path), "run-name": "deployed"}
    with listened(ports) as line:
        assert federation.run(told, LIMIT_S) == "finished:completed", federation.log("superexec")
    here = go(make_flat())
    assert (tmp_path / "deployed" / "parameters.safetensors").read_bytes() == here.parameter_bytes
    assert figures(tmp_path / "deployed") == figures(here.folder)
    states = federation.folder / "node0" / "clients" / "deployed"
    assert list(states.rglob("*.safetensors")), "each node keeps its clients' states in a folder of its own"
    assert open_to_others(federation) == []
    if line is not None:
        assert {port for way in line.streams() for port in way} >= set(ports)
        texts = {row["text"]: row["text"].encode() for row in examples(100) if len(row["text"]) > 8}
        assert [what for what, there in line.found({**what_travels(here.folder), **texts}).items() if there] == []


def open_to_others(federation: Deployed) -> list[Path]:
    """Secrets, databases and states that others than their owner could read."""
    secret = ("*.key", "*.secret", "*.db", "*.db-wal")
    found = [path for pattern in secret for path in federation.folder.rglob(pattern)]
    found += [
        path for number in range(NODES) for path in (federation.folder / f"node{number}" / "clients").rglob("*.*")
    ]
    assert len(found) > 5
    return [path for path in found if path.stat().st_mode & 0o077]


@pytest.mark.machines
def test_the_same_search_finds_all_of_it_on_a_line_that_hides_nothing(
    federation: Deployed, data_file: Path, tmp_path: Path
) -> None:
    """Flower's own commands, told --insecure: what the test above looks for is there to be found."""
    start_in_plaintext(federation)
    told: dict[str, Scalar] = {**SMALL, "dataset": str(data_file), "runs-dir": str(tmp_path), "run-name": "deployed"}
    with listened(listening(federation)) as line:
        assert federation.run({**told, "rounds": 1}, LIMIT_S) == "finished:completed", federation.log("superexec")
    if line is None:
        pytest.skip("nobody may listen to the loopback here")
    found = line.found(what_travels(tmp_path / "deployed"))
    assert {what for what, there in found.items() if not there} <= {"superexec"}
    texts = {row["text"]: row["text"].encode() for row in examples(100) if len(row["text"]) > 8}
    assert [text for text, there in line.found(texts).items() if there] == [], "texts do not travel at all"


def start_in_plaintext(federation: Deployed) -> None:
    config = federation.home("operator") / "config.toml"
    config.write_text("[superlink.fed]\ninsecure = true\n" + to_toml({"address": federation.address("control")}))
    fleet, control, appio = (federation.address(name) for name in ("fleet", "control", "appio"))
    server = ["--fleet-api-address", fleet, "--control-api-address", control, "--serverappio-api-address", appio]
    link = ["flower-superlink", "--insecure", "--isolation", "process", *server]
    execution = ["flower-superexec", "--insecure", "--plugin-type", "serverapp", "--appio-api-address", appio]
    commands = {"superlink": link, "superexec": execution}
    for number in range(NODES):
        own = ["--clientappio-api-address", f"127.0.0.1:{free_port()}"]
        node = ["--node-config", f"partition-id={number} num-partitions={NODES}"]
        commands[f"node{number}"] = ["flower-supernode", "--insecure", "--superlink", fleet, *own, *node]
    for name, command in commands.items():
        federation.start_command(name, command, environment(federation.folder / name))
    federation.wait(lambda: federation.nodes_online() == NODES, "a node", pause_s=2.0)
