"""Dealers of suite 2 that lie under their own signature about what they seal for a holder, and commit to the lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from participant.protocol.states import Shared
from participant.protocol.step import Message
from participant.protocol.transitions import Told
from privacy.secagg import messages
from privacy.secagg.messages import ShareBundle
from tests.worlds.federation import SimulatedParticipant
from tests.worlds.lying_participant import signed


def consistent(index: int, **changes: Any) -> Callable[[ShareBundle], ShareBundle]:
    """The dealer commits to what it changed, so that only the length is wrong."""

    def change(bundle: ShareBundle) -> ShareBundle:
        sealed, pairs = list(bundle.sealed), list(bundle.sealed_pairs)
        sealed[index], pairs[index] = changes.get("sealed", sealed[index]), changes.get("pair", pairs[index])
        hashed = messages.ciphertext_hash(sealed[index], pairs[index])
        commitment = changes.get("commitment", bundle.leaves[index].pair_commitment)
        leaf = replace(bundle.leaves[index], ciphertext_hash=hashed, pair_commitment=commitment)
        leaves = (*bundle.leaves[:index], leaf, *bundle.leaves[index + 1 :])
        return replace(bundle, leaves=leaves, sealed=tuple(sealed), sealed_pairs=tuple(pairs))

    return change


def resealed(victim: str, *, pair: int | None = None, share: int | None = None, commitment: bytes = b"") -> Any:
    """Return a change of a bundle: a bit flipped in what is for the victim, and all of it committed to."""

    def change(bundle: ShareBundle) -> ShareBundle:
        index = [leaf.recipient for leaf in bundle.leaves].index(victim)
        changes: dict[str, bytes] = {"commitment": commitment} if commitment else {}
        if share is not None:
            changes["sealed"] = flipped(bundle.sealed[index], share)
        if pair is not None:
            changes["pair"] = flipped(bundle.sealed_pairs[index], pair)
        return consistent(index, **changes)(bundle)

    return change


def flipped(data: bytes, index: int) -> bytes:
    """Return bytes with one bit changed in one of them."""
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


LIES = {
    "a tampered KEM ciphertext of a share": resealed("dave", share=0),
    "a tampered box of a share": resealed("dave", share=1100),
    "a tampered KEM ciphertext of a pair secret": resealed("dave", pair=0),
    "a tampered box of a pair secret": resealed("dave", pair=1100),
    "a commitment to another pair secret": resealed("dave", commitment=b"\1" * 32),
}


def dealing(one: SimulatedParticipant, change: Callable[[ShareBundle], ShareBundle]) -> None:
    """Let the offender deal something else in the first attempt."""
    hear = one.hear

    def lying(told: Told | None) -> list[Message]:
        answers = hear(told)
        if answers and isinstance(answers[0], ShareBundle) and answers[0].position.attempt == 1:
            assert isinstance(one.state, Shared)
            return [signed(change(answers[0]), one.state.round_ctx)]
        return answers

    one.hear = lying  # type: ignore[method-assign]  # of this participant alone
