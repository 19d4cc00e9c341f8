"""What is otherwise in a round of suite 2, computed anew from section 3.1 of docs/protocol.md."""

from __future__ import annotations

from tests.reference import slow_kem
from tests.reference.slow_primitives import gcm_open, gcm_seal, x25519, x25519_public
from tests.reference.slow_round import Member, Round, derived, digest, framed

KEM_BYTES = 1088  # of a ciphertext


class HybridRound(Round):
    """A round in which every agreement is by X25519 and by ML-KEM-768."""

    given: dict[tuple[str, str], bytes]  # what the lower id of a pair sealed for the higher

    def public_keys(self, one: Member) -> tuple[bytes, bytes]:
        """X25519's part first."""
        masking = x25519_public(one.masking_key) + slow_kem.public_key(masking_kem(one))
        return masking, x25519_public(channel_key(one)) + slow_kem.public_key(channel_kem(one))

    def sealed(self, one: Member, peer: str, plaintext: bytes) -> bytes:
        """A pair of shares, under the channel keys."""
        theirs = self.members[peer].public["channel"]
        return self.boxed(one, peer, x25519(channel_key(one), theirs[:32]), theirs[32:], ("channel", plaintext))

    def pair(self, one: Member, peer: str) -> tuple[bytes, bytes]:
        """The pair secret, under the masking keys, from the lower id alone."""
        if peer <= one.name:
            return b"", b""
        theirs, secret = self.members[peer].public["masking"], self.pair_secret(one, peer)
        agreed = x25519(one.masking_key, theirs[:32])
        self.given = getattr(self, "given", {})
        self.given[one.name, peer] = self.boxed(one, peer, agreed, theirs[32:], ("pair-channel", secret))
        commitment = digest("pair-commitment", self.ctx, one.name.encode(), peer.encode(), secret)
        return self.given[one.name, peer], commitment

    def boxed(self, one: Member, peer: str, agreed: bytes, kem: bytes, what: tuple[str, bytes]) -> bytes:
        """Ciphertext of the KEM, nonce, box."""
        label, plaintext = what
        shared, ciphertext = slow_kem.encapsulated(kem, one.drawn.take(32))
        ends = (one.name.encode(), peer.encode())
        key = derived(agreed + shared, label, *ends, ciphertext, salt=self.ctx)
        nonce = one.drawn.take(12)
        return ciphertext + nonce + gcm_seal(key, nonce, plaintext, self.associated(*ends))

    def associated(self, *ends: bytes) -> bytes:
        """What a sealed message authenticates besides."""
        return framed(b"onlysum/1/sealed-share", self.ctx, *ends)

    def pair_secret(self, lower: Member, higher: str) -> bytes:
        """r_uv."""
        return derived(lower.masking_secret, "pair-secret", lower.name.encode(), higher.encode(), salt=self.ctx)

    def opened(self, lower: str, one: Member) -> bytes:
        """r_uv as the higher id finds it, or whoever has rebuilt its masking secret."""
        box = self.given[lower, one.name]
        ciphertext, nonce, rest = box[:KEM_BYTES], box[KEM_BYTES : KEM_BYTES + 12], box[KEM_BYTES + 12 :]
        agreed = x25519(one.masking_key, self.members[lower].public["masking"][:32])
        shared = slow_kem.decapsulated(masking_kem(one), ciphertext)
        ends = (lower.encode(), one.name.encode())
        key = derived(agreed + shared, "pair-channel", *ends, ciphertext, salt=self.ctx)
        return gcm_open(key, nonce, rest, self.associated(*ends))

    def pairwise(self, one: Member, peer: str, stream: str) -> bytes:
        """The key of a pairwise stream."""
        lower, higher = sorted((one.name, peer))
        secret = self.pair_secret(one, peer) if one.name == lower else self.opened(peer, one)
        agreed = x25519(one.masking_key, self.members[peer].public["masking"][:32])
        ends = (lower.encode(), higher.encode())
        seed = derived(agreed + secret, "pairwise-seed", *ends, salt=self.ctx)
        return derived(seed, "pairwise-mask", *ends, stream.encode(), salt=self.ctx)


def masking_kem(one: Member) -> bytes:
    """The seed of the masking KEM key."""
    return derived(one.masking_secret, "masking-kem", length=64)


def channel_key(one: Member) -> bytes:
    """The X25519 key of the channel."""
    return derived(one.channel_secret, "channel-key")


def channel_kem(one: Member) -> bytes:
    """The seed of the channel's KEM key."""
    return derived(one.channel_secret, "channel-kem", length=64)
