"""Ports that are taken, and servers that are not whom they should be."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from fedpeptao.deployment import certificates
from fedpeptao.deployment.network import check_free, check_server, split_address
from fedpeptao.errors import InputError


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities with a server each; the second knows it by another name."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        certificates.make_authority(folder / name, 10)
        certificates.make_server(folder / f"{name}-server", folder / name, ["fed.example.org"], 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "_CLOCK_SKEW", timedelta(days=3))
        certificates.make_server(folder / "expired-server", folder / "ours", [], -1)
    return folder


@contextmanager
def listening(certificate: Path | None) -> Iterator[str]:
    """A server on the loopback: TLS with these keys, or plaintext."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            context = None
            if certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(certificate / "server.crt", certificate / "server.key")
                context.set_alpn_protocols(["h2"])
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        if context is None:
                            connection.sendall(b"HTTP/1.1 400\r\n\r\n")
                            continue
                        try:
                            context.wrap_socket(connection, server_side=True).close()
                        except OSError:
                            continue  # the other end did not believe us
            except OSError:
                return  # the listener is closed

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept, and so frees the port
        thread.join()


def test_an_address_is_a_host_and_a_port() -> None:
    assert split_address("fed.example.org:9092", "--superlink") == ("fed.example.org", 9092)
    assert split_address("[::1]:9092", "--superlink") == ("::1", 9092)


@pytest.mark.parametrize("address", ["fed.example.org", ":9092", "fed:", "fed:0", "fed:65536", "fed:http", ""])
def test_what_is_none_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="host:port"):
        split_address(address, "--superlink")


def test_a_taken_port_is_named() -> None:
    with listening(None) as address:
        with pytest.raises(InputError, match="Address already in use") as caught:
            check_free(address, "--fleet")
        assert (caught.value.key, caught.value.value) == ("--fleet", address)
    check_free(address, "--fleet")


def test_our_own_server_is_believed(keys: Path) -> None:
    with listening(keys / "ours-server") as address:
        assert check_server(address, keys / "ours" / "ca.crt", "--superlink")


@pytest.mark.parametrize(
    ("server", "problem"),
    [("theirs-server", "unable to get local issuer|certificate signature failure"), ("expired-server", "expired")],
)
def test_another_authoritys_or_an_expired_server_is_not(server: str, problem: str, keys: Path) -> None:
    with listening(keys / server) as address, pytest.raises(InputError, match=problem):
        check_server(address, keys / "ours" / "ca.crt", "--superlink")


def test_a_server_of_another_name_is_not(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.create_connection
    with listening(keys / "ours-server") as address:
        port = int(address.rpartition(":")[2])
        monkeypatch.setattr(socket, "create_connection", lambda place, timeout: real(("127.0.0.1", place[1]), timeout))
        with pytest.raises(InputError, match=r"[Hh]ostname mismatch"):
            check_server(f"bank.example.org:{port}", keys / "ours" / "ca.crt", "--superlink")


def test_plaintext_is_told_from_tls(keys: Path) -> None:
    with listening(None) as address, pytest.raises(InputError, match="speaks no TLS"):
        check_server(address, keys / "ours" / "ca.crt", "--superlink")


def test_nobody_there_is_no_fault_since_a_node_may_wait(keys: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert not check_server(f"127.0.0.1:{port}", keys / "ours" / "ca.crt", "--superlink")
