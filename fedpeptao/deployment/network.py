"""Addresses before a process uses them: whether a port is free, and whether who answers there is whom we trust."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from fedpeptao.errors import InputError

_PATIENCE_S = 5.0


def split_address(address: str, key: str) -> tuple[str, int]:
    """host:port; an IPv6 host in brackets.

    Raises:
        InputError: it is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(key, address, "it is no address", "Give host:port, such as fed.example.org:9092")
    return host.removeprefix("[").removesuffix("]"), int(port)


def check_free(address: str, key: str) -> None:
    """InputError if this machine cannot listen there."""
    host, port = split_address(address, key)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as gRPC does: a closed connection blocks nobody
            probe.bind((host, port))
    except OSError as error:
        mend = "End what listens there, or give another port"
        raise InputError(key, address, f"it cannot be listened on ({error.strerror or error})", mend) from error


def check_server(address: str, authority: Path, key: str) -> bool:
    """Whether the server answers; False if nobody does, which a node may wait for.

    Raises:
        InputError: who answers is no server that this authority vouches for.
    """
    host, port = split_address(address, key)
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2"])  # gRPC's
    try:
        with (
            socket.create_connection((host, port), timeout=_PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except ssl.SSLCertVerificationError as error:
        mend = f"Compare {authority} with the authority's, the address with the names in the server's certificate, and its date"
        raise InputError(key, address, f"its certificate is not believed ({error.verify_message})", mend) from error
    except ssl.SSLError as error:
        mend = "Give the address of the SuperLink's Fleet API"
        raise InputError(key, address, f"who answers there speaks no TLS ({error.reason})", mend) from error
    except OSError:
        return False
