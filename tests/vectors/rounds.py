"""Vectors of whole rounds: what each participant drew, and every byte that is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.step import Message
from privacy.errors import Phase
from privacy.secagg.kem import KemPublicKey
from privacy.secagg.messages import Advertisement, MaskedUpload, ShareBundle, SurvivorSignature, UnmaskShares
from privacy.secret import SecretBytes
from tests.reference import slow_kem
from tests.worlds.federation import Federation, SeededSource, SimulatedParticipant

ADAPTER: Final = b"the global adapter of a test"
PACKED: Final = {"ring_bits": 64, "lane_bits": 21, "clamp": 1000}
NARROW: Final = {"ring_bits": 64, "lane_bits": 16, "clamp": 1000}

# By file: how the federation is made, and who is lost at which phase.
ROUNDS: Final[dict[str, tuple[dict[str, Any], dict[str, Phase]]]] = {
    "round_n5_f1": ({"n": 5, "f": 1, "seed": 3}, {}),
    "round_n5_f1_drop1": ({"n": 5, "f": 1, "seed": 11}, {"carol": Phase.COLLECT_MASKED}),
    "round_n3_f0_64_bits": ({"n": 3, "f": 0, "seed": 1, "encoding": {"ring_bits": 64}}, {}),
    "round_n5_f0_packed_lanes_drop2": (
        {"n": 5, "f": 0, "seed": 2, "min_survivors": 3, "encoding": PACKED},
        {"alice": Phase.COLLECT_MASKED, "dave": Phase.SHARE_KEYS},
    ),
    "round_n4_f0_narrow_lanes_drop1": (
        {"n": 4, "f": 0, "seed": 7, "min_survivors": 3, "encoding": NARROW},
        {"carol": Phase.COLLECT_MASKED},
    ),
    "round_n4_f0_suite_2_narrow_lanes": ({"n": 4, "f": 0, "seed": 8, "suite": 2, "encoding": NARROW}, {}),
    "round_n4_f0_suite_2_drop1": (
        {"n": 4, "f": 0, "seed": 5, "suite": 2, "min_survivors": 3},
        {"bob": Phase.COLLECT_MASKED},
    ),
}


class RecordingSource(SeededSource):
    """A seeded source that remembers what it gave."""

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self.drawn = b""

    def token_bytes(self, count: int) -> bytes:
        """Return the next bytes."""
        fresh = super().token_bytes(count)
        self.drawn += fresh
        return fresh


class ReplaySource:
    """What was drawn, drawn again."""

    def __init__(self, drawn: bytes) -> None:
        self.drawn = drawn

    def token_bytes(self, count: int) -> bytes:
        """Return the next bytes."""
        fresh, self.drawn = self.drawn[:count], self.drawn[count:]
        assert len(fresh) == count
        return fresh


def update_of(federation: Federation, name: str) -> list[int]:
    """Return what a participant contributes: all signs and sizes, within the plan's clamp."""
    plan = federation.plan.plan
    place, clamp = plan.index(name) + 1, plan.encoding.clamp
    return [
        (-1) ** (entry + place) * (clamp * entry // (plan.recipe.entries * place))
        for entry in range(plan.recipe.entries)
    ]


def fixed_update(update: Sequence[int], number: int) -> NDArray[np.int64]:
    """Train to the update of a vector, whatever the round."""
    return np.array(update, dtype=np.int64)


def good(file: str) -> dict[str, Any]:
    """Play a round and return its vector."""
    arguments, lost = ROUNDS[file]
    federation = Federation(**arguments)
    sources = {}
    for name, one in federation.participants.items():
        sources[name] = one.source = RecordingSource(f"{arguments['seed']}/{name}")
        update = update_of(federation, name)
        one.train = partial(fixed_update, update)
    said = said_in(federation, lost)
    plan = federation.plan.plan
    return {
        "file": file,
        "plan": plan.model_dump(mode="json"),
        "plan_bytes": plan.to_bytes().hex(),
        "round": 1,
        "attempt": 1,
        "adapter": ADAPTER.hex(),
        "participants": {
            name: {
                "identity_secret": identity_secret(name).hex(),
                "drawn": sources[name].drawn.hex(),
                "update": update_of(federation, name),
            }
            for name in federation.participants
        },
        **said,
    }


def identity_secret(name: str) -> bytes:
    """Return the 32 private bytes behind an identity key of these tests."""
    import hashlib

    return hashlib.sha256(b"onlysum tests: identity key of " + name.encode()).digest()


def said_in(federation: Federation, lost: Mapping[str, Phase]) -> dict[str, Any]:
    """Play an attempt and return what is said in it; who is lost in a phase says nothing from then on."""
    offer = federation.offer(1, 1)
    attempt = federation.round = CoordinatorRound(federation.plan, offer)
    said: dict[str, Any] = {
        "plan_hash": federation.plan.hash.hex(),
        "previous_transcript": offer.previous_transcript.hex(),
        "adapter_hash": offer.adapter_hash.hex(),
        "adv_ctx": offer.context.hex(),
    }
    kept = {
        Phase.ADVERTISE_KEYS: "advertisements",
        Phase.SHARE_KEYS: "bundles",
        Phase.COLLECT_MASKED: "uploads",
        Phase.AGREE_SURVIVORS: "signatures",
        Phase.UNMASK: "releases",
    }
    while attempt.phase is not Phase.RESULT:
        phase = attempt.phase
        there = said[kept[phase]] = {}
        for name in sorted(attempt.expected()):
            one = federation.participants[name]
            one.present &= lost.get(name) is not phase
            if one.present:
                answer = _answer(attempt, one)
                there[name] = _form(answer)
        attempt.close()
    certificate = attempt.result.certificate
    return said | {
        "u1": list(said["advertisements"]),
        "u2": list(said["bundles"]),
        "survivors": list(said["uploads"]),
        "round_ctx": certificate.round_ctx.hex(),
        "u2_hash": certificate.survivors.u2_hash.hex(),
        "sum": attempt.result.total().tolist(),
        "sum_hash": certificate.sum_hash.hex(),
        "transcript": certificate.transcript(offer.previous_transcript).hex(),
    }


@contextmanager
def encapsulating_from(source: Any) -> Iterator[None]:
    """Let the reference encapsulate, from a participant's source: the library would draw its own randomness."""

    def encapsulate(key: KemPublicKey) -> tuple[SecretBytes, bytes]:
        shared, ciphertext = slow_kem.encapsulated(key._key.public_bytes_raw(), source.token_bytes(32))
        return SecretBytes(shared), ciphertext

    with patch.object(KemPublicKey, "encapsulate", encapsulate):
        yield


def _answer(attempt: CoordinatorRound, participant: SimulatedParticipant) -> Message:
    with encapsulating_from(participant.source):
        (answer,) = participant.hear(attempt.outbox(participant.name))
    assert attempt.receive(answer)
    return answer


def _form(answer: Any) -> Any:
    match answer:
        case Advertisement():
            return {
                "masking_key": answer.masking_key.hex(),
                "channel_key": answer.channel_key.hex(),
                "nonce": answer.nonce.hex(),
                "body": answer.body.hex(),
                "signature": answer.signature.hex(),
            }
        case ShareBundle():
            return {
                "leaves": [
                    {
                        "recipient": leaf.recipient,
                        "hashes": [
                            leaf.ciphertext_hash.hex(),
                            leaf.masking_share_hash.hex(),
                            leaf.seed_share_hash.hex(),
                            *([leaf.pair_commitment.hex()] if leaf.pair_commitment else []),
                        ],
                    }
                    for leaf in answer.leaves
                ],
                "sealed": [(box + answer.pair_at(at).sealed).hex() for at, box in enumerate(answer.sealed)],
                "root": answer.root.hex(),
                "seed_commitment": answer.seed_commitment.hex(),
                "signature": answer.signature.hex(),
            }
        case MaskedUpload(receipt, masked):
            return {
                "masked": masked.hex(),
                "masked_hash": receipt.masked_hash.hex(),
                "signature": receipt.signature.hex(),
            }
        case SurvivorSignature():
            return answer.signature.hex()
        case UnmaskShares():
            return {
                "seed_shares": {one.owner: one.share.hex() for one in answer.seed_shares},
                "masking_shares": {one.owner: one.share.hex() for one in answer.masking_shares},
            }
    raise AssertionError(f"{type(answer).__name__} is no message of an honest round")
