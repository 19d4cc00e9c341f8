"""What a participant may lie about, phase by phase: each sentence is a lie, with the code of the refusal that it meets.

A lie changes what one honest participant, :data:`OFFENDER`, would send, and is signed by it where that helps the lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pytest

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.states import Masked, Shared
from privacy.errors import PeerError, Phase
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg.messages import Receipt, ReleasedShare, ShareBundle, UnmaskShares
from tests.worlds.federation import FaultKind, Federation
from tests.worlds.plans import signing_key

OFFENDER = "carol"
MessageT = TypeVar("MessageT")


class Stage:
    """A five-party round in which everyone but the offender has answered in a phase."""

    def __init__(self, phase: Phase, *, lost: tuple[str, Phase] | None = None, **overrides: Any) -> None:
        self.federation = Federation(5, 1, seed=11, **overrides)
        self.offer = self.federation.offer(1, 1)
        self.round = self.federation.round = CoordinatorRound(self.federation.plan, self.offer)
        due = {} if lost is None else {lost: FaultKind.LOST}
        while self.round.phase is not phase:
            self.federation.collect(due, [])
            self.round.close()
        self.answers = {
            name: self.federation.participants[name].hear(self.round.outbox(name))
            for name in sorted(self.round.expected())
        }

    @property
    def honest(self) -> Any:
        """What the offender would send if it were honest."""
        return self.answers[OFFENDER][0]

    @property
    def context(self) -> bytes:
        """What everybody signs under, also who has gone silent; nothing yet in ADVERTISE_KEYS."""
        for participant in self.federation.participants.values():
            if isinstance(participant.state, Shared):
                return participant.state.round_ctx
            if isinstance(participant.state, Masked):
                return participant.state.record.round_ctx
        return b""

    def refusal(self, message: Any) -> PeerError:
        """Hand over a lie; return the refusal, which names its sender and the phase, once nothing has changed."""
        before = everything(self.round)
        with pytest.raises(PeerError) as refused:
            self.round.receive(message)
        assert OFFENDER not in self.round.answered()
        assert everything(self.round) == before, "a refused message changed the state"
        assert (refused.value.participant, refused.value.phase) == (message.sender, self.round.phase.name)
        assert refused.value.rule
        return refused.value

    def others_go_on(self) -> None:
        """The others' answers are taken and the phase closes without the offender."""
        for name, answers in self.answers.items():
            if name != OFFENDER:
                assert self.round.receive(answers[0])
        self.round.close()


def everything(value: Any) -> Any:
    """Return all that an object holds, in a form that compares."""
    if isinstance(value, CoordinatorRound):
        return {name: everything(one) for name, one in vars(value).items() if name != "plan"}
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if is_dataclass(value):
        return type(value), [everything(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, dict):
        return [(everything(key), everything(one)) for key, one in value.items()]
    if isinstance(value, tuple | list):
        return [everything(one) for one in value]
    return set(value) if isinstance(value, set) else value


def signed(message: MessageT, context: bytes | None = None) -> MessageT:
    """Return a lie under the offender's own signature."""
    lie: Any = message
    body = lie.signed_bytes(PROTOCOL_VERSION) if context is None else lie.signed_bytes(PROTOCOL_VERSION, context)
    under_signature: MessageT = replace(lie, signature=signing_key(OFFENDER).sign(body))
    return under_signature


def rubbish_for(victim: str, bundle: ShareBundle, context: bytes) -> ShareBundle:
    """Return a bundle in which the offender seals rubbish for one holder, and signs it properly."""
    index = [leaf.recipient for leaf in bundle.leaves].index(victim)
    sealed = bytearray(bundle.sealed[index])
    sealed[20] ^= 1
    leaf = replace(bundle.leaves[index], ciphertext_hash=hashlib.sha256(sealed).digest())
    lie = replace(
        bundle,
        leaves=(*bundle.leaves[:index], leaf, *bundle.leaves[index + 1 :]),
        sealed=(*bundle.sealed[:index], bytes(sealed), *bundle.sealed[index + 1 :]),
    )
    return signed(lie, context)


# --- ADVERTISE_KEYS ---

ADVERTISEMENTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another offer": (lambda a: signed(replace(a, offer=replace(a.offer, adapter_hash=b"\1" * 32))), "E-ROUND-CONTEXT"),
    "another attempt": (
        lambda a: signed(replace(a, offer=replace(a.offer, position=replace(a.offer.position, attempt=2)))),
        "E-ROUND-CONTEXT",
    ),
    "no signature": (lambda a: replace(a, nonce=b"\0" * 16), "E-ROUND-SIGNATURE"),
    "a low-order key": (lambda a: signed(replace(a, masking_key=b"\0" * 32)), "E-ROUND-KEYS"),
    "one key twice": (lambda a: signed(replace(a, masking_key=a.channel_key)), "E-ROUND-KEYS"),
    "a stranger's name": (lambda a: replace(a, sender="zoe"), "E-ROUND-SET"),
}


