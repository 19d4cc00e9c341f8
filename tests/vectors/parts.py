"""Vectors of parts: shares of secrets, proofs of membership, keys that are refused."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np

from privacy.secagg import shamir
from privacy.secagg.fixed_point import Ring
from privacy.secagg.merkle import MerkleTree
from privacy.secret import SecretBytes
from tests.vectors.rounds import RecordingSource

SIZES: Final = (1, 2, 3, 5, 8)  # of Merkle trees
P: Final = 2**255 - 19


def _bytes(what: str) -> bytes:
    return hashlib.sha256(b"onlysum vectors: " + what.encode()).digest()


def shares() -> dict[str, Any]:
    """Secrets, what their dealer drew, and the shares; ``_bad_`` cases must not rebuild."""
    cases: list[dict[str, Any]] = []
    for threshold, points in ((2, [1, 2, 3]), (3, [1, 2, 3, 4, 5]), (4, [2, 3, 5, 7, 11])):
        for secret in (_bytes(f"secret {threshold}"), bytes(32), b"\xff" * 32):
            source = RecordingSource(f"shares {threshold}")
            found = shamir.split(SecretBytes(secret), threshold=threshold, points=points, random=source)
            cases.append(
                {
                    "case": f"{threshold} of {len(points)}",
                    "secret": secret.hex(),
                    "drawn": source.drawn.hex(),
                    "shares": {str(x): share.reveal().hex() for x, share in found.items()},
                }
            )
    cases += [{"case": f"_bad_ {why}", "shares": found} for why, found in _bad_shares(cases[0]["shares"]).items()]
    return {
        "what": "Shamir's shares over 2^256 + 297; all shares of a case, or the first ones, rebuild",
        "cases": cases,
    }


def _bad_shares(good: dict[str, str]) -> dict[str, dict[str, str]]:
    one, two = good["1"], good["2"]
    return {
        "a share of the field's size": {"1": shamir.FIELD.to_bytes(33, "big").hex(), "2": two},
        "a share of 32 bytes": {"1": one[2:], "2": two},
        "a share of 34 bytes": {"1": "00" + one, "2": two},
        # A line that is p - 1 everywhere, at zero too.
        "a secret of more than 256 bits": {
            "1": (shamir.FIELD - 1).to_bytes(33, "big").hex(),
            "2": (shamir.FIELD - 1).to_bytes(33, "big").hex(),
        },
        "point zero": {"0": one, "2": two},
    }


def proofs() -> dict[str, Any]:
    """Leaves, places, proofs and roots; ``_bad_`` cases must not verify."""
    cases: list[dict[str, Any]] = []
    for size in SIZES:
        leaves = [_bytes(f"leaf {index} of {size}") for index in range(size)]
        tree = MerkleTree.over(leaves)
        for index in range(size):
            proof = [one.hex() for one in tree.proof(index)]
            case = {"size": size, "index": index, "leaf": leaves[index].hex(), "proof": proof, "root": tree.root.hex()}
            cases.append({"case": f"leaf {index} of {size}", **case})
            cases += [{"case": f"_bad_ {why}, leaf {index} of {size}", **case, **of} for why, of in _bad_proofs(case)]
    return {"what": "Merkle proofs from leaf to root; an empty sibling where a node moves up", "cases": cases}


def _bad_proofs(case: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    other, longer = _bytes("another leaf").hex(), [*case["proof"], _bytes("sibling").hex()]
    bad: list[tuple[str, dict[str, Any]]] = [
        ("another leaf", {"leaf": other}),
        ("a proof too long", {"proof": longer}),
        ("a place outside", {"index": case["size"]}),
    ]
    if case["proof"]:
        bad += [("a proof too short", {"proof": case["proof"][:-1]}), ("no proof", {"proof": []})]
    return bad


def refused_keys() -> dict[str, Any]:
    """Public keys that nobody may use: small order, low order, not canonical, no point."""
    small = (1, P - 1, 0, int("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7", 16))
    identity = {f"small order, y = {y:x}": y.to_bytes(32, "little") for y in (*small, P - small[3])}
    identity |= {
        "y = p + 2, not reduced": (P + 2).to_bytes(32, "little"),
        "y = 2, no point": (2).to_bytes(32, "little"),
        "31 bytes": bytes(31),
    }
    orders = (0, 1, P - 1, int("b8495f16056286fdb1329ceb8d09da6ac49ff1fae35616aeb8413b7c7aebe0", 16))
    agreement = {f"low order, u = {u:x}": u.to_bytes(32, "little") for u in orders}
    agreement |= {f"low order, u = {u:x}, top bit set": (u | 1 << 255).to_bytes(32, "little") for u in orders}
    return {
        "what": "Ed25519 identity keys and X25519 keys that are refused",
        "cases": [
            *({"case": f"_bad_ {why}", "identity_key": key.hex()} for why, key in identity.items()),
            *({"case": f"_bad_ {why}", "agreement_key": key.hex()} for why, key in agreement.items()),
        ],
    }


def lanes() -> dict[str, Any]:
    """Entries and the words that they are packed into; ``_bad_`` words have bits where no entry is."""
    cases: list[dict[str, Any]] = []
    for bits in (16, 21):
        ring, half = Ring(bits=64, lane_bits=bits), 1 << (bits - 1)
        entries = [half - 1, -half, -1, 0, 1, -2, half - 1]
        words = ring.encode(np.array(entries, dtype=np.int64))
        case = {"lane_bits": bits, "entries": entries, "words": bytes(ring.to_bytes(words)).hex()}
        cases.append({"case": f"{bits} bits", **case})
        for why, word, change in (
            ("an entry behind the last", -1, 1 << len(entries) % ring.lanes * bits),
            *_above(bits),
        ):
            stray = words.copy()
            stray[word] ^= np.uint64(change)
            cases.append({"case": f"_bad_ {why}, {bits} bits", **case, "words": bytes(ring.to_bytes(stray)).hex()})
    return {
        "what": "packed lanes of 64-bit words, lowest first, negative entries borrowing from the next",
        "cases": cases,
    }


def _above(bits: int) -> list[tuple[str, int, int]]:
    return [("a bit above the lanes", 0, 1 << 63)] if 64 % bits else []
