"""Faults of real processes, with TLS and node authentication on: who may not come in, and what a killed node costs."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedpeptao.deployment import certificates
from fedpeptao.processes import end_all, free_port
from tests.deployed import Deployed

pytestmark = [pytest.mark.slow, pytest.mark.machines, pytest.mark.usefixtures("no_plots")]
REFUSED_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A server with one registered node that is not started."""
    deployed = Deployed(tmp_path_factory.mktemp("federation"))
    deployed.make_server_keys()
    deployed.start_server()
    deployed.make_node_keys("node0")
    deployed.register("node0")
    yield deployed
    deployed.end()


def status_of(process: subprocess.Popen[str]) -> int:
    return process.wait(timeout=REFUSED_WITHIN_S)


def plain_node(server: Deployed, name: str, *told: str) -> subprocess.Popen[str]:
    """Flower's own command, as somebody might start it who does not ask us."""
    address = f"127.0.0.1:{free_port()}"
    command = ["flower-supernode", "--superlink", server.address("fleet"), "--clientappio-api-address", address]
    config = ["--node-config", "partition-id=0 num-partitions=1", "--max-retries", "2"]
    environment = {**server.environment, "FLWR_HOME": str(server.home(name)), "FLWR_TELEMETRY_ENABLED": "0"}
    with (server.folder / f"{name}.log").open("w", encoding="utf8") as log:
        server.processes[name] = subprocess.Popen(
            [*command, *config, *told], env=environment, stdout=log, stderr=subprocess.STDOUT, text=True
        )
    return server.processes[name]


def test_a_key_that_nobody_registered_stays_outside(server: Deployed) -> None:
    server.make_node_keys("stranger")
    server.start_node(0, 1, name="stranger")
    assert status_of(server.processes["stranger"]) != 0
    assert server.nodes_online() == 0


def test_without_a_key_nobody_comes_in(server: Deployed) -> None:
    ca = str(server.keys("server") / "ca.crt")
    assert status_of(plain_node(server, "keyless", "--root-certificates", ca)) != 0
    assert server.nodes_online() == 0


def test_plaintext_is_not_spoken_with(server: Deployed) -> None:
    assert status_of(plain_node(server, "plain", "--insecure")) != 0
    assert server.nodes_online() == 0


def test_a_node_that_trusts_another_authority_does_not_start(server: Deployed, tmp_path: Path) -> None:
    certificates.make_authority(tmp_path, 10)
    shutil.copytree(server.keys("node0"), server.keys("misled"))
    (server.keys("misled") / "ca.crt").write_bytes((tmp_path / "ca.crt").read_bytes())
    server.start_node(0, 1, name="misled")
    assert status_of(server.processes["misled"]) == 2
    (told,) = server.log("misled").splitlines()
    assert "its certificate is not believed" in told
    ours = str(server.keys("misled") / "ca.crt")
    assert status_of(plain_node(server, "misled-plain", "--root-certificates", ours)) != 0  # Flower itself refuses, too
    assert server.nodes_online() == 0


def test_the_second_node_with_a_key_stays_outside_while_the_first_is_there(server: Deployed) -> None:
    server.start_node(0, 1)
    server.wait(lambda: server.nodes_online() == 1, "the node")
    shutil.copytree(server.keys("node0"), server.keys("copy"))
    server.start_node(0, 1, name="copy")
    assert status_of(server.processes["copy"]) != 0
    assert server.nodes_online() == 1
    server.processes["node0"].send_signal(signal.SIGTERM)
    server.processes["node0"].wait(timeout=30)
    server.wait(lambda: server.nodes_online() == 0, "the end of the node")


def test_who_has_no_secret_starts_nothing_on_the_server(server: Deployed) -> None:
    """Another process of the machine may reach ServerAppIo on the loopback."""
    keys = server.keys("intruder")
    keys.mkdir(parents=True)
    (keys / "ca.crt").write_bytes((server.keys("server") / "ca.crt").read_bytes())
    (keys / "superexec.secret").write_bytes(b"guessed")
    (keys / "superexec.secret").chmod(0o600)
    server.start("intruder", "superexec", "--keys", str(keys), "--appio", server.address("appio"))
    end = time.monotonic() + REFUSED_WITHIN_S
    while "UNAUTHENTICATED" not in server.log("intruder") and server.processes["intruder"].poll() is None:
        assert time.monotonic() < end, server.log("intruder")
        time.sleep(0.5)
    assert end_all(server.home("intruder")) == []
