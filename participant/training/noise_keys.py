"""Secret coins and noise: each round draws them from a stream of its own, under a key that was never used before.

A key is HKDF of fresh bytes of the operating system with process, boot and the number of keys so far. A virtual machine
that is cloned or restored may be given the operating system's bytes a second time, and the same noise under two updates
would cancel. So the hash of those bytes is on disk before they are used; bytes whose hash is there already are refused,
although the number of keys would have led them to another key.

A backup holds that file: hashes of random bytes tell nothing, and each one that is restored refuses its bytes for good.
What was drawn after the backup is missing from it and could be drawn again only if the operating system repeats itself.
No key is in it, nor could one be restored.

Guarantees: no two streams of one directory share a key; a stream is not continued in a forked process; keys are kept in
memory only, for a round.
Leaves to others: what is drawn (``privacy.dp``), keys of the protocol, which come from the operating system directly;
noticing that the whole directory was rolled back, which the ledger's head shows at the handshake.
Source: docs/privacy-accounting.md section 3; RFC 5869; NIST SP 800-38A (CTR).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from host import durable
from privacy.errors import LocalError
from privacy.interfaces import RandomSource
from privacy.secagg.keys import derive
from privacy.secret import SecretBytes

KEY_LABEL: Final = b"onlysum/1/noise-key"
HASH_LABEL: Final = b"onlysum/1/noise-seed-hash"
SEED_BYTES: Final = 32
HASH_BYTES: Final = 32
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")  # Linux; elsewhere the other parts have to do
_ZEROS: Final = memoryview(bytes(2**20))


class KeyStream:
    """The AES-256-CTR key stream of one key, as a ``RandomSource``."""

    def __init__(self, key: SecretBytes) -> None:
        self._cipher = Cipher(AES256(key.reveal()), CTR(bytes(16))).encryptor()
        self._process = os.getpid()

    def token_bytes(self, count: int) -> bytes:
        """Return the next ``count`` bytes.

        Raises:
            LocalError: ``E-RANDOM-REPEATED``, the process was forked: its twin would draw the same.
        """
        if os.getpid() != self._process:
            raise LocalError("E-RANDOM-REPEATED", "a key stream was taken into a forked process")
        whole, rest = divmod(count, len(_ZEROS))
        parts = [self._cipher.update(_ZEROS) for _ in range(whole)]
        parts.append(self._cipher.update(_ZEROS[:rest]))
        return parts[0] if len(parts) == 1 else b"".join(parts)


class NoiseKeys:
    """Makes keys, and remembers in a file the hash of what each was made from.

    Args:
        path: the file; hashes of 32 bytes, one after the other.
        random: of the operating system.

    Raises:
        LocalError: ``E-STATE-DAMAGED``, the file is no list of hashes.
    """

    def __init__(self, path: Path, random: RandomSource) -> None:
        self._path = path
        self._random = random
        data = path.read_bytes() if path.exists() else b""
        if len(data) % HASH_BYTES:
            raise LocalError("E-STATE-DAMAGED", f"{path} is no list of hashes")
        self._used = [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]

    def open_stream(self) -> KeyStream:
        """Return a stream under a new key; the hash of what it was made from is on disk.

        Raises:
            LocalError: ``E-RANDOM-REPEATED``, or ``E-DISK-FULL``; nothing was drawn.
        """
        seed = self._random.token_bytes(SEED_BYTES)
        found = hashlib.sha256(HASH_LABEL + seed).digest()
        if found in self._used:
            raise LocalError("E-RANDOM-REPEATED", "the operating system gave the same random bytes a second time")
        boot = _BOOT_ID.read_bytes() if _BOOT_ID.exists() else b""
        count, process = (number.to_bytes(8, "big") for number in (len(self._used), os.getpid()))
        durable.write(self._path, b"".join((*self._used, found)))
        self._used.append(found)
        return KeyStream(derive(SecretBytes(seed), salt=b"", label=KEY_LABEL, parts=(process, boot, count)))
