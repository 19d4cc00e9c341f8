"""The floor of a round is counted, not written down: it follows the case, each side for itself."""

from __future__ import annotations

from collections import Counter

import pytest

from bench import floor
from bench.floor import CountedStage, Floor
from bench.players import Case
from privacy.secagg import keys

CASE = Case.parse("n5_d1000_k4_drop1")  # f = 1, T = 4: four survive


def test_the_primitives_of_a_participant_are_those_that_the_protocol_asks_for() -> None:
    clients, _ = CountedStage(CASE).count()
    assert len(clients) == 4
    for client in clients:
        assert client[floor.VERIFY] == 4 + 4  # the others' advertisements; one quorum, which is everybody left
        assert client[floor.SIGN] == 4  # one per phase, but none of released shares
        assert client[floor.AGREE] == 2 + 2 * 4  # its two keys, and with each peer for masks and for the channel
        assert client[floor.STREAM_BYTES] == 2 * 1000 * (1 + 4)  # its own mask, and one per peer
        assert client[floor.ENCODE] == 1000
        assert client[floor.HASH_BYTES] > 2 * 1000  # the upload, and small things


def test_the_primitives_of_the_coordinator_are_those_that_the_protocol_asks_for() -> None:
    _, coordinator = CountedStage(CASE).count()
    assert coordinator[floor.VERIFY] == 5 + 5 + 4 + 4  # one per message that is signed, up to a quorum of the last
    assert coordinator[floor.SIGN] == 0
    assert coordinator[floor.AGREE] == 1 + 4  # the dropout's key, rebuilt, and with each survivor
    assert coordinator[floor.STREAM_BYTES] == 2 * 1000 * (4 + 4)  # own masks of survivors, and theirs with the dropout
    assert coordinator[floor.ADD_BYTES] == coordinator[floor.STREAM_BYTES] + 2 * 1000 * 4
    assert coordinator[floor.COMBINE] == 5 * 4  # four seeds and a masking secret, of four shares each
    assert coordinator[floor.DECODE] == 1000


def test_counting_changes_nothing_that_stays() -> None:
    before = keys.verify, keys.SigningKey.sign, keys.AgreementKey.agree
    CountedStage(CASE).count()
    assert (keys.verify, keys.SigningKey.sign, keys.AgreementKey.agree) == before


def test_the_floor_is_the_counts_times_what_one_of_each_costs() -> None:
    made = Floor(
        unit={floor.VERIFY: 60e-6, floor.HASH_BYTES: 0.5e-9},
        counts={
            "client": Counter({floor.VERIFY: 10, floor.HASH_BYTES: 2_000_000}),
            "coordinator": Counter({floor.VERIFY: 100}),
        },
    )
    assert made.milliseconds("client") == pytest.approx(1.6)
    assert made.milliseconds("client", floor.VERIFY) == pytest.approx(0.6)
    assert made.figures("coordinator") == {
        "coordinator_floor_ms": 6.0,
        "coordinator_floor.ed25519_verifications": 100,
        "coordinator_floor.ed25519_verifications_ms": 6.0,
    }
    assert made.table().splitlines()[-1].split() == ["floor", "1.60", "6.00"]


def test_every_primitive_has_a_cost() -> None:
    made = Floor.of(CASE)
    assert {*made.counts["client"], *made.counts["coordinator"]} == set(made.unit)
    assert all(0 < seconds < 0.01 for seconds in made.unit.values())
