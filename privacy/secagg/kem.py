"""ML-KEM-768: a key pair from a seed, encapsulation, decapsulation.

Guarantees: keys come from a 64-byte seed, never from the library's own generator; a public key that is not the
canonical encoding of ML-KEM-768 is refused; a ciphertext of the right length always decapsulates (FIPS 203 rejects
implicitly: a changed one gives an unrelated secret), so callers must authenticate what they derive from it.
Leaves to others: combining with X25519 (``suites``). Encapsulation draws the library's own randomness, which offers no
other way: the one exception in this package to randomness as an argument (docs/protocol.md section 3.1).
Source: FIPS 203; primitives from ``cryptography``.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from privacy.secret import SecretBytes

SEED_BYTES: Final = 64  # d and z of FIPS 203
PUBLIC_BYTES: Final = 1184
CIPHERTEXT_BYTES: Final = 1088


class KemKey:
    """A private ML-KEM-768 key, made from a 64-byte seed."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: SecretBytes) -> None:
        self._key = MLKEM768PrivateKey.from_seed_bytes(seed.reveal())
        self.public: bytes = self._key.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> SecretBytes:
        """Return the 32-byte secret of a ciphertext; of a changed one, an unrelated secret.

        Raises:
            ValueError: the ciphertext is of the wrong length.
        """
        return SecretBytes(self._key.decapsulate(ciphertext))

    def __repr__(self) -> str:
        return f"KemKey({self.public.hex()[:16]}...)"


class KemPublicKey:
    """A peer's public ML-KEM-768 key."""

    __slots__ = ("_key",)

    def __init__(self, public: bytes) -> None:
        """Parse a key.

        Raises:
            ValueError: it is of the wrong length, or a coefficient is not reduced (FIPS 203 section 7.2).
        """
        self._key = MLKEM768PublicKey.from_public_bytes(public)

    def encapsulate(self) -> tuple[SecretBytes, bytes]:
        """Return a fresh 32-byte secret and the 1088-byte ciphertext that carries it."""
        secret, ciphertext = self._key.encapsulate()
        return SecretBytes(secret), ciphertext
