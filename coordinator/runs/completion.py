"""What becomes of a round that is over: the next adapter and the row of it.

Guarantees: the next state is durable before it returns, in a place of this leader's own: it is published once the row
is committed, and a leader that was replaced meanwhile leaves nothing behind that anybody reads; a repetition after a
crash gives the same bytes.
Leaves to others: when (``coordinator.runs.lifecycle``), what becomes of a completed run (``coordinator.runs.release``).
"""

from __future__ import annotations

import hashlib

from coordinator.database.run_rows import RoundRecord
from coordinator.protocol.round import RoundResult
from coordinator.runs.global_adapter import RunFiles
from host import durable
from host.logs import get_logger
from methods.global_adapter import next_state, recovery_error, without_sum
from privacy.plan import Plan
from privacy.secagg.hashes import adapter_hash
from privacy.secagg.messages import Position, VoidedRound
from protos import codec

_log = get_logger("onlysum.coordinator")


def complete_round(
    plan: Plan, files: RunFiles, result: RoundResult, *, drafts: RunFiles, previous: bytes, now: int
) -> RoundRecord:
    """Decode the sum, take the optimizer's step, make sum and adapter durable, and return the round's row.

    Args:
        plan: the run's.
        files: of the run; the state after the round before is there.
        result: the sum and its certificate.
        drafts: where sum and adapter are written.
        previous: transcript of the round before.
        now: when, in seconds since the Unix epoch.
    """
    certificate = result.certificate
    at = certificate.position
    words = result.words.data.cast("B")
    drafts.write_sum(at.round, words)
    before = files.read_state(at.round - 1)
    state = next_state(plan, before, result.blocks(), result.survivors)
    if (error := recovery_error(plan, before, result.total, result.survivors)) is not None:
        _log.info("mean recovered from its sketches", run=plan.run_id, round=at.round, relative_error=f"{error:.2g}")
    iterate, released = drafts.write_state(state)
    return RoundRecord(
        round=at.round,
        attempt=at.attempt,
        certificate=codec.encode_certificate(certificate),
        transcript=certificate.transcript(previous),
        survivors=len(result.survivors),
        dropouts=result.dropouts,
        adapter_hash=adapter_hash(iterate),
        sum_sha256=hashlib.sha256(words).digest(),
        sum_length=len(words),
        released_sha256=hashlib.sha256(released).digest(),
        length=len(iterate),
        completed_at=now,
    )


def void_round(
    plan: Plan, files: RunFiles, at: Position, *, drafts: RunFiles, previous: bytes, now: int
) -> RoundRecord:
    """Make the adapter before a round that of the round too, durable, and return the row of a round without a sum.

    Args:
        plan: the run's.
        files: of the run; the state after the round before is there.
        at: the round's last attempt.
        drafts: where the adapter is written.
        previous: transcript of the round before.
        now: when, in seconds since the Unix epoch.
    """
    durable.erase(drafts.sum(at.round))
    iterate, released = drafts.write_state(without_sum(plan, files.read_state(at.round - 1)))
    return RoundRecord(
        round=at.round,
        attempt=at.attempt,
        certificate=b"",
        transcript=VoidedRound(plan.hash, at.round).transcript(previous),
        survivors=0,
        dropouts=(),
        adapter_hash=adapter_hash(iterate),
        sum_sha256=hashlib.sha256(b"").digest(),
        sum_length=0,
        released_sha256=hashlib.sha256(released).digest(),
        length=len(iterate),
        completed_at=now,
    )