# --- SHARE_KEYS ---


def _other_recipients(bundle: ShareBundle) -> ShareBundle:
    return replace(bundle, leaves=bundle.leaves[:-1], sealed=bundle.sealed[:-1])


def _other_ciphertext(bundle: ShareBundle) -> ShareBundle:
    return replace(bundle, sealed=(b"\0" * 94, *bundle.sealed[1:]))


def _short_ciphertext(bundle: ShareBundle) -> ShareBundle:
    return replace(bundle, sealed=(b"\0" * 5, *bundle.sealed[1:]))


BUNDLES: dict[str, tuple[Callable[[ShareBundle], ShareBundle], str]] = {
    "shares for fewer than U1": (_other_recipients, "E-ROUND-SET"),
    "a ciphertext that is not the committed one": (_other_ciphertext, "E-ROUND-SHARE"),
    "a ciphertext of a wrong length": (_short_ciphertext, "E-ROUND-SHARE"),
    "one ciphertext too few": (lambda b: replace(b, sealed=b.sealed[:-1]), "E-ROUND-SET"),
    "a commitment that is not signed": (lambda b: replace(b, seed_commitment=b"\0" * 32), "E-ROUND-SIGNATURE"),
    "another round's bundle": (
        lambda b: replace(b, position=replace(b.position, round=2)),
        "E-ROUND-CONTEXT",
    ),
}


# --- COLLECT_MASKED ---

UPLOADS: dict[str, tuple[Callable[[Receipt, bytes, bytes], tuple[Receipt, bytes]], str]] = {
    "a truncated upload": (lambda r, m, c: (r, m[:-4]), "E-ROUND-UPLOAD"),
    "a receipt for a shorter upload": (lambda r, m, c: (signed(replace(r, length=4), c), m[:4]), "E-ROUND-UPLOAD"),
    "an oversized upload": (
        lambda r, m, c: (signed(replace(r, length=len(m) + 4), c), m + b"\0" * 4),
        "E-ROUND-UPLOAD",
    ),
    "other bytes than the receipt says": (lambda r, m, c: (r, bytes(len(m))), "E-ROUND-UPLOAD"),
    "another U2": (lambda r, m, c: (signed(replace(r, u2_hash=b"\0" * 32), c), m), "E-ROUND-SET"),
    "a receipt that is right for a shorter upload": (
        lambda r, m, c: (signed(replace(r, length=4, masked_hash=hashlib.sha256(m[:4]).digest()), c), m[:4]),
        "E-ROUND-UPLOAD",
    ),
    "a receipt with the length of the vector and the hash of a shorter upload": (
        lambda r, m, c: (signed(replace(r, masked_hash=hashlib.sha256(m[:-4]).digest()), c), m[:-4]),
        "E-ROUND-UPLOAD",
    ),
    "an unsigned receipt": (lambda r, m, c: (replace(r, signature=b"\0" * 64), m), "E-ROUND-SIGNATURE"),
    "another attempt's receipt": (
        lambda r, m, c: (signed(replace(r, position=replace(r.position, attempt=2)), c), m),
        "E-ROUND-CONTEXT",
    ),
    "a stranger's receipt": (lambda r, m, c: (replace(r, sender="zoe"), m), "E-ROUND-SET"),
}


# --- UNMASK ---


def _first(shares: tuple[ReleasedShare, ...], share: bytes) -> tuple[ReleasedShare, ...]:
    return (replace(shares[0], share=share), *shares[1:])


RELEASES: dict[str, tuple[Callable[[UnmaskShares], UnmaskShares], str]] = {
    "a changed share of a seed": (
        lambda s: replace(s, seed_shares=_first(s.seed_shares, b"\0" * 33)),
        "E-ROUND-SHARE",
    ),
    "shares of fewer owners": (lambda s: replace(s, seed_shares=s.seed_shares[:-1]), "E-ROUND-SHARE"),
    "shares of nobody's masking secret asked for": (
        lambda s: replace(s, masking_shares=s.seed_shares[:1]),
        "E-ROUND-SHARE",
    ),
}
