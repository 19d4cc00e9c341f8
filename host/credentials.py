"""Keys at rest, and P-256 keys for TLS: what both ends of the wire do alike.

Guarantees: a private file is 0600 in a 0700 directory and appears whole or not at all; one that others could read is
refused on load, with the command that repairs it. Keys come from a ``RandomSource``, never from a library's own.
Leaves to others: which keys there are (``coordinator.enrolment.authority``, ``participant.link.identity``).
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from host import durable
from host.durable import FILE_MODE
from privacy.errors import LocalError, VerificationError
from privacy.interfaces import RandomSource
from privacy.secret import SecretBytes

DIRECTORY_MODE: Final = 0o700
_OTHERS: Final = 0o077  # any right of group or others
# Order of P-256's base point (SEC 2, section 2.4.2): a private key is a number from 1 to this less one.
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def new_tls_key(random: RandomSource) -> ec.EllipticCurvePrivateKey:
    """Return a fresh P-256 key, drawn by rejection (FIPS 186-5, appendix A.2.2)."""
    while True:
        value = int.from_bytes(random.token_bytes(32), "big")
        if 1 <= value < _P256_ORDER:
            return ec.derive_private_key(value, ec.SECP256R1())


def tls_key_pem(key: ec.EllipticCurvePrivateKey) -> SecretBytes:
    """Return the PEM (PKCS#8) of a TLS key."""
    return SecretBytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def load_tls_key(pem: SecretBytes) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 key in a PEM.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``, it is none.
    """
    key = _load(pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise VerificationError("E-STATE-DAMAGED", "a TLS key is no P-256 key")
    return key


def signing_key_pem(private: SecretBytes) -> SecretBytes:
    """Return the PEM (PKCS#8) of an Ed25519 key's 32 private bytes."""
    key = Ed25519PrivateKey.from_private_bytes(private.reveal())
    return SecretBytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def load_signing_key(pem: SecretBytes) -> SecretBytes:
    """Return the 32 private bytes of the Ed25519 key in a PEM.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``, it is none.
    """
    key = _load(pem)
    if not isinstance(key, Ed25519PrivateKey):
        raise VerificationError("E-STATE-DAMAGED", "a signing key is no Ed25519 key")
    return SecretBytes(key.private_bytes_raw())


def _load(pem: SecretBytes) -> object:
    try:
        return load_pem_private_key(pem.reveal(), password=None)
    except (ValueError, TypeError):
        raise VerificationError("E-STATE-DAMAGED", "a key file holds no unencrypted key") from None


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a TLS key."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def make_private_directory(directory: Path) -> None:
    """Make a directory that only its owner can enter; one that is there must be such a directory."""
    durable.make_directory(directory, mode=DIRECTORY_MODE)
    check_private(directory)


def check_private(path: Path) -> None:
    """Refuse a file or directory that is missing, or that anybody but its owner has a right to.

    Raises:
        LocalError: ``E-CONFIG-MISSING`` or ``E-PERMISSIONS``.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        raise LocalError("E-CONFIG-MISSING", f"{path} is missing") from None
    if mode & _OTHERS:
        wanted = DIRECTORY_MODE if path.is_dir() else FILE_MODE
        raise LocalError("E-PERMISSIONS", f"{path} has mode {mode:04o}; run: chmod {wanted:04o} {path}")


def write_private(path: Path, content: SecretBytes | bytes) -> None:
    """Write a file of a private directory: whole, durable, 0600.

    Raises:
        LocalError: ``E-PERMISSIONS``, its directory is open to others.
    """
    check_private(path.parent)
    durable.write(path, content.reveal() if isinstance(content, SecretBytes) else content)


def read_private(path: Path) -> SecretBytes:
    """Return a key file's content, if only its owner can reach it.

    Raises:
        LocalError: ``E-CONFIG-MISSING`` or ``E-PERMISSIONS``.
    """
    check_private(path.parent)
    check_private(path)
    return SecretBytes(path.read_bytes())


def read_public(path: Path) -> bytes:
    """Return the content of a file beside the keys that is no secret itself, as a certificate is none.

    Raises:
        LocalError: ``E-CONFIG-MISSING`` or ``E-PERMISSIONS`` (of the directory).
    """
    check_private(path.parent)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise LocalError("E-CONFIG-MISSING", f"{path} is missing") from None
