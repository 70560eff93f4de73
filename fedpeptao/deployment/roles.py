"""The processes of a federation as commands of Flower's: every connection with TLS, every port but the nodes' on the loopback.

Left to itself Flower speaks plaintext on two of its four APIs and listens on all interfaces with all of them. Whoever reaches
the Control API may start runs and register nodes, since this Flower knows no accounts: so it stays on the loopback.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from federation.node_config import NodeConfig
from fedpeptao.deployment import certificates as names
from fedpeptao.deployment.credentials import check_pair, read_certificate, read_node_key, read_secret
from fedpeptao.deployment.network import check_free, check_server
from fedpeptao.errors import InputError

FLEET, CONTROL, SERVER_APPIO = "0.0.0.0:9092", "127.0.0.1:9093", "127.0.0.1:9091"
CLIENT_APPIO = "127.0.0.1:9094"
DATABASE = "state.db"


@dataclass(frozen=True)
class SuperLink:
    """The server's process that nodes speak with; it runs nothing of the application.

    Attributes:
        keys: folder that `keys server` made.
        state: folder of its database.
        fleet, control, appio: addresses it listens on: for nodes, for the operator, for the SuperExec beside it.
        health: address of gRPC's health service, without TLS; "": none.
    """

    keys: Path
    state: Path
    fleet: str = FLEET
    control: str = CONTROL
    appio: str = SERVER_APPIO
    health: str = ""

    def check(self) -> None:
        """InputError if it could not start, or not as it should."""
        _check_server_keys(self.keys)
        for key, address in (("--fleet", self.fleet), ("--control", self.control), ("--appio", self.appio)):
            check_free(address, key)

    def command(self) -> list[str]:
        """What to run."""
        authority, certificate, key = (
            str(self.keys / name) for name in (names.CA_CERTIFICATE, names.SERVER_CERTIFICATE, names.SERVER_KEY)
        )
        tls = ["--ssl-ca-certfile", authority, "--ssl-certfile", certificate, "--ssl-keyfile", key]
        return [
            *("flower-superlink", "--isolation", "process", "--enable-supernode-auth"),
            *tls,
            *(part.replace("--ssl", "--appio-ssl") for part in tls),
            *("--superexec-auth-secret-file", str(self.keys / names.SECRET)),
            *("--database", str(self.state / DATABASE)),
            *("--fleet-api-address", self.fleet, "--control-api-address", self.control),
            *("--serverappio-api-address", self.appio),
            *_health(self.health),
        ]


@dataclass(frozen=True)
class SuperExec:
    """The server's process that starts the application's server part, for each run one.

    Attributes:
        keys: as the SuperLink's.
        state: folder where it unpacks the application.
        appio: the SuperLink's address for it.
    """

    keys: Path
    state: Path
    appio: str = SERVER_APPIO
    health: str = ""

    def check(self) -> None:
        """InputError if it could not start."""
        read_certificate(self.keys / names.CA_CERTIFICATE)
        read_secret(self.keys / names.SECRET)

    def command(self) -> list[str]:
        """What to run."""
        return [
            *("flower-superexec", "--plugin-type", "serverapp", "--appio-api-address", self.appio),
            *("--root-certificates", str(self.keys / names.CA_CERTIFICATE)),
            *("--superexec-auth-secret-file", str(self.keys / names.SECRET)),
            *_health(self.health),
        ]


@dataclass(frozen=True)
class SuperNode:
    """A node's process; it starts the application's client part for each message.

    Attributes:
        keys: folder that `keys node` made, with the server's ca.crt.
        state: folder where it unpacks the application.
        superlink: the server's address for nodes.
        node: what the application is told.
        appio: address it listens on for its own processes.
        plain: as Flower's own command, with its pauses and a new process for each message, for comparison.
    """

    keys: Path
    state: Path
    superlink: str
    node: NodeConfig
    appio: str = CLIENT_APPIO
    health: str = ""
    plain: bool = False

    def check(self) -> None:
        """InputError if it could not start, or would wait for ever for a server that it cannot believe."""
        read_node_key(self.keys / names.NODE_KEY)
        loopback = self.keys / names.LOOPBACK_CERTIFICATE
        check_pair(loopback, self.keys / names.LOOPBACK_KEY, loopback)
        read_certificate(self.keys / names.CA_CERTIFICATE)
        node_config_text(self.node.flat())
        check_free(self.appio, "--appio")
        check_server(self.superlink, self.keys / names.CA_CERTIFICATE, "--superlink")

    def command(self) -> list[str]:
        """What to run."""
        loopback = str(self.keys / names.LOOPBACK_CERTIFICATE)
        quick = (sys.executable, "-m", "fedpeptao.deployment.node")
        return [
            *(("flower-supernode",) if self.plain else quick),
            *("--superlink", self.superlink),
            *("--root-certificates", str(self.keys / names.CA_CERTIFICATE)),
            *("--auth-supernode-private-key", str(self.keys / names.NODE_KEY)),
            *("--clientappio-api-address", self.appio),
            *("--appio-ssl-ca-certfile", loopback, "--appio-ssl-certfile", loopback),
            *("--appio-ssl-keyfile", str(self.keys / names.LOOPBACK_KEY)),
            *("--node-config", node_config_text(self.node.flat())),
            *_health(self.health),
        ]


Role = SuperLink | SuperExec | SuperNode


def node_config_text(flat: Mapping[str, str | int | float | bool]) -> str:
    """As Flower's --node-config reads it.

    Raises:
        InputError: a text that cannot be written so.
    """
    for key, value in flat.items():
        if isinstance(value, str) and ('"' in value or "\\" in value or not value.isprintable()):
            raise InputError(key, value, "Flower's --node-config cannot hold quotes or backslashes", "Use another path")
    return " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in flat.items())


def environment(state: Path) -> dict[str, str]:
    """What every process is told besides: its own folder, and no word to the outside."""
    return {
        "FLWR_HOME": str(state / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _check_server_keys(keys: Path) -> None:
    authority = keys / names.CA_CERTIFICATE
    check_pair(keys / names.SERVER_CERTIFICATE, keys / names.SERVER_KEY, authority)
    read_secret(keys / names.SECRET)


def _health(address: str) -> list[str]:
    return ["--health-server-address", address] if address else []
