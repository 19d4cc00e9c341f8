"""Keys: what is agreed, derived, signed and sealed.

Guarantees: every derivation is salted by the round's context and carries a label of its own; every signed string is
length-prefixed, so that no two different lists of fields give the same bytes; small-order Ed25519 keys and low-order
X25519 results are refused; nothing here draws randomness.
Leaves to others: which key is whose (``plan``), and when keys are dropped (``round``).
Source: docs/protocol.md sections 3 and 4; RFC 5869, RFC 7748, RFC 8032; primitives from ``cryptography``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privacy.secret import SecretBytes

# Domain separation: every label in one place (docs/protocol.md section 4).
LABEL_MASKING_KEY: Final = b"onlysum/1/masking-key"
LABEL_PAIRWISE_MASK: Final = b"onlysum/1/pairwise-mask"
LABEL_SELF_MASK: Final = b"onlysum/1/self-mask"
LABEL_CHANNEL: Final = b"onlysum/1/channel"
# Of suite 2 alone:
LABEL_MASKING_KEM: Final = b"onlysum/1/masking-kem"
LABEL_CHANNEL_KEY: Final = b"onlysum/1/channel-key"
LABEL_CHANNEL_KEM: Final = b"onlysum/1/channel-kem"
LABEL_PAIR_SECRET: Final = b"onlysum/1/pair-secret"
LABEL_PAIR_CHANNEL: Final = b"onlysum/1/pair-channel"
LABEL_PAIRWISE_SEED: Final = b"onlysum/1/pairwise-seed"

KEY_BYTES: Final = 32  # X25519, Ed25519 and AES-256 keys
SIGNATURE_BYTES: Final = 64
NONCE_BYTES: Final = 12  # AES-GCM
TAG_BYTES: Final = 16
_LENGTH_BYTES: Final = 4  # prefix of each framed field, big-endian
_SHORT: Final = 256  # most fields are shorter
_SHORT_PREFIXES: Final = tuple(size.to_bytes(_LENGTH_BYTES, "big") for size in range(_SHORT))

_P25519: Final = 2**255 - 19
_TOP_BIT: Final = 0x7F

_D25519: Final = -121665 * pow(121666, -1, _P25519) % _P25519  # of edwards25519, RFC 8032 section 5.1

# y-coordinates of the eight small-order points of edwards25519: 1 (order 1), -1 (order 2), 0 (order 4) and two of order
# 8. Encodings that are not canonical (y from p on) are refused before the list is asked.
_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y: Final = frozenset({0, 1, _P25519 - 1, _ORDER_8, _P25519 - _ORDER_8})

# u-coordinates of all points of curve25519 and its twist whose order divides 8: with each of them every key agrees on
# zero (RFC 7748 section 6.1 asks to look for that).
_LOW_ORDER_U: Final = frozenset(
    u.to_bytes(32, "little")
    for u in (
        0,
        1,
        _P25519 - 1,
        0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    )
)


def framed(*fields: bytes) -> bytes:
    """Return the injective encoding of a list of byte strings: each behind its length in 4 bytes."""
    parts: list[bytes] = []
    for field in fields:  # rounds of hundreds of participants come here millions of times
        size = len(field)
        parts.append(_SHORT_PREFIXES[size] if size < _SHORT else length_prefix(size))
        parts.append(field)
    return b"".join(parts)


def length_prefix(size: int) -> bytes:
    """Return what stands before a framed field of ``size`` bytes."""
    return size.to_bytes(_LENGTH_BYTES, "big")


def number(value: int) -> bytes:
    """Return the 8-byte big-endian form in which integers enter a framed string."""
    return value.to_bytes(8, "big")


@lru_cache(maxsize=8192)
def is_safe_identity_key(public: bytes) -> bool:
    """Return whether an Ed25519 public key is the canonical encoding of a point that is not of small order."""
    if len(public) != KEY_BYTES:
        return False
    y = int.from_bytes(public[:31] + bytes([public[31] & _TOP_BIT]), "little")
    if y >= _P25519 or y in _SMALL_ORDER_Y:
        return False
    # RFC 8032 section 5.1.3: x^2 = (y^2 - 1) / (d y^2 + 1) must be a square; the denominator is never 0, and dividing
    # and multiplying by it are the same to Euler's criterion.
    square = y * y
    return pow((square - 1) * (_D25519 * square + 1), (_P25519 - 1) // 2, _P25519) == 1


def canonical_x25519(public: bytes) -> bytes:
    """Return the key as X25519 reads it (RFC 7748 section 5): top bit cleared, reduced; equal keys are equal bytes."""
    u = int.from_bytes(public[:31] + bytes([public[31] & _TOP_BIT]), "little") % _P25519
    return u.to_bytes(KEY_BYTES, "little")


def is_low_order_x25519(public: bytes) -> bool:
    """Return whether an X25519 public key agrees on zero with every other."""
    return canonical_x25519(public) in _LOW_ORDER_U


class SigningKey:
    """An Ed25519 identity key, made from 32 private bytes."""

    __slots__ = ("_key", "public")

    def __init__(self, private: SecretBytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(private.reveal())
        self.public: bytes = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of a framed string."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey({self.public.hex()[:16]}...)"


@lru_cache(maxsize=8192)
def _public(public: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public)


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether an Ed25519 signature verifies under a key that is not of small order."""
    if len(signature) != SIGNATURE_BYTES or not is_safe_identity_key(public):
        return False
    try:
        _public(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class AgreementKey:
    """An X25519 key of one round: for masking (derived from the masking secret) or for the channel."""

    __slots__ = ("_key", "public")

    def __init__(self, private: SecretBytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private.reveal())
        self.public: bytes = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def for_masking(cls, masking_secret: SecretBytes) -> AgreementKey:
        """Return the masking key of a masking secret: its private bytes are HKDF(m_u)."""
        return cls(derive(masking_secret, salt=b"", label=LABEL_MASKING_KEY))

    def agree(self, peer: bytes) -> SecretBytes:
        """Return the shared secret with a peer's public key.

        Raises:
            ValueError: the peer's key is of the wrong length or of low order (the result would be zero).
        """
        return SecretBytes(self._key.exchange(X25519PublicKey.from_public_bytes(peer)))

    def __repr__(self) -> str:
        return f"AgreementKey({self.public.hex()[:16]}...)"


def derive(
    secret: SecretBytes, *, salt: bytes, label: bytes, parts: tuple[bytes, ...] = (), length: int = KEY_BYTES
) -> SecretBytes:
    """Return 32 bytes, or as many as asked for, of HKDF-SHA256 under a label and framed parts (RFC 5869)."""
    kdf = HKDF(algorithm=SHA256(), length=length, salt=salt, info=framed(label, *parts))
    return SecretBytes(kdf.derive(secret.reveal()))


def pairwise_stream_key(agreed: SecretBytes, *, round_ctx: bytes, pair: tuple[str, str], stream: str) -> SecretBytes:
    """Return the AES key of the mask stream of two participants; the order of ``pair`` does not matter."""
    lower, higher = sorted(pair)
    return derive(
        agreed, salt=round_ctx, label=LABEL_PAIRWISE_MASK, parts=(lower.encode(), higher.encode(), stream.encode())
    )


def self_stream_key(seed: SecretBytes, *, round_ctx: bytes, participant: str, stream: str) -> SecretBytes:
    """Return the AES key of a participant's own mask stream."""
    return derive(seed, salt=round_ctx, label=LABEL_SELF_MASK, parts=(participant.encode(), stream.encode()))


def channel_key(
    agreed: SecretBytes,
    *,
    round_ctx: bytes,
    sender: str,
    recipient: str,
    label: bytes = LABEL_CHANNEL,
    ciphertext: bytes = b"",
) -> SecretBytes:
    """Return the directional AES-256-GCM key under which ``sender`` seals for ``recipient``.

    A KEM ciphertext that part of the secret came with enters the key.
    """
    fields = (sender.encode(), recipient.encode(), ciphertext)
    return derive(agreed, salt=round_ctx, label=label, parts=fields if ciphertext else fields[:2])


def seal(key: SecretBytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return nonce, ciphertext and tag of AES-256-GCM; ``nonce`` is 12 fresh random bytes."""
    return nonce + AESGCM(key.reveal()).encrypt(nonce, plaintext, aad)


def unseal(key: SecretBytes, sealed: bytes, aad: bytes) -> SecretBytes:
    """Return the plaintext of :func:`seal`.

    Raises:
        ValueError: too short, or it does not authenticate.
    """
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise ValueError("sealed bytes are too short")
    try:
        return SecretBytes(AESGCM(key.reveal()).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad))
    except InvalidTag:
        raise ValueError("sealed bytes do not authenticate") from None
