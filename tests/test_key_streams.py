"""No key stream serves twice: every key of whole runs, with retries, losses and restarts, in both suites."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import pytest

from participant.protocol import masking
from participant.protocol.states import Ready
from privacy.errors import RoundAborted
from privacy.secagg import keys, layout
from privacy.secagg.masks import MaskTerm, apply_masks
from privacy.secagg.messages import Position
from tests.worlds.federation import Fault, FaultKind, Federation, Phase

Use = tuple[str, Position]  # whose upload, in which attempt


@dataclass
class KeyLog:
    """Every stream key with what it was derived for and where it was used, and every sealing key with its nonces."""

    purposes: dict[bytes, set[Any]] = field(default_factory=lambda: defaultdict(set))
    uses: dict[bytes, list[Use]] = field(default_factory=lambda: defaultdict(list))
    signs: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))  # added up
    masked: list[Use] = field(default_factory=list)
    sealed: list[tuple[bytes, bytes]] = field(default_factory=list)
    masking: Use | None = None  # whose upload is being masked; None: the coordinator removes masks

    def apply(self, words: Any, terms: list[MaskTerm], **named: Any) -> None:
        """Note each key of an upload, then mask."""
        if self.masking is not None:
            for term in terms:
                self.uses[term.key.reveal()].append(self.masking)
                self.signs[term.key.reveal()] += term.sign
        apply_masks(words, terms, **named)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> KeyLog:
    kept = KeyLog()

    def noting(name: str) -> None:
        original = getattr(keys, name)

        @wraps(original)
        def derive(*arguments: Any, **named: Any) -> Any:
            key = original(*arguments, **named)
            ends = tuple(sorted(named["pair"])) if "pair" in named else (named["participant"],)
            kept.purposes[key.reveal()].add((named["round_ctx"], ends, named["stream"]))
            return key

        monkeypatch.setattr(keys, name, derive)

    def seal(key: Any, nonce: bytes, *rest: Any, original: Any = keys.seal) -> bytes:
        kept.sealed.append((key.reveal(), nonce))
        return bytes(original(key, nonce, *rest))

    def mask(ready: Ready, *arguments: Any, original: Any = masking.mask) -> Any:
        kept.masking = (ready.participant.me, ready.position)
        kept.masked.append(kept.masking)
        try:
            return original(ready, *arguments)
        finally:
            kept.masking = None

    noting("pairwise_stream_key")
    noting("self_stream_key")
    monkeypatch.setattr(keys, "seal", seal)
    monkeypatch.setattr(layout, "apply_masks", kept.apply)
    monkeypatch.setattr(masking, "mask", mask)
    return kept


def assert_no_stream_serves_twice(log: KeyLog) -> None:
    assert log.uses
    assert len(log.masked) == len(set(log.masked)), "nobody masks twice in an attempt"
    assert all(len(purposes) == 1 for purposes in log.purposes.values())
    for key, uses in log.uses.items():
        ((_, ends, _),) = log.purposes[key]
        users = [name for name, _ in uses]
        assert len(users) == len(set(users)), "one upload per participant"
        assert set(users) <= set(ends), "a participant's own stream, or the two ends of a pair"
        assert len({position for _, position in uses}) == 1
    assert len(log.sealed) == len(set(log.sealed)), "no nonce comes twice under a key"
    assert not {key for key, _ in log.sealed} & set(log.uses), "a key seals or masks"


SCHEDULES: dict[str, list[list[Fault]]] = {
    "three quiet rounds": [[], [], []],
    "a retry in each round": [
        [Fault(name, Phase.COLLECT_MASKED, FaultKind.LATE) for name in ("alice", "bob")],
        [Fault(name, Phase.SHARE_KEYS, FaultKind.LATE) for name in ("carol", "bob")],
        [Fault(name, Phase.COLLECT_MASKED, FaultKind.LATE, attempt) for name in ("dave", "erin") for attempt in (1, 2)],
    ],
    "restarts before and after sending": [
        [Fault("alice", phase, FaultKind.CRASH_BEFORE_SEND) for phase in (Phase.SHARE_KEYS, Phase.COLLECT_MASKED)],
        [Fault("bob", Phase.COLLECT_MASKED, FaultKind.CRASH_AFTER_SEND)],
        [Fault("carol", Phase.COLLECT_MASKED, FaultKind.CRASH_BEFORE_SEND)],
    ],
    "messages that come twice, and one who leaves": [
        [Fault("alice", phase, FaultKind.TWICE) for phase in (Phase.SHARE_KEYS, Phase.COLLECT_MASKED)],
        [Fault("erin", Phase.COLLECT_MASKED, FaultKind.LOST)],
        [],
    ],
}


@pytest.mark.parametrize("suite", [1, 2])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_stream_key_repeats_in_a_run_but_at_the_two_ends_of_a_pair(log: KeyLog, schedule: str, suite: int) -> None:
    federation = Federation(5, 1, suite=suite)
    for number, faults in enumerate(SCHEDULES[schedule]):
        federation.run_round(faults, crash_coordinator=number == 1)
    assert len(federation.completed) == 3
    assert_no_stream_serves_twice(log)


def test_no_stream_key_repeats_among_attempts_that_never_complete(log: KeyLog) -> None:
    federation = Federation(4, 1)
    late = [
        Fault(name, Phase.COLLECT_MASKED, FaultKind.LATE, attempt) for name in ("alice", "bob") for attempt in (1, 2, 3)
    ]
    with pytest.raises(RoundAborted):
        federation.run_round(late)
    assert {position.attempt for _, position in log.masked} == {1, 2, 3}
    assert_no_stream_serves_twice(log)


def test_no_stream_key_repeats_on_a_k_regular_graph(log: KeyLog) -> None:
    federation = Federation(9, 1, k_regular=(4, 3), min_survivors=7)
    for _ in range(2):
        federation.run_round([Fault("ivan", Phase.COLLECT_MASKED, FaultKind.TWICE)])
    assert_no_stream_serves_twice(log)


def test_the_two_ends_of_each_pair_use_its_stream_with_opposite_signs(log: KeyLog) -> None:
    """All streams of five uploads: five of their own and ten of pairs, twice as many for two streams of the layout."""
    federation = Federation(5, 1)
    federation.run_round()
    streams = len(federation.plan.plan.recipe.turns[0].sums)
    users = [(len(uses), log.signs[key]) for key, uses in log.uses.items()]
    assert (users.count((1, 1)), users.count((2, 0))) == (5 * streams, 10 * streams)
    assert len(users) == 15 * streams
