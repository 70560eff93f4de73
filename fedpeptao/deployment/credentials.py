"""Reads keys and certificates as they will be used, and says what is wrong with one before a process starts with it.

Flower's processes answer a bad file with a traceback, a silent retry or, for a key that everybody can read, not at all.
"""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from fedpeptao.errors import InputError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)  # Flower's registration takes no others


def read_secret(path: Path) -> bytes:
    """A file that only its owner may touch.

    Raises:
        InputError: missing, unreadable, empty, or open to others.
    """
    content = _read(path)
    mode = path.stat().st_mode
    if mode & _OTHERS:
        mend = f"Run chmod 600 {path}, and make it anew if others may have read it"
        raise InputError("file", str(path), f"others than its owner may touch it (mode {stat.S_IMODE(mode):04o})", mend)
    return content


def read_tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A private key for TLS: EC, PEM, without a password.

    Raises:
        InputError: it cannot be read, is open to others, or is something else.
    """
    content = read_secret(path)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "it is no private key in PEM, or has a password", "keys server") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _no_key(path, "it is no EC key", "keys server")
    return key


def read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A node's private key: EC on a NIST curve, in OpenSSH's form, without a password.

    Raises:
        InputError: it cannot be read, is open to others, or is something else.
    """
    content = read_secret(path)
    try:
        key = load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "it is no private key in OpenSSH's form, or has a password", "keys node") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, _CURVES):
        raise _no_key(path, "it is no EC key on a NIST curve", "keys node")
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate that is valid today.

    Raises:
        InputError: it cannot be read, is no certificate, or is not valid now.
    """
    content = _read(path)
    try:
        certificate = x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise InputError("file", str(path), "it is no certificate in PEM", "Make one with fedpeptao keys") from error
    begin, end, now = certificate.not_valid_before_utc, certificate.not_valid_after_utc, datetime.now(UTC)
    if now > end:
        raise InputError("file", str(path), f"it expired on {end:%Y-%m-%d}", "Make a new one with fedpeptao keys")
    if now < begin:
        raise InputError("file", str(path), f"it is valid from {begin:%Y-%m-%d} on", "Set this machine's clock")
    return certificate


def check_pair(certificate: Path, key: Path, authority: Path) -> None:
    """Certificate, its key, and who signed it.

    Raises:
        InputError: one of them is not as it should be, or they do not belong together.
    """
    own, signer, private = read_certificate(certificate), read_certificate(authority), read_tls_key(key)
    if own.public_key() != private.public_key():
        raise InputError(
            "file", str(key), f"it is not the key of {certificate}", "Give the two that were made together"
        )
    try:
        own.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature) as error:
        problem = f"{authority} did not sign it"
        raise InputError(
            "file", str(certificate), problem, "Give the authority's certificate of this server"
        ) from error


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        mend = "Make it with fedpeptao keys, or mend the path or its rights"
        raise InputError("file", str(path), f"it cannot be read ({error.strerror})", mend) from error
    if not content:
        raise InputError("file", str(path), "it is empty", "Make it anew with fedpeptao keys")
    return content


def _no_key(path: Path, problem: str, command: str) -> InputError:
    return InputError("file", str(path), problem, f"Make one with fedpeptao {command}")
