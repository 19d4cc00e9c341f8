"""A whole round of suite 1 on the complete graph, computed anew from docs/protocol.md: from what each participant drew
to the sum and the transcript. Plain numbers and bytes; nothing from ``privacy``, ``participant`` or ``coordinator``.
What is otherwise in suite 2 is in :mod:`tests.reference.slow_hybrid`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.reference import slow_masks
from tests.reference.slow_primitives import ed25519_sign, gcm_seal, hkdf, x25519, x25519_public

FIELD = 2**256 + 297
SHARE = 33


def framed(*fields: bytes) -> bytes:
    """Section 4: each field behind its length."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def number(value: int) -> bytes:
    """Section 4: eight bytes, big-endian."""
    return value.to_bytes(8, "big")


def digest(label: str, *fields: bytes) -> bytes:
    """SHA-256 over a label and fields."""
    return hashlib.sha256(framed(b"onlysum/1/" + label.encode(), *fields)).digest()


def sha256(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def derived(secret: bytes, label: str, *parts: bytes, salt: bytes = b"", length: int = 32) -> bytes:
    """Section 3: HKDF under a label."""
    return hkdf(secret, salt=salt, info=framed(b"onlysum/1/" + label.encode(), *parts), length=length)


def split(secret: bytes, threshold: int, points: Sequence[int], drawn: Drawn) -> dict[int, bytes]:
    """Section 3: Shamir's shares, by powers; coefficients of 257 bits are drawn until enough lie below the field."""
    coefficients: list[int] = []
    while len(coefficients) < threshold - 1:
        batch = drawn.take(SHARE * (threshold - 1 - len(coefficients)))
        candidates = [int.from_bytes(batch[at : at + SHARE], "big") % 2**257 for at in range(0, len(batch), SHARE)]
        coefficients += [candidate for candidate in candidates if candidate < FIELD]
    polynomial = [*coefficients, int.from_bytes(secret, "big")][::-1]  # constant term first
    return {x: (sum(c * x**power for power, c in enumerate(polynomial)) % FIELD).to_bytes(SHARE, "big") for x in points}


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Lagrange's formula at zero, one quotient at a time."""
    total = 0
    for x, share in shares.items():
        term = int.from_bytes(share, "big")
        for other in shares:
            if other != x:
                term = term * other * pow(other - x, -1, FIELD) % FIELD
        total += term
    return (total % FIELD).to_bytes(32, "big")


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Section 4: pairs are hashed, an odd node moves up."""
    if len(leaves) == 1:
        return leaves[0]
    pairs = [leaves[at : at + 2] for at in range(0, len(leaves), 2)]
    return merkle_root([digest("merkle-node", *pair) if len(pair) == 2 else pair[0] for pair in pairs])


@dataclass
class Drawn:
    """What a participant drew, in order."""

    data: bytes

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        taken, self.data = self.data[:count], self.data[count:]
        assert len(taken) == count
        return taken


@dataclass
class Member:
    """A participant's secrets in the round."""

    name: str
    identity: bytes
    drawn: Drawn
    update: list[int]
    masking_secret: bytes = b""
    channel_secret: bytes = b""
    seed: bytes = b""
    public: dict[str, Any] = field(default_factory=dict)

    @property
    def masking_key(self) -> bytes:
        """The X25519 key that pairwise masks are agreed with."""
        return derived(self.masking_secret, "masking-key")


def packed(values: Sequence[int], lane: int, *, bits: int = 64) -> list[int]:
    """Section 7: words of so many bits with entries of ``lane`` bits; 0: one entry per word."""
    lanes = bits // lane if lane else 1
    groups = [values[at : at + lanes] for at in range(0, len(values), lanes)]
    return [sum(value << (place * lane) for place, value in enumerate(group)) % 2**bits for group in groups]


class Round:
    """One attempt that completes: everybody of U1, U2 and S answers, and the rest is silence."""

    def __init__(self, vector: Mapping[str, Any]) -> None:
        self.plan = vector["plan"]
        self.plan_hash = sha256(bytes.fromhex(vector["plan_bytes"]))
        self.roster = [one["id"] for one in self.plan["roster"]]
        self.members = {
            name: Member(name, bytes.fromhex(one["identity_secret"]), Drawn(bytes.fromhex(one["drawn"])), one["update"])
            for name, one in vector["participants"].items()
        }
        self.u1, self.u2, self.survivors = vector["u1"], vector["u2"], vector["survivors"]
        self.at = (self.plan_hash, number(vector["round"]), number(vector["attempt"]))
        self.previous = digest("genesis", self.plan_hash)
        self.adapter = digest("adapter", bytes.fromhex(vector["adapter"]))
        self.adv_ctx = digest("advertise-context", *self.at, self.previous, self.adapter)
        self.ctx = b""  # known once U1 is
        self.u2_hash = digest("set", *(name.encode() for name in self.u2))
        self.shares: dict[tuple[str, str], tuple[bytes, bytes]] = {}  # by dealer and holder: of masking secret, of seed
        self.masked: dict[str, bytes] = {}

    def signed(self, label: str, name: str, round_ctx: bytes, body: bytes) -> str:
        """Section 4: the signature of a framed string."""
        version = number(self.plan["protocol_version"])
        message = framed(b"onlysum/1/" + label.encode(), version, *self.at, name.encode(), round_ctx, body)
        return ed25519_sign(self.members[name].identity, message).hex()

    def played(self) -> dict[str, Any]:
        """Return all that is said, as the vectors have it."""
        said: dict[str, Any] = {
            "plan_hash": self.plan_hash.hex(),
            "previous_transcript": self.previous.hex(),
            "adapter_hash": self.adapter.hex(),
            "adv_ctx": self.adv_ctx.hex(),
            "advertisements": {name: self.advertisement(self.members[name]) for name in self.u1},
        }
        bodies = [(name, bytes.fromhex(said["advertisements"][name]["body"])) for name in self.u1]
        fields = [part for name, body in bodies for part in (name.encode(), sha256(body))]
        self.ctx = digest("round-context", self.adv_ctx, *fields)
        said |= {"round_ctx": self.ctx.hex(), "u2_hash": self.u2_hash.hex()}
        said["bundles"] = {name: self.bundle(self.members[name]) for name in self.u2}
        said["uploads"] = {name: self.upload(self.members[name]) for name in self.survivors}
        agreed = digest(
            "survivors",
            self.u2_hash,
            *(part for name in self.survivors for part in (name.encode(), sha256(self.masked[name]))),
        )
        said["signatures"] = {name: self.signed("AGREE_SURVIVORS", name, self.ctx, agreed) for name in self.survivors}
        said["releases"] = {name: self.release(name) for name in self.survivors}
        said |= self.result(agreed)
        return said

    # --- each phase ---

    def advertisement(self, one: Member) -> dict[str, str]:
        """Section 5.1."""
        one.masking_secret, one.channel_secret = one.drawn.take(32), one.drawn.take(32)
        (masking, channel), nonce = self.public_keys(one), one.drawn.take(16)
        body = framed(*self.at, self.previous, self.adapter, one.name.encode(), masking, channel, nonce)
        one.public = {"masking": masking, "channel": channel}
        return {
            "masking_key": masking.hex(),
            "channel_key": channel.hex(),
            "nonce": nonce.hex(),
            "body": body.hex(),
            "signature": self.signed("ADVERTISE_KEYS", one.name, b"", body),
        }

    def public_keys(self, one: Member) -> tuple[bytes, bytes]:
        """Section 3: the masking key and the channel key."""
        return x25519_public(one.masking_key), x25519_public(one.channel_secret)

    def pair(self, _one: Member, _peer: str) -> tuple[bytes, bytes]:
        """Section 3.1: what is sealed beside the shares, and its commitment; nothing in suite 1."""
        return b"", b""

    def bundle(self, one: Member) -> dict[str, Any]:
        """Section 5.2."""
        one.seed = one.drawn.take(32)
        threshold = self.plan["shamir_threshold"]
        points = {name: self.roster.index(name) + 1 for name in self.u1}
        masking = split(one.masking_secret, threshold, list(points.values()), one.drawn)
        seeds = split(one.seed, threshold, list(points.values()), one.drawn)
        self.shares |= {(one.name, name): (masking[x], seeds[x]) for name, x in points.items()}
        boxes = {
            name: b"" if name == one.name else self.sealed(one, name, masking[x] + seeds[x])
            for name, x in points.items()
        }
        pairs = {name: self.pair(one, name) for name in points}
        leaves, hashes, sealed = [], [], []
        for name, x in points.items():
            box, (pair, promised) = boxes[name], pairs[name]
            leaf = [
                sha256(box + pair),
                *(
                    self.share_hash(kind, one.name, name, s)
                    for kind, s in (("masking", masking[x]), ("seed", seeds[x]))
                ),
            ]
            leaf += [promised] if promised else []
            hashes.append(digest("merkle-leaf", name.encode(), *leaf))
            leaves.append({"recipient": name, "hashes": [part.hex() for part in leaf]})
            sealed.append((box + pair).hex())
        commitment = digest("seed-commitment", self.ctx, one.name.encode(), one.seed)
        root = merkle_root(hashes)
        return {
            "leaves": leaves,
            "sealed": sealed,
            "root": root.hex(),
            "seed_commitment": commitment.hex(),
            "signature": self.signed("SHARE_KEYS", one.name, self.ctx, framed(root, commitment)),
        }

    def share_hash(self, kind: str, dealer: str, holder: str, share: bytes) -> bytes:
        """Section 4."""
        return digest("share-hash", kind.encode(), self.ctx, dealer.encode(), holder.encode(), share)

    def sealed(self, one: Member, peer: str, plaintext: bytes) -> bytes:
        """Section 3."""
        agreed = x25519(one.channel_secret, self.members[peer].public["channel"])
        key = derived(agreed, "channel", one.name.encode(), peer.encode(), salt=self.ctx)
        nonce = one.drawn.take(12)
        aad = framed(b"onlysum/1/sealed-share", self.ctx, one.name.encode(), peer.encode())
        return nonce + gcm_seal(key, nonce, plaintext, aad)

    def upload(self, one: Member) -> dict[str, str]:
        """Sections 5.3 and 7."""
        bits = self.plan["encoding"]["ring_bits"]
        parts = []
        for stream, entries in self.streams(one.update):
            weight = next(member["weight"] for member in self.plan["roster"] if member["id"] == one.name)
            words = self.packed([value * weight for value in entries])
            masked = slow_masks.masked(words, bits=bits, terms=list(self.terms(one, stream)))
            parts += [word.to_bytes(bits // 8, "little") for word in masked]
        self.masked[one.name] = b"".join(parts)
        body = framed(self.u2_hash, sha256(self.masked[one.name]), number(len(self.masked[one.name])))
        return {
            "masked": self.masked[one.name].hex(),
            "masked_hash": sha256(self.masked[one.name]).hex(),
            "signature": self.signed("COLLECT_MASKED", one.name, self.ctx, body),
        }

    def streams(self, values: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
        """The streams of the layout."""
        start = 0
        for one in self.plan["recipe"]["turns"][0]["sums"]:
            yield one["name"], list(values[start : start + one["length"]])
            start += one["length"]

    def packed(self, values: Sequence[int]) -> list[int]:
        """Section 7: words of the ring, several entries in each if the plan packs lanes."""
        return packed(values, self.plan["encoding"]["lane_bits"], bits=self.plan["encoding"]["ring_bits"])

    def unpacked(self, words: Sequence[int], entries: int) -> list[int]:
        """Section 7: the lowest lane first, each centred."""
        bits, lane = self.plan["encoding"]["ring_bits"], self.plan["encoding"]["lane_bits"]
        width = lane or bits
        found = []
        for word in words:
            rest = word
            for _ in range(bits // width):
                value = (rest + 2 ** (width - 1)) % 2**width - 2 ** (width - 1)
                found.append(value)
                rest = (rest - value) % 2**bits >> width
        return found[:entries]

    def terms(self, one: Member, stream: str) -> Iterator[tuple[bytes, int]]:
        """The keys of a stream, with signs."""
        yield derived(one.seed, "self-mask", one.name.encode(), stream.encode(), salt=self.ctx), 1
        for peer in self.u2:
            if peer != one.name:
                yield self.pairwise(one, peer, stream), 1 if one.name < peer else -1

    def pairwise(self, one: Member, peer: str, stream: str) -> bytes:
        """Section 3."""
        agreed = x25519(one.masking_key, self.members[peer].public["masking"])
        ends = sorted((one.name, peer))
        return derived(agreed, "pairwise-mask", *(end.encode() for end in ends), stream.encode(), salt=self.ctx)

    def release(self, name: str) -> dict[str, Any]:
        """Section 5.5."""
        dropped = [peer for peer in self.u2 if peer not in self.survivors]
        seeds = [(owner, self.shares[owner, name][1]) for owner in self.survivors]
        masking = [(owner, self.shares[owner, name][0]) for owner in dropped]
        return {
            "seed_shares": {owner: share.hex() for owner, share in seeds},
            "masking_shares": {owner: share.hex() for owner, share in masking},
        }

    def result(self, agreed: bytes) -> dict[str, Any]:
        """Sections 5.5 and 5.6: from the first T holders' shares alone."""
        holders = self.survivors[: self.plan["shamir_threshold"]]
        points = {name: self.roster.index(name) + 1 for name in holders}
        bits = self.plan["encoding"]["ring_bits"]
        width = bits // 8
        total, words, start = [], b"", 0
        for stream, entries in self.streams(
            [0] * sum(one["length"] for one in self.plan["recipe"]["turns"][0]["sums"])
        ):
            count = len(self.packed(entries))
            added = [0] * count
            for name in self.survivors:
                mine = self.masked[name][start : start + count * width]
                for at in range(count):
                    added[at] += int.from_bytes(mine[at * width : (at + 1) * width], "little")
            cleared = slow_masks.masked(added, bits=bits, terms=list(self.known(points, stream)))
            total += self.unpacked(cleared, len(entries))
            words += b"".join(word.to_bytes(width, "little") for word in cleared)
            start += count * width
        sum_hash = digest("sum", words)
        transcript = digest("transcript", self.previous, self.ctx, agreed, sum_hash)
        return {"sum": total, "sum_hash": sum_hash.hex(), "transcript": transcript.hex()}

    def known(self, points: Mapping[str, int], stream: str) -> Iterator[tuple[bytes, int]]:
        """The mask streams that the released shares rebuild, with the signs that remove them."""
        for owner in self.u2:
            kind = 1 if owner in self.survivors else 0
            rebuilt = combine({x: self.shares[owner, name][kind] for name, x in points.items()})
            if kind:
                yield derived(rebuilt, "self-mask", owner.encode(), stream.encode(), salt=self.ctx), -1
            else:
                dropout = Member(owner, b"", Drawn(b""), [], masking_secret=rebuilt)
                for peer in self.survivors:
                    yield self.pairwise(dropout, peer, stream), 1 if owner < peer else -1
