"""Makes the keys and certificates of a federation: its authority, its server, its nodes.

A private key is made where it is used and is readable by its owner alone; what leaves a machine is a certificate or a public key.
Nothing is overwritten: a key that somebody trusts is replaced by hand.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedpeptao.deployment.credentials import read_certificate, read_tls_key
from fedpeptao.errors import InputError

CA_CERTIFICATE, CA_KEY = "ca.crt", "ca.key"
SERVER_CERTIFICATE, SERVER_KEY, SECRET = "server.crt", "server.key", "superexec.secret"
NODE_KEY, NODE_PUBLIC, LOOPBACK_CERTIFICATE, LOOPBACK_KEY = "node.key", "node.pub", "loopback.crt", "loopback.key"
LOOPBACK = ("localhost", "127.0.0.1")
_SECRET_BYTES = 32
_CLOCK_SKEW = timedelta(minutes=10)  # a node's clock may be behind
_HOST = re.compile(r"(?=.{1,253}$)(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


def make_authority(folder: Path, days: int) -> list[Path]:
    """ca.key and ca.crt: who has the first can make servers that every node believes, so it stays off the server.

    Raises:
        InputError: one of them is there, or the folder cannot be written.
    """
    _check_free(folder, [CA_KEY, CA_CERTIFICATE])
    key = _tls_key()
    name = _name("fedpeptao certificate authority")
    certificate = (
        _draft(name, name, key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return [
        _write(folder / CA_KEY, _pem(key), private=True),
        _write(folder / CA_CERTIFICATE, certificate.public_bytes(Encoding.PEM)),
    ]


def make_server(folder: Path, authority: Path, names: Sequence[str], days: int) -> list[Path]:
    """server.key, server.crt and superexec.secret, with a copy of ca.crt.

    Args:
        authority: the folder with ca.key and ca.crt.
        names: host names and IP addresses by which nodes reach the server; localhost and 127.0.0.1 are always among them, for
            the processes beside it.

    Raises:
        InputError: a name that is neither, an authority that cannot be read, or a file that is there.
    """
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in dict.fromkeys([*names, *LOOPBACK])])
    signer, issuer = read_tls_key(authority / CA_KEY), read_certificate(authority / CA_CERTIFICATE)
    own_ca = [] if folder.resolve() == authority.resolve() else [CA_CERTIFICATE]
    _check_free(folder, [SERVER_KEY, SERVER_CERTIFICATE, SECRET, *own_ca])
    key = _tls_key()
    certificate = (
        _draft(_name(names[0] if names else LOOPBACK[0]), issuer.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(alternatives, critical=False)
        .sign(signer, hashes.SHA256())
    )
    return [
        _write(folder / SERVER_KEY, _pem(key), private=True),
        _write(folder / SERVER_CERTIFICATE, certificate.public_bytes(Encoding.PEM)),
        _write(folder / SECRET, secrets.token_bytes(_SECRET_BYTES), private=True),
        *(_write(folder / name, issuer.public_bytes(Encoding.PEM)) for name in own_ca),
    ]


def make_node(folder: Path, days: int) -> list[Path]:
    """node.key and node.pub, by which the server knows the node, and a certificate for what the node's own processes say.

    Flower takes a node's key in OpenSSH's form alone. The certificate (loopback.key, loopback.crt) is for 127.0.0.1, and
    signed by itself: only processes of this node trust it.

    Raises:
        InputError: one of them is there, or the folder cannot be written.
    """
    _check_free(folder, [NODE_KEY, NODE_PUBLIC, LOOPBACK_KEY, LOOPBACK_CERTIFICATE])
    key, loopback = ec.generate_private_key(ec.SECP384R1()), _tls_key()
    name = _name("fedpeptao node, its own processes")
    certificate = (
        _draft(name, name, loopback, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(each) for each in LOOPBACK]), critical=False)
        .sign(loopback, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return [
        _write(folder / NODE_KEY, private, private=True),
        _write(folder / NODE_PUBLIC, public + b"\n"),
        _write(folder / LOOPBACK_KEY, _pem(loopback), private=True),
        _write(folder / LOOPBACK_CERTIFICATE, certificate.public_bytes(Encoding.PEM)),
    ]


def _draft(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _tls_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])  # X.509 allows no more


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if _HOST.fullmatch(name) and not re.fullmatch(r"[0-9.]+", name):
            return x509.DNSName(name)
    mend = "Give names such as fed.example.org or addresses such as 192.0.2.7, without port"
    raise InputError("NAME", name, "it is neither a host name nor an IP address", mend)


def _check_free(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if (folder / name).exists():
            mend = "Give another folder, or move the old files away: who trusts them has to get the new ones"
            raise InputError("DIR", str(folder), f"it has a {name} already", mend)


def _write(path: Path, content: bytes, private: bool = False) -> Path:
    """A new file, never readable by others where it is private, not even for the moment of its making; else by all."""
    mode = 0o600 if private else 0o644
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask took
            file.write(content)
    except OSError as error:
        raise InputError(
            "DIR", str(path.parent), f"{path.name} cannot be written ({error.strerror})", "Mend it"
        ) from error
    return path
