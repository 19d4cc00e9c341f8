"""Slow, independent primitives in Python integers: what the fast ones of the library are compared with.

Nothing here is constant time, and nothing comes from ``privacy``. The hashes are ``hashlib``'s; AES is the library's,
one block at a time.
Source: RFC 5869, RFC 7748 section 5, RFC 8032 section 5.1, SP 800-38D sections 6.3 to 6.5.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
BASE_Y = 4 * pow(5, -1, P) % P


def hkdf(secret: bytes, *, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256."""
    extracted = hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()
    out, block = b"", b""
    for counter in range(1, 256):
        if len(out) >= length:
            break
        block = hmac.new(extracted, block + info + bytes([counter]), hashlib.sha256).digest()
        out += block
    return out[:length]


def x25519(scalar: bytes, u: bytes) -> bytes:
    """The Montgomery ladder."""
    k = int.from_bytes(scalar, "little") & ~7 & ~(1 << 255) | 1 << 254
    x1 = int.from_bytes(u, "little") % 2**255 % P
    x2, z2, x3, z3, swapped = 1, 0, x1, 1, 0
    for bit in range(254, -1, -1):
        now = k >> bit & 1
        if now != swapped:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swapped = now
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb = d * a, c * b
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        e = a * a - b * b
        x2, z2 = a * a * b * b % P, e * (a * a + 121665 * e) % P
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, -1, P) % P).to_bytes(32, "little")


def x25519_public(scalar: bytes) -> bytes:
    """The public key of 32 private bytes."""
    return x25519(scalar, (9).to_bytes(32, "little"))


Point = tuple[int, int]


def _x_of(y: int, sign: int) -> int:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P:
        raise ValueError("no point of the curve")
    return P - x if x & 1 != sign else x


def _add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    both = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + both, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - both, -1, P) % P,
    )


def _times(scalar: int, point: Point) -> Point:
    found: Point = (0, 1)
    while scalar:
        if scalar & 1:
            found = _add(found, point)
        point, scalar = _add(point, point), scalar >> 1
    return found


_BASE: Point = (_x_of(BASE_Y, 0), BASE_Y)


def _encoded(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def _hashed(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def ed25519_sign(secret: bytes, message: bytes) -> bytes:
    """The signature under 32 private bytes."""
    expanded = hashlib.sha512(secret).digest()
    a = int.from_bytes(expanded[:32], "little") & ~7 & ~(1 << 255) | 1 << 254
    public = _encoded(_times(a, _BASE))
    r = _hashed(expanded[32:], message) % ORDER
    commitment = _encoded(_times(r, _BASE))
    s = (r + _hashed(commitment, public, message) * a) % ORDER
    return commitment + s.to_bytes(32, "little")


def aes(key: bytes, block: bytes) -> bytes:
    """One block of AES-256."""
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(block)


def gcm_seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Ciphertext and tag of AES-256-GCM with a nonce of 12 bytes."""
    blocks = range(-(-len(plaintext) // 16))
    stream = b"".join(aes(key, nonce + (number + 2).to_bytes(4, "big")) for number in blocks)
    sealed = bytes(a ^ b for a, b in zip(plaintext, stream, strict=False))
    lengths = (8 * len(aad)).to_bytes(8, "big") + (8 * len(sealed)).to_bytes(8, "big")
    tag = _ghash(aes(key, bytes(16)), _padded(aad) + _padded(sealed) + lengths)
    first = int.from_bytes(aes(key, nonce + (1).to_bytes(4, "big")), "big")
    return sealed + (tag ^ first).to_bytes(16, "big")


def gcm_open(key: bytes, nonce: bytes, box: bytes, aad: bytes) -> bytes:
    """The plaintext of :func:`gcm_seal`, or ``ValueError``."""
    plaintext = gcm_seal(key, nonce, box[:-16], b"")[:-16]  # the same key stream again
    if gcm_seal(key, nonce, plaintext, aad) != box:
        raise ValueError("sealed bytes do not authenticate")
    return plaintext


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def _ghash(key: bytes, data: bytes) -> int:
    h, total = int.from_bytes(key, "big"), 0
    for start in range(0, len(data), 16):
        total = _multiplied(total ^ int.from_bytes(data[start : start + 16], "big"), h)
    return total


def _multiplied(x: int, y: int) -> int:
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product
