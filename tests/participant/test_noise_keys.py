"""Coins and noise come from streams whose keys are never used twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from host.system import SystemRandom
from participant.training import noise_keys
from participant.training.noise_keys import KeyStream, NoiseKeys
from privacy.errors import LocalError
from privacy.secret import SecretBytes
from tests.worlds.seeded import SeededRandom

BLOCK = 16


class Stuck:
    """An operating system that gives the same bytes each time."""

    def token_bytes(self, count: int) -> bytes:
        return bytes(range(count))


def blocks(key: bytes, count: int) -> bytes:
    """AES in counter mode, one block at a time."""
    plain = b"".join(number.to_bytes(BLOCK, "big") for number in range(count))
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(plain)


def test_a_stream_is_aes_in_counter_mode_however_it_is_read() -> None:
    key = bytes(range(32))
    stream = KeyStream(SecretBytes(key))
    parts = [stream.token_bytes(count) for count in (0, 1, 15, 16, 1000, 2**21 + 3)]
    assert [len(part) for part in parts] == [0, 1, 15, 16, 1000, 2**21 + 3]
    joined = b"".join(parts)
    assert joined[:8192] == blocks(key, 512)
    at = 2**21 // BLOCK
    assert joined[at * BLOCK : (at + 8) * BLOCK] == blocks(key, at + 8)[at * BLOCK :]


def test_every_stream_has_a_key_of_its_own_also_after_a_restart(tmp_path: Path) -> None:
    book = NoiseKeys(tmp_path / "noise-keys", SystemRandom())
    drawn = {book.open_stream().token_bytes(32) for _ in range(3)}
    drawn |= {NoiseKeys(tmp_path / "noise-keys", SystemRandom()).open_stream().token_bytes(32) for _ in range(3)}
    assert len(drawn) == 6
    assert (tmp_path / "noise-keys").stat().st_size == 6 * 32


def test_the_same_bytes_of_the_operating_system_are_refused_a_second_time(tmp_path: Path) -> None:
    path = tmp_path / "noise-keys"
    book = NoiseKeys(path, Stuck())
    book.open_stream()
    for again in (book, NoiseKeys(path, Stuck())):
        with pytest.raises(LocalError) as info:
            again.open_stream()
        assert info.value.code == "E-RANDOM-REPEATED"
    assert path.stat().st_size == 32
    path.unlink()  # what is in memory still counts
    with pytest.raises(LocalError):
        book.open_stream()


@pytest.mark.parametrize("part", ["process", "boot", "count"])
def test_the_same_bytes_elsewhere_give_another_key(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = NoiseKeys(tmp_path / "first", Stuck()).open_stream().token_bytes(32)
    assert NoiseKeys(tmp_path / "twin", Stuck()).open_stream().token_bytes(32) == first
    if part == "count":
        (tmp_path / "other").write_bytes(bytes(32))
    elif part == "process":
        monkeypatch.setattr(os, "getpid", lambda: 1)
    else:
        (tmp_path / "boot").write_text("another boot")
        monkeypatch.setattr(noise_keys, "_BOOT_ID", tmp_path / "boot")
    assert NoiseKeys(tmp_path / "other", Stuck()).open_stream().token_bytes(32) != first


def test_the_hash_is_on_disk_before_the_key_is_used(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    book = NoiseKeys(tmp_path / "full" / "nowhere" / "noise-keys", SeededRandom(1))
    with pytest.raises(LocalError, match=r"E-DISK-FAILED: .*noise-keys"):
        book.open_stream()


def test_a_file_that_is_no_list_of_hashes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise-keys").write_bytes(bytes(33))
    with pytest.raises(LocalError) as info:
        NoiseKeys(tmp_path / "noise-keys", SystemRandom())
    assert info.value.code == "E-STATE-DAMAGED"


def test_a_stream_ends_in_a_forked_process(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = KeyStream(SecretBytes(bytes(32)))
    stream.token_bytes(1)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(LocalError, match="forked"):
        stream.token_bytes(1)


def test_no_bytes_of_a_key_are_in_the_file_or_a_repr(tmp_path: Path) -> None:
    book = NoiseKeys(tmp_path / "noise-keys", Stuck())
    stream = book.open_stream()
    data = (tmp_path / "noise-keys").read_bytes()
    assert bytes(range(8)) not in data
    assert (tmp_path / "noise-keys").stat().st_mode & 0o077 == 0
    assert stream.token_bytes(16).hex() not in repr(stream) + repr(book)
