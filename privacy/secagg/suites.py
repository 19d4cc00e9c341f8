"""The suites of key agreement: suite 1 is X25519, suite 2 is X25519 and ML-KEM-768 side by side.

Guarantees: in suite 2 every secret that two participants share is derived from both parts, so that whoever breaks only
one of them learns nothing; the private parts are derived from one secret under labels of their own, so that neither
shows the other. A peer's key is refused if it is of another suite, of low order, or no ML-KEM key.
Leaves to others: what is sealed (``dealing``, ``pairing``), and which suite a plan names (``plan``).
Source: docs/protocol.md section 3.1; for deriving from both secrets and the ciphertext, NIST SP 800-56C and Giacon,
Heuer and Poettering 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from privacy.interfaces import RandomSource
from privacy.secagg import hashes, kem, keys
from privacy.secagg.kem import KemKey, KemPublicKey
from privacy.secagg.keys import KEY_BYTES, NONCE_BYTES, TAG_BYTES, AgreementKey
from privacy.secret import SecretBytes

Suite = Literal[1, 2]
CLASSICAL: Final = 1
HYBRID: Final = 2

# By suite, in bytes.
PUBLIC_KEY_BYTES: Final = {CLASSICAL: KEY_BYTES, HYBRID: KEY_BYTES + kem.PUBLIC_BYTES}  # X25519, then ML-KEM-768
SEALING_BYTES: Final = {  # what sealing adds to a plaintext: a KEM's ciphertext, a nonce and a tag
    CLASSICAL: NONCE_BYTES + TAG_BYTES,
    HYBRID: kem.CIPHERTEXT_BYTES + NONCE_BYTES + TAG_BYTES,
}
PAIR_SECRET_BYTES: Final = 32  # of suite 2, which the lower id of a pair gives the higher


@dataclass(frozen=True, slots=True)
class ClassicalLink:
    """What one participant shares with a peer in suite 1: the same in both directions."""

    ciphertext_bytes: ClassVar[int] = 0
    agreed: SecretBytes  # by X25519

    def send(self) -> tuple[bytes, SecretBytes]:
        """Return nothing to send along, and the shared secret."""
        return b"", self.agreed

    def receive(self, _ciphertext: bytes) -> SecretBytes:
        """Return the shared secret."""
        return self.agreed


@dataclass(frozen=True, slots=True)
class HybridLink:
    """What one participant shares with a peer in suite 2: fresh for each message."""

    ciphertext_bytes: ClassVar[int] = kem.CIPHERTEXT_BYTES
    agreed: SecretBytes  # by X25519
    mine: KemKey
    theirs: KemPublicKey

    def send(self) -> tuple[bytes, SecretBytes]:
        """Return a KEM ciphertext to send along, and the two secrets, X25519's first."""
        secret, ciphertext = self.theirs.encapsulate()
        return ciphertext, joined(self.agreed, secret)

    def receive(self, ciphertext: bytes) -> SecretBytes:
        """Return the two secrets of a message with this KEM ciphertext; of a changed one, others.

        Raises:
            ValueError: it is of the wrong length.
        """
        return joined(self.agreed, self.mine.decapsulate(ciphertext))


Link = ClassicalLink | HybridLink


@dataclass(frozen=True, slots=True)
class ClassicalKeys:
    """A key pair of an attempt in suite 1."""

    agreement: AgreementKey

    @property
    def public(self) -> bytes:
        """The 32 bytes that are advertised."""
        return self.agreement.public

    def link(self, peer: bytes) -> Link:
        """Return what is shared with a peer's public key.

        Raises:
            ValueError: the key is of another suite or of low order.
        """
        return ClassicalLink(self.agreement.agree(peer))


@dataclass(frozen=True, slots=True)
class HybridKeys:
    """A key pair of an attempt in suite 2."""

    agreement: AgreementKey
    kem: KemKey

    @property
    def public(self) -> bytes:
        """The 1216 bytes that are advertised: X25519's first."""
        return self.agreement.public + self.kem.public

    def link(self, peer: bytes) -> Link:
        """Return what is shared with a peer's public key.

        Raises:
            ValueError: the key is of another suite, of low order, or no ML-KEM key.
        """
        theirs = KemPublicKey(peer[KEY_BYTES:])
        return HybridLink(self.agreement.agree(peer[:KEY_BYTES]), self.kem, theirs)


