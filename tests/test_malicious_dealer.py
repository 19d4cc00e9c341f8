"""Dealers whose shares open in good order and rebuild something else: named at UNMASK, and no sum comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from participant.protocol.states import Shared
from participant.protocol.step import Message
from participant.protocol.transitions import Told
from privacy.errors import Phase, RoundAborted
from privacy.secagg import shamir
from privacy.secagg.dealing import Dealer, HeldShare
from privacy.secagg.messages import ShareBundle
from privacy.secagg.shamir import SHARE_BYTES
from privacy.secret import SecretBytes
from tests.worlds.federation import FaultKind, Federation, SeededSource, SimulatedParticipant
from tests.worlds.lying_participant import OFFENDER, signed

ANOTHER = SecretBytes(b"\1" * 32)
LARGEST = (shamir.FIELD - 1).to_bytes(SHARE_BYTES, "big")


class ConstantDealer(Dealer):
    """Gives every holder the same shares: of the field's largest element, which is no 32-byte secret."""

    def _split(self, _seed: SecretBytes, members: Any) -> dict[str, HeldShare]:
        return {name: HeldShare(self.channels.me, LARGEST, LARGEST) for name in members}


class SwappingDealer(Dealer):
    """Gives two holders each other's shares: points of the right polynomials at the wrong places."""

    def _split(self, seed: SecretBytes, members: Any) -> dict[str, HeldShare]:
        held = super()._split(seed, members)
        return {**held, "alice": held["bob"], "bob": held["alice"]}


def redealing(one: SimulatedParticipant, deal: Callable[[Shared, tuple[str, ...]], ShareBundle]) -> None:
    """Let a participant deal again, otherwise, and sign that in place of its honest bundle."""
    hear = one.hear

    def lying(told: Told | None) -> list[Message]:
        answers = hear(told)
        if answers and isinstance(answers[0], ShareBundle):
            assert isinstance(one.state, Shared)
            return [signed(deal(one.state, one.state.u1), one.state.round_ctx)]
        return answers

    one.hear = lying  # type: ignore[method-assign]  # of this participant alone


def of_another_masking_secret(state: Shared, members: tuple[str, ...]) -> ShareBundle:
    """Deal shares of a masking secret that is not the one behind the advertised key."""
    pairing = replace(state.pairing, masking_secret=ANOTHER)
    dealer = Dealer(state.participant.parameters, state.offer.position, state.channels, pairing, SeededSource("lie"))
    return dealer.deal(state.seed, members)[0]


def of_no_secret(state: Shared, members: tuple[str, ...]) -> ShareBundle:
    """Deal shares that rebuild an element of the field beyond 32 bytes."""
    source = SeededSource("lie")
    dealer = ConstantDealer(state.participant.parameters, state.offer.position, state.channels, state.pairing, source)
    return dealer.deal(state.seed, members)[0]


def of_other_places(state: Shared, members: tuple[str, ...]) -> ShareBundle:
    """Deal to two holders what belongs to each other's x-coordinates; every hash fits."""
    source = SeededSource("lie")
    dealer = SwappingDealer(state.participant.parameters, state.offer.position, state.channels, state.pairing, source)
    return dealer.deal(state.seed, members)[0]


@pytest.mark.parametrize("suite", [1, 2])
@pytest.mark.parametrize("deal", [of_another_masking_secret, of_no_secret, of_other_places])
def test_malicious_dealer_that_drops_out_is_named_when_its_masking_secret_does_not_rebuild(
    deal: Callable[[Shared, tuple[str, ...]], ShareBundle], suite: int
) -> None:
    federation = Federation(5, 1, seed=4, suite=suite)
    redealing(federation.participants[OFFENDER], deal)
    due = {(OFFENDER, Phase.COLLECT_MASKED): FaultKind.LOST}
    with pytest.raises(RoundAborted, match=f"the shares of {OFFENDER} do not rebuild"):
        federation.run_attempt(1, 1, frozenset(), due, False)


@pytest.mark.parametrize("deal", [of_no_secret, of_other_places])
def test_malicious_dealer_that_survives_is_named_when_its_seed_does_not_rebuild(
    deal: Callable[[Shared, tuple[str, ...]], ShareBundle],
) -> None:
    federation = Federation(5, 1, seed=4)
    redealing(federation.participants[OFFENDER], deal)
    with pytest.raises(RoundAborted, match=f"the shares of {OFFENDER} do not rebuild"):
        federation.run_attempt(1, 1, frozenset(), {}, False)
