"""Keys and certificates: who may read them, whom they are for, and that nothing is overwritten."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedpeptao.cli import main
from fedpeptao.deployment import certificates
from fedpeptao.deployment.credentials import read_certificate
from fedpeptao.errors import InputError


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    certificates.make_authority(tmp_path / "ca", 10)
    return tmp_path / "ca"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_secret_is_its_owners_alone(authority: Path, tmp_path: Path) -> None:
    server = certificates.make_server(tmp_path / "server", authority, ["fed.example.org"], 10)
    node = certificates.make_node(tmp_path / "node", 10)
    modes = {path.name: mode(path) for path in [*server, *node, *authority.iterdir()]}
    secrets = {"ca.key", "server.key", "superexec.secret", "node.key", "loopback.key"}
    assert {name for name, bits in modes.items() if bits == 0o600} == secrets
    assert {name for name, bits in modes.items() if bits & 0o022} == set()
    assert mode(tmp_path / "node") == 0o700


def test_a_server_is_known_by_its_names_and_on_the_loopback(authority: Path, tmp_path: Path) -> None:
    certificates.make_server(tmp_path / "s", authority, ["fed.example.org", "192.0.2.7"], 10)
    certificate = read_certificate(tmp_path / "s" / "server.crt")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fed.example.org", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("192.0.2.7"), ip_address("127.0.0.1")]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (tmp_path / "s" / "ca.crt").read_bytes() == (authority / "ca.crt").read_bytes()
    context = ssl.create_default_context(cafile=str(authority / "ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
        tmp_path / "s" / "server.crt", tmp_path / "s" / "server.key"
    )


def test_it_is_valid_for_so_many_days(authority: Path) -> None:
    certificate = read_certificate(authority / "ca.crt")
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=9.9) < left < timedelta(days=10.1)
    assert certificate.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=5)  # a node's clock may be behind


def test_a_node_has_the_key_that_flower_takes(tmp_path: Path) -> None:
    certificates.make_node(tmp_path, 10)
    key = load_ssh_private_key((tmp_path / "node.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    public = load_ssh_public_key((tmp_path / "node.pub").read_bytes())
    assert public == key.public_key()


@pytest.mark.parametrize("name", ["", "a b", "fed.example.org:9092", "https://fed", "-fed", "1.2.3", "1.2.3.400"])
def test_what_is_no_name_is_refused(name: str, authority: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a host name nor an IP address"):
        certificates.make_server(tmp_path / "s", authority, [name], 10)
    assert not (tmp_path / "s").exists()


def test_nothing_is_overwritten(authority: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (authority / "ca.key").read_bytes()
    assert main(["keys", "ca", str(authority)]) == 2
    assert "it has a ca.key already" in capsys.readouterr().err
    assert (authority / "ca.key").read_bytes() == before


def test_the_command_says_what_it_made_and_what_is_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "node", str(tmp_path / "n"), "--days", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0].rsplit("/")[-1] for line in lines if "secret" in line] == ["node.key", "loopback.key"]
    assert main(["keys", "node", str(tmp_path / "m"), "--days", "0"]) == 2