SuiteKeys = ClassicalKeys | HybridKeys


def masking_keys(suite: Suite, masking_secret: SecretBytes) -> SuiteKeys:
    """Return the masking key pair of a masking secret."""
    agreement = AgreementKey.for_masking(masking_secret)
    if suite != HYBRID:
        return ClassicalKeys(agreement)
    return HybridKeys(agreement, _kem(masking_secret, keys.LABEL_MASKING_KEM))


def channel_keys(suite: Suite, channel_secret: SecretBytes) -> SuiteKeys:
    """Return the channel key pair of 32 random bytes.

    In suite 1 they are the X25519 key itself; in suite 2 both private parts are derived, so that who finds the X25519
    key does not find the other.
    """
    if suite != HYBRID:
        return ClassicalKeys(AgreementKey(channel_secret))
    agreement = AgreementKey(keys.derive(channel_secret, salt=b"", label=keys.LABEL_CHANNEL_KEY))
    return HybridKeys(agreement, _kem(channel_secret, keys.LABEL_CHANNEL_KEM))


def _kem(secret: SecretBytes, label: bytes) -> KemKey:
    return KemKey(keys.derive(secret, salt=b"", label=label, length=kem.SEED_BYTES))


def public_parts(suite: Suite, public: bytes) -> tuple[bytes, ...]:
    """Return the parts of a public key, each in the form in which equal keys are equal bytes.

    Raises:
        ValueError: it is not as long as the suite's keys are.
    """
    if len(public) != PUBLIC_KEY_BYTES[suite]:
        raise ValueError(f"{len(public)} bytes are no key of suite {suite}")
    agreement, rest = public[:KEY_BYTES], public[KEY_BYTES:]
    return (keys.canonical_x25519(agreement), rest) if rest else (keys.canonical_x25519(agreement),)


def check_public_key(public: bytes) -> None:
    """Refuse a public key with which no link can be made; of the length that :func:`public_parts` checks.

    Raises:
        ValueError: it is of low order, or no ML-KEM key.
    """
    if keys.is_low_order_x25519(public[:KEY_BYTES]):
        raise ValueError("the key is of low order")
    if rest := public[KEY_BYTES:]:
        KemPublicKey(rest)


def joined(one: SecretBytes, other: SecretBytes) -> SecretBytes:
    """Return two secrets of fixed length as the input of one derivation, so that both are needed."""
    return SecretBytes(one.reveal() + other.reveal())


@dataclass(frozen=True, slots=True)
class Route:
    """What a sealed message is for and between whom; it decides the key, and the message authenticates it."""

    label: bytes  # of the purpose
    round_ctx: bytes
    sender: str
    recipient: str

    def key(self, secret: SecretBytes, ciphertext: bytes) -> SecretBytes:
        """Return the AES key of a message with this KEM ciphertext (empty in suite 1)."""
        return keys.channel_key(
            secret,
            round_ctx=self.round_ctx,
            sender=self.sender,
            recipient=self.recipient,
            label=self.label,
            ciphertext=ciphertext,
        )

    @property
    def associated_data(self) -> bytes:
        """Label, round_ctx, from, to."""
        return keys.framed(hashes.LABEL_SEAL, self.round_ctx, self.sender.encode(), self.recipient.encode())


def seal(link: Link, route: Route, plaintext: bytes, random: RandomSource) -> bytes:
    """Return what only the recipient opens: KEM ciphertext (suite 2), nonce, ciphertext and tag."""
    ciphertext, secret = link.send()
    key, nonce = route.key(secret, ciphertext), random.token_bytes(keys.NONCE_BYTES)
    return ciphertext + keys.seal(key, nonce, plaintext, route.associated_data)


def unseal(link: Link, route: Route, sealed: bytes) -> SecretBytes:
    """Return the plaintext of :func:`seal`; the link is with the sender.

    Raises:
        ValueError: too short, or it does not authenticate.
    """
    ciphertext, box = sealed[: link.ciphertext_bytes], sealed[link.ciphertext_bytes :]
    return keys.unseal(route.key(link.receive(ciphertext), ciphertext), box, route.associated_data)
