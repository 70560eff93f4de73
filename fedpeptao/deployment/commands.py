"""The subcommands keys and start: the first makes what the second needs. They load no model library."""

from __future__ import annotations

import argparse
import os
import shlex
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpeptao.errors import InputError

if TYPE_CHECKING:
    from fedpeptao.deployment.roles import Role

Subparsers = Any  # argparse keeps its type private
_AUTHORITY_DAYS, _DAYS = 3650, 825


def add_keys(subparsers: Subparsers) -> None:
    """`fedpeptao keys ca|server|node`."""
    parser = subparsers.add_parser(
        "keys",
        help="make keys and certificates for real machines",
        description="Makes the keys of a federation of real machines (docs/DEPLOYMENT.md). Nothing is overwritten.",
    )
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    ca = kinds.add_parser("ca", help="a certificate authority: once, where it is kept safe")
    server = kinds.add_parser("server", help="the server's certificate, by the authority")
    server.add_argument("--ca", type=Path, required=True, metavar="DIR", help="the authority's folder")
    node = kinds.add_parser("node", help="a node's key, on the node itself")
    for kind, days in ((ca, _AUTHORITY_DAYS), (server, _DAYS), (node, _AUTHORITY_DAYS)):
        kind.add_argument("folder", type=Path, metavar="DIR", help="where they go")
        kind.add_argument("--days", type=int, default=days, metavar="N", help=f"how long it is valid (default: {days})")
    server.add_argument("names", nargs="+", metavar="NAME", help="host name or IP address by which nodes reach it")
    ca.set_defaults(work=_keys, make=_make_ca)
    server.set_defaults(work=_keys, make=_make_server)
    node.set_defaults(work=_keys, make=_make_node)


def _keys(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.days <= 36_500:
        raise InputError("--days", arguments.days, "a certificate is valid for a while", "Give 1 to 36500")
    made: list[Path] = arguments.make(arguments)
    for path in made:
        private = path.stat().st_mode & 0o077 == 0
        print(f"{path}{'  (secret)' if private else ''}")
    return 0


def _make_ca(arguments: argparse.Namespace) -> list[Path]:
    from fedpeptao.deployment.certificates import make_authority

    return make_authority(arguments.folder, arguments.days)


def _make_server(arguments: argparse.Namespace) -> list[Path]:
    from fedpeptao.deployment.certificates import make_server

    return make_server(arguments.folder, arguments.ca, arguments.names, arguments.days)


def _make_node(arguments: argparse.Namespace) -> list[Path]:
    from fedpeptao.deployment.certificates import make_node

    return make_node(arguments.folder, arguments.days)


def add_start(subparsers: Subparsers) -> None:
    """`fedpeptao start superlink|superexec|supernode`."""
    parser = subparsers.add_parser(
        "start",
        help="start a process of a federation of real machines",
        description="Checks keys, ports and paths, then becomes Flower's process, with TLS on every connection.",
    )
    roles = parser.add_subparsers(metavar="ROLE", required=True)
    link = roles.add_parser("superlink", help="on the server: what nodes speak with")
    link.add_argument("--fleet", metavar="ADDRESS", help="for nodes (default: 0.0.0.0:9092)")
    link.add_argument(
        "--control", metavar="ADDRESS", help="for the operator (default: 127.0.0.1:9093); knows no accounts"
    )
    execution = roles.add_parser("superexec", help="on the server: what runs the application")
    node = roles.add_parser("supernode", help="on a node")
    node.add_argument(
        "--superlink", required=True, metavar="ADDRESS", help="the server's, such as fed.example.org:9092"
    )
    node.add_argument("--partition-id", type=int, required=True, metavar="K", help="this node's number, from 0")
    node.add_argument("--num-partitions", type=int, required=True, metavar="N", help="how many nodes there are")
    node.add_argument("--data", type=Path, metavar="FILE", help="this node's own examples")
    node.add_argument(
        "--validation", type=Path, metavar="FILE", help="its own evaluation examples (default: split from data)"
    )
    node.add_argument("--device", default="", help="cpu, cuda, cuda:1, .. (default: as the run says)")
    node.add_argument(
        "--worker", choices=("auto", "none"), default="auto", help="auto: a process that stays answers messages"
    )
    node.add_argument("--plain", action="store_true", help="Flower's own command and pauses, for comparison")
    for role, port in ((link, 9091), (execution, 9091), (node, 9094)):
        role.add_argument("--keys", type=Path, required=True, metavar="DIR", help="what fedpeptao keys made")
        role.add_argument("--state", type=Path, required=True, metavar="DIR", help="what it keeps")
        role.add_argument("--appio", metavar="ADDRESS", help=f"for the processes beside it (default: 127.0.0.1:{port})")
        role.add_argument("--health", metavar="ADDRESS", help="of gRPC's health service, without TLS (default: none)")
        role.add_argument("--print", action="store_true", dest="only_print", help="check, and show the command")
        role.set_defaults(work=_start)
    link.set_defaults(role=_superlink)
    execution.set_defaults(role=_superexec)
    node.set_defaults(role=_supernode)


def _start(arguments: argparse.Namespace) -> int:
    from fedpeptao.deployment.roles import environment

    role: Role = arguments.role(arguments)
    role.check()
    command, state = role.command(), role.state
    if arguments.only_print:
        print(shlex.join(command))
        return 0
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("--state", str(state), f"it cannot be made ({error.strerror})", "Mend its rights") from error
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])  # for its children, too
    os.umask(0o077)  # messages lie in the SuperLink's database, clients' states on a node
    os.environ.update({**environment(state), "PATH": path})
    os.execvp(command[0], command)


def _superlink(arguments: argparse.Namespace) -> Role:
    from fedpeptao.deployment.roles import SuperLink

    return SuperLink(**{**_common(arguments), **_given(arguments, "fleet", "control")})


def _superexec(arguments: argparse.Namespace) -> Role:
    from fedpeptao.deployment.roles import SuperExec

    return SuperExec(**_common(arguments))


def _supernode(arguments: argparse.Namespace) -> Role:
    from federation.node_config import parse_node_config
    from fedpeptao.deployment.roles import SuperNode

    paths = {key: str(path.absolute()) for key in ("data", "validation") if (path := getattr(arguments, key))}
    told = {"partition-id": arguments.partition_id, "num-partitions": arguments.num_partitions, **paths}
    own = {"state-dir": str(arguments.state.absolute() / "clients"), **_given(arguments, "device")}
    node = parse_node_config({**told, **own, "worker": arguments.worker})
    return SuperNode(**_common(arguments), superlink=arguments.superlink, node=node, plain=arguments.plain)


def _common(arguments: argparse.Namespace) -> dict[str, Any]:
    folders = {"keys": arguments.keys.absolute(), "state": arguments.state.absolute()}
    return {**folders, **_given(arguments, "appio", "health")}


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, str]:
    return {name: value for name in names if (value := getattr(arguments, name))}
