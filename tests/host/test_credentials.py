"""Key files are their owner's alone; keys come from the random source that is passed in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from host import credentials, system
from privacy.errors import LocalError, VerificationError
from privacy.secret import SecretBytes
from tests.worlds.seeded import SeededRandom


class Scripted:
    """Gives out what it was given."""

    def __init__(self, *values: bytes) -> None:
        self.values = list(values)

    def token_bytes(self, count: int) -> bytes:
        assert len(self.values[0]) == count
        return self.values.pop(0)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_key_file_and_its_directory_are_their_owners_alone(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        credentials.make_private_directory(tmp_path / "keys")
        credentials.write_private(tmp_path / "keys" / "a.key", SecretBytes(b"secret"))
    finally:
        os.umask(previous)
    assert mode(tmp_path / "keys") == 0o700
    assert mode(tmp_path / "keys" / "a.key") == 0o600
    assert credentials.read_private(tmp_path / "keys" / "a.key").reveal() == b"secret"
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["a.key"]


def test_a_key_file_is_replaced_whole_even_after_a_crash(tmp_path: Path) -> None:
    credentials.make_private_directory(tmp_path / "keys")
    (tmp_path / "keys" / ".a.key.new").write_bytes(b"half a k")
    credentials.write_private(tmp_path / "keys" / "a.key", SecretBytes(b"one"))
    credentials.write_private(tmp_path / "keys" / "a.key", SecretBytes(b"two"))
    assert credentials.read_private(tmp_path / "keys" / "a.key").reveal() == b"two"


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o660, 0o644])
def test_a_key_file_that_others_can_read_is_refused_with_the_repair(tmp_path: Path, loose: int) -> None:
    credentials.make_private_directory(tmp_path / "keys")
    path = tmp_path / "keys" / "a.key"
    credentials.write_private(path, SecretBytes(b"secret"))
    path.chmod(loose)
    with pytest.raises(LocalError, match=f"chmod 0600 {path}") as caught:
        credentials.read_private(path)
    assert caught.value.code == "E-PERMISSIONS"


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    credentials.make_private_directory(directory)
    credentials.write_private(directory / "a.key", SecretBytes(b"secret"))
    directory.chmod(0o750)
    for call in (
        lambda: credentials.read_private(directory / "a.key"),
        lambda: credentials.read_public(directory / "a.key"),
        lambda: credentials.write_private(directory / "b.key", SecretBytes(b"secret")),
        lambda: credentials.make_private_directory(directory),
    ):
        with pytest.raises(LocalError, match="chmod 0700") as caught:
            call()
        assert caught.value.code == "E-PERMISSIONS"
    assert not (directory / "b.key").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    credentials.make_private_directory(tmp_path / "keys")
    for read in (credentials.read_private, credentials.read_public):
        with pytest.raises(LocalError, match=r"a\.key is missing") as caught:
            read(tmp_path / "keys" / "a.key")
        assert caught.value.code == "E-CONFIG-MISSING"


def test_a_tls_key_is_drawn_again_outside_the_curves_order() -> None:
    too_large, zero, good = b"\xff" * 32, bytes(32), bytes(31) + b"\x07"
    key = credentials.new_tls_key(Scripted(too_large, zero, good))
    assert key.private_numbers().private_value == 7


def test_keys_survive_their_files() -> None:
    tls = credentials.new_tls_key(SeededRandom(1))
    assert credentials.load_tls_key(credentials.tls_key_pem(tls)).private_numbers() == tls.private_numbers()
    assert credentials.load_signing_key(credentials.signing_key_pem(SecretBytes(b"i" * 32))).reveal() == b"i" * 32


def test_a_file_with_another_key_is_damaged() -> None:
    signing = credentials.signing_key_pem(SecretBytes(b"i" * 32))
    tls = credentials.tls_key_pem(credentials.new_tls_key(SeededRandom(1)))
    other_curve = credentials.tls_key_pem(ec.derive_private_key(7, ec.SECP384R1()))
    for load, pem in (
        (credentials.load_tls_key, signing),
        (credentials.load_signing_key, tls),
        (credentials.load_tls_key, other_curve),
        (credentials.load_tls_key, SecretBytes(b"no key")),
    ):
        with pytest.raises(VerificationError) as caught:
            load(pem)
        assert caught.value.code == "E-STATE-DAMAGED"


def test_system_randomness_does_not_repeat() -> None:
    source = system.SystemRandom()
    assert len({source.token_bytes(16) for _ in range(50)}) == 50
