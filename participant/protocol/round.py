"""A participant's side of a round, with one entrance: what it is told in, the next state and what to send out.

Guarantees: every rule of the phase table is checked before anything is sent; what breaks one raises a ``PeerError`` and
leaves everything as it was. What a state does not await is refused by the transition table, which each step obeys.
Leaves to others: the checks themselves (``checks``), COLLECT_MASKED (``masking``) and what comes after it
(``unmasking``), doing what a step asks, in its order (``step``), training and charging, time, the network.
Source: docs/protocol.md sections 5 and 6 (sections are cited at each phase).
"""

from __future__ import annotations

from dataclasses import replace

from participant.protocol import masking, unmasking
from participant.protocol.checks import check_advertisements, check_holders, check_offer
from participant.protocol.member import Participant
from participant.protocol.memory import AttemptAdvertised, RunMemory
from participant.protocol.states import Advertised, Idle, InAttempt, Masked, Ready, Released, Shared, Signed, State
from participant.protocol.step import Message, Step
from participant.protocol.transitions import Abort, EncodedUpdate, Told, awaits, check_following
from privacy.errors import LocalError, PeerError, Phase
from privacy.interfaces import RandomSource
from privacy.secagg import keys, messages
from privacy.secagg.dealing import Channels, Dealer
from privacy.secagg.graph import masking_graph
from privacy.secagg.messages import (
    ADVERTISE_NONCE_BYTES,
    Advertisement,
    AdvertisementSet,
    AttemptOffer,
    HolderShares,
    RoundCertificate,
    SurvivorProposal,
    UnmaskRequest,
    VoidedRound,
)
from privacy.secagg.pairing import Pairing
from privacy.secagg.suites import Link, SuiteKeys, channel_keys, masking_keys
from privacy.secret import SecretBytes

__all__ = [
    "Abort",
    "Advertised",
    "EncodedUpdate",
    "Idle",
    "Masked",
    "Message",
    "Participant",
    "Ready",
    "Released",
    "Shared",
    "Signed",
    "State",
    "Step",
    "Told",
    "hear",
]


def hear(state: State, told: Told, memory: RunMemory, random: RandomSource) -> Step[State]:
    """Answer what a participant is told.

    Args:
        state: where it stands; at first, and after a restart that forfeits the attempt, :class:`Idle`.
        told: by the coordinator; or, while it is :class:`Ready`, by the caller.
        memory: of the run, with the records of all steps before.
        random: of the secrets that are drawn.

    Raises:
        PeerError: it breaks a rule; nothing has changed and there is nothing to send.
        LocalError: ``E-ROUND-PHASE``, it is not what this state awaits; ``E-BUG``, the caller has left something out.
    """
    if not awaits(state, told):
        raise LocalError("E-ROUND-PHASE", f"{type(told).__name__} is not what {type(state).__name__} waits for")
    step = _answer(state, told, memory, random)
    check_following(state, told, step.state)
    return step


def _answer(state: State, told: Told, memory: RunMemory, random: RandomSource) -> Step[State]:
    match told, state:
        case AttemptOffer() as offer, _:
            return _advertise(state.participant, offer, memory, random)
        case AdvertisementSet() as u1, Advertised() as advertised:
            return _deal(advertised, u1, random)
        case HolderShares() as dealt, Shared() as shared:
            return masking.open_shares(shared, dealt)
        case EncodedUpdate() as update, Ready() as ready:
            return masking.mask(ready, update, memory)
        case SurvivorProposal() as proposal, Masked() as masked:
            return unmasking.sign(masked, proposal, memory)
        case UnmaskRequest() as request, Masked() as masked:
            return unmasking.release(masked, request, memory)
        case RoundCertificate() as certificate, _:
            return unmasking.complete(state, certificate, memory)
        case VoidedRound() as voided, _:
            return unmasking.void(state, voided, memory)
        case Abort() as abort, (Advertised() | Shared() | Ready() | Masked()) as begun:
            return _give_up(begun, abort)
    raise LocalError("E-BUG", f"there is no answer to {type(told).__name__} in {type(state).__name__}")


def _give_up(state: InAttempt, abort: Abort) -> Step[Idle]:
    if abort.position != state.position:
        raise LocalError("E-ROUND-PHASE", "the attempt that was given up is not the one in progress")
    return Step(Idle(state.participant))


# --- ADVERTISE_KEYS ---


def _advertise(
    participant: Participant, offer: AttemptOffer, memory: RunMemory, random: RandomSource
) -> Step[Advertised]:
    """Answer an offered attempt with two fresh public keys (section 5.1)."""
    check_offer(participant, offer, memory)
    suite, version = participant.parameters.suite, participant.parameters.protocol_version
    masking_secret = SecretBytes(random.token_bytes(keys.KEY_BYTES))
    masking_pair = masking_keys(suite, masking_secret)
    channel_pair = channel_keys(suite, SecretBytes(random.token_bytes(keys.KEY_BYTES)))
    unsigned = Advertisement(
        offer=offer,
        sender=participant.me,
        masking_key=masking_pair.public,
        channel_key=channel_pair.public,
        nonce=random.token_bytes(ADVERTISE_NONCE_BYTES),
    )
    own = replace(unsigned, signature=participant.identity.sign(unsigned.signed_bytes(version)))
    state = Advertised(participant, own, masking_secret, masking_pair, channel_pair)
    return Step(state, AttemptAdvertised(offer.position.round, offer.position.attempt), own)


# --- SHARE_KEYS ---


def _deal(state: Advertised, u1: AdvertisementSet, random: RandomSource) -> Step[Shared]:
    """Check U1, derive the round's context and graph, and deal shares to every holder (sections 5.2 and 9)."""
    participant, offer = state.participant, state.own.offer
    check_advertisements(participant, state.own, u1.advertisements)
    round_ctx = messages.round_context(offer, u1.advertisements)
    by_sender = {advertisement.sender: advertisement for advertisement in u1.advertisements}
    graph = masking_graph([*by_sender], round_ctx=round_ctx, neighbours=participant.parameters.neighbours)
    holders = graph.holders(participant.me)
    check_holders(participant, holders, Phase.SHARE_KEYS)
    peers = {name: by_sender[name] for name in holders if name != participant.me}
    channel_links = {name: _link(state.channel, peer.channel_key, name) for name, peer in peers.items()}
    masking_links = {name: _link(state.masking, peer.masking_key, name) for name, peer in peers.items()}
    seed = SecretBytes(random.token_bytes(keys.KEY_BYTES))
    channels = Channels(participant.me, round_ctx, channel_links)
    pairing = Pairing(participant.me, round_ctx, state.masking_secret, masking_links)
    dealer = Dealer(participant.parameters, offer.position, channels, pairing, random)
    unsigned, kept = dealer.deal(seed, holders)
    signed = unsigned.signed_bytes(participant.parameters.protocol_version, round_ctx)
    bundle = replace(unsigned, signature=participant.identity.sign(signed))
    return Step(
        Shared(
            participant=participant,
            offer=offer,
            channels=channels,
            pairing=pairing,
            graph=graph,
            bundle=bundle,
            kept=kept,
            seed=seed,
        ),
        message=bundle,
    )


def _link(mine: SuiteKeys, theirs: bytes, name: str) -> Link:
    try:
        return mine.link(theirs)
    except ValueError:
        raise PeerError.by_coordinator(
            "E-ROUND-KEYS", Phase.SHARE_KEYS, f"the key of {name} is of low order or no key"
        ) from None
