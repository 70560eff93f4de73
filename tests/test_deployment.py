"""Real processes on the loopback, with TLS on every API and node authentication: bit for bit the run in this process."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from flwr.app import Context, Message

from client_app.app import app
from federation.settings import Scalar, defaults
from fedpeptao.processes import started_with
from server_app.run_folder import read_history
from tests.deployed import Deployed
from tests.small_runs import SMALL, Flat, examples, go, write_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_plots")]
LIMIT_S = 180
NODES = 2


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Deployed]:
    deployed = Deployed(tmp_path / "federation")
    deployed.make_server_keys()
    yield deployed
    deployed.end()


def join(federation: Deployed, nodes: int, told: Callable[[int], list[str]] = lambda number: []) -> None:
    """Makes, registers and starts nodes, until all are there."""
    for number in range(nodes):
        federation.make_node_keys(f"node{number}")
        federation.register(f"node{number}")
        federation.start_node(number, nodes, *told(number))
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


def test_a_deployed_run_is_the_run_in_this_process_and_no_port_speaks_plaintext(
    federation: Deployed, data_file: Path, make_flat: Callable[..., Flat], tmp_path: Path
) -> None:
    federation.start_server()
    join(federation, NODES)
    own = [federation.keys(f"node{number}") / "loopback.crt" for number in range(NODES)]
    trusted = [federation.keys("server") / "ca.crt", *own]
    ports = listening(federation)
    assert len(ports) == 3 + NODES
    assert [port for port in ports if not any(speaks_tls(port, authority) for authority in trusted)] == []
    told: dict[str, Scalar] = {**SMALL, "dataset": str(data_file), "runs-dir": str(tmp_path), "run-name": "deployed"}
    assert federation.run(told, LIMIT_S) == "finished:completed", federation.log("superexec")
    here = go(make_flat())
    assert (tmp_path / "deployed" / "parameters.safetensors").read_bytes() == here.parameter_bytes
    assert figures(tmp_path / "deployed") == figures(here.folder)
    states = federation.folder / "node0" / "clients" / "deployed"
    assert list(states.rglob("*.safetensors")), "each node keeps its clients' states in a folder of its own"


@pytest.mark.machines
def test_nodes_train_on_files_of_their_own_and_a_killed_one_costs_no_bit(federation: Deployed, tmp_path: Path) -> None:
    """SIGKILL in round 2; the round waits for its quorum, the node comes back and goes on from its accepted state."""
    rows = examples(90)
    files = [write_jsonl(tmp_path / f"ward{number}.jsonl", rows[number::NODES]) for number in range(NODES)]
    federation.start_server()
    join(federation, NODES, lambda number: ["--data", str(files[number])])
    federation.start_run({**OWN, "runs-dir": str(tmp_path), "run-name": "deployed"})
    federation.wait(lambda: federation.log("node0").count("Start `flwr-clientapp`") == 3, "round 2", 120)
    for process in started_with(federation.home("node0")):
        process.kill()
    killed = time.monotonic()
    federation.processes["node0"].wait()

    def back() -> bool:
        """As an init system does it: again and again, since the server believes the dead to be there for up to a minute."""
        if federation.processes["node0"].poll() is not None:
            federation.start_node(0, NODES, "--data", str(files[0]))
        return federation.status().startswith("finished")

    federation.wait(back, "the run's end", LIMIT_S, pause_s=3.0)
    assert federation.status() == "finished:completed", federation.log("superexec")
    assert time.monotonic() - killed < LIMIT_S
    whole = go({**defaults(), **OWN, "runs-dir": str(tmp_path), "run-name": "whole"}, NODES, with_files(files))
    assert (tmp_path / "deployed" / "parameters.safetensors").read_bytes() == whole.parameter_bytes
    first, second = read_history(tmp_path / "deployed")
    assert (first["attempts"], second["attempts"], second["left"], second["back"]) == (1, 2, [0], [0])


OWN: dict[str, Scalar] = {
    **SMALL,
    **{"partition": "own", "clients": NODES, "clients-per-round": NODES, "min-clients": NODES, "rounds": 2},
    **{"quorum": NODES, "quorum-wait-s": 180.0, "labels": "animals,colours,verbs", "test-every": 0},
}


def with_files(files: list[Path]) -> Callable[[Message, Context], Message]:
    """The client app, on nodes with these files."""

    def told(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        return app(message, replace(context, node_config={**context.node_config, "data": str(files[number])}))

    return told
