"""What an operator may have got wrong: how a node is started, data that are not what a run needs, another version."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from federation.node_config import NodeConfig
from fedpeptao.deployment.roles import SuperNode, environment
from fedpeptao.processes import free_port
from tests.deployed import CHECKOUT
from tests.machine_stage import PARTITIONS, Stage
from tests.small_runs import write_jsonl

Harm = Callable[[Path, ExitStack], list[str]]
WITHIN_S = 120.0


def certificate_missing(keys: Path, until: ExitStack) -> list[str]:
    (keys / "ca.crt").unlink()
    return []


def key_open_to_all(keys: Path, until: ExitStack) -> list[str]:
    (keys / "node.key").chmod(0o644)
    return []


def key_in_another_form(keys: Path, until: ExitStack) -> list[str]:
    key = ec.generate_private_key(ec.SECP384R1())
    (keys / "node.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return []


def data_missing(keys: Path, until: ExitStack) -> list[str]:
    return ["--data", str(keys / "no-such-file.jsonl")]


def port_taken(keys: Path, until: ExitStack) -> list[str]:
    listener = until.enter_context(socket.create_server(("127.0.0.1", 0)))
    return ["--appio", f"127.0.0.1:{listener.getsockname()[1]}"]


def does_not_start(harm: Harm, said: str) -> Callable[[Stage], None]:
    """A node that ends at once, with status 2 and one line that says why."""

    def strike(stage: Stage) -> None:
        server, name = stage.server, harm.__name__
        server.make_node_keys(name)
        with ExitStack() as until:
            began = time.monotonic()
            server.start_node(0, 1, *harm(server.keys(name), until), name=name)
            assert server.processes[name].wait(timeout=WITHIN_S) == 2
            stage.seconds = time.monotonic() - began
        (told,) = server.log(name).splitlines()
        assert said in told, told

    return strike


def data_of_two_nodes(stage: Stage) -> None:
    """One node's file is gone when the run begins, another's has other columns; a third trains."""
    federation = stage.federation
    stage.third_node()
    federation.wait(lambda: federation.nodes_online() == PARTITIONS, "the third node", pause_s=2.0)
    gone, odd = stage.own_data(1), stage.own_data(2)
    whole = {path: path.read_bytes() for path in (gone, odd)}
    gone.unlink()
    write_jsonl(odd, [{"note": "a cat", "label": "animals"}])
    flat = stage.flat(partition="own", dataset="stdlib-docs", clients=3, clients_per_round=3, min_clients=1, quorum=1)
    run = stage.begin(flat)
    stage.end_of(flat)
    stage.end_politely("node2")
    for path, content in whole.items():
        path.write_bytes(content)
    refused = [event["why"] for event in stage.events(flat) if event["event"] == "may not take part"]
    said = federation.run_log(run)
    assert sorted(why.split("InputError ")[1] for why in refused) == [
        "in data: the node's log says more, which stays there",
        "in text-column: the node's log says more, which stays there",
    ], (refused, said[-3000:])
    assert said.count("may not take part") == 2
    assert str(stage.folder) not in " ".join(refused), "no path of a node's leaves it"
    assert f"data = '{stage.folder}/ward-1.jsonl': there is no such file on this node" in _joined(
        federation.log("node1")
    )
    assert str(odd) in _joined(federation.log("node2"))
    assert [line["accepted"] for line in stage.lines(flat)] == [1, 1]


def another_version(stage: Stage) -> None:
    """What is installed on a node is of no matter: each run brings the application with it."""
    server = stage.federation
    stage.end_politely("node0")
    other = stage.folder / "other-version"
    for package in ("federation", "fedpeptao", "client_app"):
        shutil.copytree(CHECKOUT / package, other / package)
    for module in ("federation/records.py", "client_app/__init__.py"):
        (other / module).write_text("raise ImportError('another version')\n")
    state = server.folder / "node0"
    node = NodeConfig(0, PARTITIONS, state_dir=str(state / "clients"))
    role = SuperNode(server.keys("node0"), state, server.address("fleet"), node, f"127.0.0.1:{free_port()}")
    server.start_command("node0", role.command(), {**environment(state), "PYTHONPATH": str(other)})
    server.wait(lambda: server.nodes_online() == 2, "the node", pause_s=2.0)
    flat = stage.flat(rounds=1)
    stage.begin(flat)
    stage.end_of(flat)
    assert stage.same_bits(flat)
    stage.end_politely("node0")


def _joined(text: str) -> str:
    return " ".join(text.split())
