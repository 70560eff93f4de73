"""Every key and certificate that cannot work is refused before a process starts, with its path and the mend."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fedpeptao.deployment import certificates
from fedpeptao.deployment.credentials import check_pair, read_certificate, read_node_key, read_secret, read_tls_key
from fedpeptao.errors import InputError


def private(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def ssh(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


EC384 = ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize("bits", [0o604, 0o640, 0o660, 0o644, 0o610])
def test_a_key_that_others_may_touch_is_refused(bits: int, tmp_path: Path) -> None:
    path = private(tmp_path / "k", b"x")
    path.chmod(bits)
    with pytest.raises(InputError, match=f"mode {bits:04o}.*chmod 600"):
        read_secret(path)
    path.chmod(0o400)
    assert read_secret(path) == b"x"


@pytest.mark.parametrize("read", [read_secret, read_tls_key, read_node_key, read_certificate])
def test_missing_and_empty_files_are_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "absent")
    with pytest.raises(InputError, match="it is empty"):
        read(private(tmp_path / "empty", b""))
    with pytest.raises(InputError, match="Is a directory"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = private(tmp_path / "k", b"x")
    path.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        read_certificate(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (pem(EC384), "no private key in OpenSSH's form"),
        (ssh(ed25519.Ed25519PrivateKey.generate()), "no EC key on a NIST curve"),
        (b"nonsense", "no private key in OpenSSH's form"),
    ],
)
def test_a_nodes_key_in_another_form_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=problem):
        read_node_key(private(tmp_path / "node.key", content))


def test_a_nodes_key_is_what_ssh_keygen_makes(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    try:
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(path)], check=True)
    except FileNotFoundError:
        pytest.skip("there is no ssh-keygen here")
    assert read_node_key(path).curve.name == "secp384r1"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (ssh(EC384), "no private key in PEM"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "no EC key"),
        (EC384.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s")), "has a password"),
    ],
)
def test_a_servers_key_in_another_form_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=problem):
        read_tls_key(private(tmp_path / "server.key", content))


def test_a_certificate_is_good_between_its_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_CLOCK_SKEW", timedelta(days=3))
    certificates.make_authority(tmp_path / "old", -1)
    with pytest.raises(InputError, match="it expired on"):
        read_certificate(tmp_path / "old" / "ca.crt")
    monkeypatch.setattr(certificates, "_CLOCK_SKEW", timedelta(days=-3))
    certificates.make_authority(tmp_path / "new", 9)
    with pytest.raises(InputError, match=r"it is valid from .* clock"):
        read_certificate(tmp_path / "new" / "ca.crt")


def test_what_was_not_made_together_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        certificates.make_authority(tmp_path / name, 10)
        certificates.make_server(tmp_path / f"{name}-s", tmp_path / name, ["fed"], 10)
    one, two = tmp_path / "one-s", tmp_path / "two-s"
    check_pair(one / "server.crt", one / "server.key", one / "ca.crt")
    with pytest.raises(InputError, match="not the key of"):
        check_pair(one / "server.crt", two / "server.key", one / "ca.crt")
    with pytest.raises(InputError, match="did not sign it"):
        check_pair(one / "server.crt", one / "server.key", two / "ca.crt")
    with pytest.raises(InputError, match="no certificate in PEM"):
        check_pair(one / "server.key", one / "server.key", one / "ca.crt")
