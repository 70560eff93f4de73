"""Who may not come in: strangers, copies and plaintext at a federation's doors, and servers that a node must not believe."""

from __future__ import annotations

import shutil
import subprocess
import time
from datetime import timedelta

import grpc
import pytest
from flwr.proto import control_pb2, fleet_pb2, serverappio_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from fedpeptao.deployment import certificates
from fedpeptao.deployment.roles import SuperLink, environment
from fedpeptao.processes import end_all, free_port
from tests.deployed import Deployed
from tests.machine_stage import Stage

WITHIN_S = 120.0
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def plain_node(server: Deployed, name: str, address: str, *told: str) -> subprocess.Popen[str]:
    """Flower's own command, as somebody might start it who does not ask us."""
    config = ["--node-config", "partition-id=0 num-partitions=1", "--max-retries", "2"]
    own = ["--superlink", address, "--clientappio-api-address", f"127.0.0.1:{free_port()}"]
    return server.start_command(name, ["flower-supernode", *own, *config, *told], environment(server.folder / name))


def refused(stage: Stage, process: subprocess.Popen[str]) -> None:
    """Our node ends, with an error; it took so long."""
    began = time.monotonic()
    assert process.wait(timeout=WITHIN_S) != 0
    stage.seconds = time.monotonic() - began


def turned_away(stage: Stage, name: str) -> None:
    """Flower's own command is told so and gives up, with an error.

    It need not end: Python waits, rarely, in its own way out for the gRPC server of the process. Ours does not wait.
    """
    server, began = stage.server, time.monotonic()
    process = server.processes[name]
    server.wait(
        lambda: process.poll() is not None or "Traceback (most recent call last)" in server.log(name), "a refusal"
    )
    stage.seconds = max(stage.seconds, time.monotonic() - began)
    assert process.poll() != 0
    process.kill()
    process.wait()


def ca_of(server: Deployed) -> str:
    return str(server.keys("server") / "ca.crt")


# -- keys -------------------------------------------------------------------------------------------------------


def unregistered(stage: Stage) -> None:
    server = stage.server
    server.make_node_keys("stranger")
    online = server.nodes_online()
    server.start_node(0, 1, name="stranger")
    refused(stage, server.processes["stranger"])
    assert server.nodes_online() == online


def keyless(stage: Stage) -> None:
    server = stage.server
    online = server.nodes_online()
    plain_node(server, "keyless", server.address("fleet"), "--root-certificates", ca_of(server))
    turned_away(stage, "keyless")
    assert server.nodes_online() == online


def duplicate(stage: Stage) -> None:
    """A copy of node 0's key, while node 0 is there."""
    server = stage.federation
    shutil.copytree(server.keys("node0"), server.keys("copy"))
    server.start_node(0, 1, name="copy")
    refused(stage, server.processes["copy"])
    assert server.nodes_online() == 2


def without_secret(stage: Stage) -> None:
    """Another process of the machine may reach ServerAppIo on the loopback."""
    server, keys = stage.server, stage.server.keys("intruder")
    keys.mkdir(parents=True)
    shutil.copy(ca_of(server), keys / "ca.crt")
    (keys / "superexec.secret").write_bytes(b"guessed")
    (keys / "superexec.secret").chmod(0o600)
    began = time.monotonic()
    process = server.start("intruder", "superexec", "--keys", str(keys), "--appio", server.address("appio"))
    server.wait(lambda: "UNAUTHENTICATED" in server.log("intruder") or process.poll() is not None, "a refusal")
    stage.seconds = time.monotonic() - began
    assert end_all(server.home("intruder")) == []


# -- connections ----------------------------------------------------------------------------------------------------


def plaintext(stage: Stage) -> None:
    server = stage.server
    online = server.nodes_online()
    plain_node(server, "plain", server.address("fleet"), "--insecure")
    turned_away(stage, "plain")
    assert server.nodes_online() == online


def unsigned(stage: Stage) -> None:
    """Who speaks TLS and signs nothing: each call of both services that only known processes may make is refused."""
    server, began = stage.server, time.monotonic()
    credentials = grpc.ssl_channel_credentials((server.keys("server") / "ca.crt").read_bytes())
    for api, service in (("fleet", _service(fleet_pb2)), ("appio", _service(serverappio_pb2))):
        with grpc.secure_channel(server.address(api), credentials) as channel:
            answers = {method: _call(channel, service, method) for method in service.methods_by_name}
        assert answers.keys() >= {"PullMessages", "PushMessages", "GetRun", "PullObject", "PushObject"}
        assert {method: code for method, code in answers.items() if code not in REFUSED} == {}
    with grpc.secure_channel(
        server.address("control"), credentials
    ) as channel:  # the operator's: a call that is let in
        assert _call(channel, _service(control_pb2), "ListNodes") == grpc.StatusCode.OK
    stage.seconds = time.monotonic() - began


def _service(module: object) -> ServiceDescriptor:
    (service,) = module.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]
    return service


def _call(channel: grpc.Channel, service: ServiceDescriptor, name: str) -> grpc.StatusCode:
    """What an empty request gets."""
    method = service.methods_by_name[name]
    call = channel.unary_unary(
        f"/{service.full_name}/{name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    try:
        call(GetMessageClass(method.input_type)(), timeout=10)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


# -- certificates ---------------------------------------------------------------------------------------------------


def another_authority(stage: Stage) -> None:
    server = stage.server
    certificates.make_authority(stage.folder / "another", 10)
    server.make_node_keys("misled")
    shutil.copy(stage.folder / "another" / "ca.crt", server.keys("misled") / "ca.crt")
    server.start_node(0, 1, name="misled")
    ours = ["--root-certificates", str(server.keys("misled") / "ca.crt")]
    plain_node(server, "misled-plain", server.address("fleet"), *ours)
    refused(stage, server.processes["misled"])
    turned_away(stage, "misled-plain")
    (told,) = server.log("misled").splitlines()
    assert "its certificate is not believed" in told


def expired(stage: Stage) -> None:
    """A server's certificate whose day has passed: ours does not start with it, and no node believes who did."""
    server, keys = stage.server, stage.server.keys("expired")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "_CLOCK_SKEW", timedelta(days=9))
        certificates.make_server(keys, server.keys("ca"), [], -1)
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ("fleet", "control", "appio")}
    options = [f"--{name}={address}" for name, address in addresses.items()]
    server.start("expired", "superlink", "--keys", str(keys), *options)
    assert server.processes["expired"].wait(timeout=WITHIN_S) == 2
    assert "server.crt': it expired on" in _joined(server.log("expired"))
    role = SuperLink(keys=keys, state=server.folder / "expired", **addresses)
    old = server.start_command("expired", role.command(), environment(role.state))
    server.wait(lambda: "Flower Deployment Runtime: Starting Control API" in server.log("expired"), "the old server")
    server.make_node_keys("late")
    where = ["--superlink", addresses["fleet"], "--partition-id", "0", "--num-partitions", "1"]
    server.start("late", "supernode", "--keys", str(server.keys("late")), *where, f"--appio=127.0.0.1:{free_port()}")
    plain_node(server, "late-plain", addresses["fleet"], "--root-certificates", ca_of(server))
    refused(stage, server.processes["late"])
    turned_away(stage, "late-plain")
    assert "not believed (certificate has expired)" in _joined(server.log("late"))
    old.kill()
    old.wait()


def _joined(text: str) -> str:
    return " ".join(text.split())
