"""What members send about one run: answers to its plan, messages of a round, uploads, measurements.

Guarantees: an accepted message is committed when the call returns; a repeated one changes nothing and is no error, and
neither is one that comes after its attempt has ended; a refused one changes nothing.
Leaves to others: the rules of a round (``coordinator.protocol.round``), what follows (``coordinator.runs.lifecycle``).
"""

from __future__ import annotations

import hashlib
from contextlib import nullcontext

from coordinator.database import run_rows
from coordinator.database.attempt_rows import RESTORED
from coordinator.protocol.checks import check_known_round
from coordinator.protocol.round import Message
from coordinator.runs.attempt import HEADS, Attempt
from coordinator.runs.run import Run, in_thread, to_the_end
from coordinator.runs.uploads import Upload
from privacy.errors import PeerError, Phase
from privacy.evaluation import SignedEvaluation
from privacy.heads import JournalHead, Moment
from privacy.plan import signed_approval_bytes
from privacy.secagg import keys
from privacy.secagg.messages import Advertisement, Complaint, Position, Receipt
from protos import codec
from protos.envelope import (
    Abstained,
    Evaluation,
    HeadsShown,
    MessageWithHeads,
    PlanApproved,
    PlanRefused,
    RoundKnown,
    RunSubmission,
)


class Submissions:
    """Takes what members send about one run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def submit(self, member: str, submission: RunSubmission, data: bytes = b"") -> None:
        """Take a submission.

        Args:
            member: who sends it.
            submission: what it sends.
            data: the submission's one form, if it is at hand.

        Raises:
            PeerError: it breaks a rule; nothing has changed, but that heads which came with it are kept.
        """
        run = self._run
        message = submission.message if isinstance(submission, MessageWithHeads) else submission
        await run.opened()
        async with run.uploading(member) if isinstance(message, Receipt) else nullcontext():
            attempt = run.attempt
            if isinstance(message, Receipt) and attempt is not None and attempt.position == message.position:
                await self._keep(attempt, attempt.upload_of(message))
            async with run.lock:
                run.catch_up()
                taken = self._take(member, submission, data)
                # The others are taken in one step of the event loop, which nobody can cancel.
                await (to_the_end(taken) if isinstance(message, Receipt | RoundKnown) else taken)
        await run.context.writer.written()  # without the lock: others are heard meanwhile

    async def _take(self, member: str, submission: RunSubmission, data: bytes) -> None:
        run = self._run
        run.latecomers.heard_of(member)
        try:
            await self._submit(member, submission, data)
        except PeerError:
            raise
        except BaseException:
            run.distrust_memory()
            raise
        if not isinstance(submission, HeadsShown):  # nothing follows from them alone
            run.wakeup.set()

    async def _submit(self, member: str, submission: RunSubmission, data: bytes) -> None:
        match submission:
            case MessageWithHeads(heads, message):
                if heads.position != message.position:
                    rule = "the heads that come with a message are of another attempt"
                    raise PeerError.by_participant(member, "E-ROUND-CONTEXT", Phase.ADVERTISE_KEYS, rule)
                self._heads(member, heads)
                await self._submit(member, message, codec.message_alone(data, submission) if data else b"")
            case PlanApproved() | PlanRefused():
                self._answer(member, submission)
            case Evaluation():
                self._measured(member, submission)
            case HeadsShown():
                self._heads(member, submission)
            case RoundKnown():
                await self._known_elsewhere(member, submission)
            case Receipt():
                await self._receipt(member, submission, data)
            case Abstained():
                attempt = self._attempt(member, submission.position)
                if attempt is not None and attempt.abstain(member, submission, data):
                    self._taken(member, "abstained", code=submission.code)
                    self._run.log.warning("member-abstains", member=member, code=submission.code)
            case _:
                self._message(member, submission, data)

    # --- the plan ---

    def _answer(self, member: str, answer: PlanApproved | PlanRefused) -> None:
        run = self._run
        if answer.plan_hash != run.plan.hash:
            raise PeerError.by_participant(member, "E-PLAN-CHANGED", Phase.PLAN, "the answer is to another plan")
        if isinstance(answer, PlanApproved) and not self._approves(member, answer):
            raise PeerError.by_participant(
                member, "E-ROUND-SIGNATURE", Phase.PLAN, "the approval is not signed by its identity key"
            )
        before, approves = run.answers.get(member), isinstance(answer, PlanApproved)
        if run.record.state.ended or (before is not None and (approves or not before.approved)):
            return
        now = run.context.now()
        run.also(lambda connection: run_rows.add_approval(connection, member, answer, now), run.distrust_memory)
        run.answers[member] = run_rows.approval_record(member, answer, now)
        run.answered(member)
        run.log.info("plan-approved" if approves else "plan-refused", member=member)

    def _approves(self, member: str, answer: PlanApproved) -> bool:
        signed = signed_approval_bytes(self._run.plan.hash, member)
        return keys.verify(self._run.identities[member], answer.signature, signed)

    # --- a coordinator that was set back ---

    async def _known_elsewhere(self, member: str, known: RoundKnown) -> None:
        """Hold a run of which a round was completed that is not known here: only an older state can lack it.

        A certificate of an attempt that this coordinator itself closed otherwise proves nothing: whoever was asked for
        shares holds all that is in one.
        """
        run, at = self._run, known.certificate.position
        ours = {(tried.round, tried.attempt) for tried in run.tried if tried.reason != RESTORED}
        if at.plan_hash != run.plan.hash or at.round <= len(run.rounds) or at.order in ours:
            raise PeerError.by_participant(
                member, "E-ROUND-CONTEXT", Phase.RESULT, "the certificate is of no round that is not known here"
            )
        check_known_round(run.rules.parameters(), known.certificate, sender=member)
        if run.record.state.ended or run.record.held:
            return
        reason = (
            f"round {at.round} was completed, and here is nothing after round {len(run.rounds)}: this coordinator was "
            f"set back; {member} has the certificate"
        )
        code, now = "E-COORDINATOR-ROLLBACK", run.context.now()
        run.also(lambda connection: run_rows.hold(connection, run.run_id, code=code, reason=reason, now=now))
        await run.written()
        run.log.error("coordinator-set-back", round=at.round, known=len(run.rounds), member=member)
        run.reload_and_notify("run-held", code=code, reason=reason)

    # --- a round ---

    def _attempt(self, member: str, position: Position) -> Attempt | None:
        """Return the open attempt that a message belongs to, or ``None`` if its attempt is over.

        Raises:
            PeerError: ``E-ROUND-CONTEXT``: the run never opened such an attempt, or ``E-ROUND-SET``.
        """
        run = self._run
        if member not in run.roster:
            raise PeerError.by_participant(
                member, "E-ROUND-SET", Phase.ADVERTISE_KEYS, "it is not on the roster of this run"
            )
        if run.attempt is not None and run.attempt.position == position:
            return run.attempt
        if 1 <= position.round <= len(run.rounds):
            return None
        known = {(one.round, one.attempt): one.state for one in run.tried}
        if position.order not in known:
            raise PeerError.by_participant(
                member, "E-ROUND-CONTEXT", Phase.ADVERTISE_KEYS, "no such attempt was opened"
            )
        if known[position.order] == "open":
            # Reading its journal takes longer than a call waits, or its leader was replaced.
            raise _opened_again(member)
        return None

    def _message(self, member: str, message: Message, data: bytes) -> None:
        attempt = self._attempt(member, message.position)
        phase = None if attempt is None else attempt.machine.phase
        if attempt is None or phase is None:
            return
        if isinstance(message, Advertisement):
            attempt.require_heads(member, Moment.ADVERTISE, hashlib.sha256(message.body).digest())
        if not attempt.receive(message, data):
            return
        self._run.latecomers.was_in_time(member, phase)
        if isinstance(message, Advertisement):
            self._run.known_round[member] = max(self._run.known_round[member], message.position.round - 1)
        if isinstance(message, Complaint):
            self._run.log.warning("complaint", member=member, dealer=message.dealer, attempt=message.position.attempt)
        self._taken(member, "message-accepted", kind=type(message).__name__)

    async def _keep(self, attempt: Attempt, upload: Upload) -> None:
        """Keep an upload elsewhere before anybody relies on it, without the run's lock: others are heard meanwhile."""
        if self._run.spool.elsewhere:
            async with self._run.context.storing:
                await in_thread(attempt.keep, upload)

    async def _receipt(self, member: str, receipt: Receipt, data: bytes) -> None:
        attempt = self._attempt(member, receipt.position)
        if attempt is None:
            return
        attempt.require_heads(member, Moment.UPLOAD, receipt.masked_hash)
        if not attempt.may_count(receipt):  # the attempt was opened again since, or the upload is about to be refused
            await self._run.stored(attempt.keep, attempt.upload_of(receipt))
        counted = await self._run.work(attempt.accumulate, receipt)
        if self._run.attempt is not attempt:  # what it builds on could not be committed
            raise _opened_again(member)
        if counted:
            attempt.journal_upload(receipt, data)
            self._run.latecomers.was_in_time(member, Phase.COLLECT_MASKED)
            self._taken(member, "upload-counted", length=receipt.length)

    def _taken(self, member: str, event: str, **details: str | int) -> None:
        self._run.answered(member)
        self._run.log.debug(event, member=member, **details)

    # --- how far a member has come ---

    def _heads(self, member: str, shown: HeadsShown) -> None:
        """Keep a member's heads; older ones, or those of another branch, than it has shown before are refused.

        Raises:
            PeerError: ``E-LEDGER-ROLLBACK``, ``E-ROUND-SIGNATURE``, or as :meth:`_attempt`.
        """
        run = self._run
        attempt = self._attempt(member, shown.position)
        if not keys.verify(run.identities[member], shown.signature, shown.signed_bytes(run.rules.protocol_version)):
            raise _not_kept(member, "E-ROUND-SIGNATURE", "the heads are not signed by its identity key")
        if attempt is None:
            return  # over: nothing that they announce is taken any more
        before = run.last_heads.get(member)
        if shown == before:
            return
        if before is not None and _is_older(shown.journal, before.journal):
            rule = f"its journal ends at record {shown.journal.length}, it showed {before.journal.length}"
            raise _not_kept(member, "E-LEDGER-ROLLBACK", rule)
        if (refusal := attempt.refuses_heads(shown)) is not None:
            raise _not_kept(member, "E-ROUND-CONTEXT", refusal)
        key, now = run.identities[member], run.context.now()
        known = run.context.heads.keep(shown.ledger, name=member, identity_key=key, now=now)
        if known.place != shown.ledger.place:
            rule = f"its ledger ends at record {shown.ledger.sequence}, it showed {known.sequence}"
            raise _not_kept(member, "E-LEDGER-ROLLBACK", rule)
        body, kind = codec.encode_record(shown), HEADS[shown.moment]
        run.rows().replace_event(run.run_id, shown.position, kind=kind, sender=member, body=body, now=now)
        run.last_heads[member] = shown
        attempt.take_heads(shown)

    # --- uploads ---

    async def upload_offset(self, member: str, position: Position, sha256: bytes, length: int) -> int:
        """Announce an upload and return from which byte it goes on.

        Raises:
            PeerError: it is not expected now, or of a wrong length.
        """
        run = self._run
        run.latecomers.heard_of(member)
        async with run.uploading(member):  # and not the run's: nobody waits for another's disk
            attempt = await self._collecting(member, position)
            if attempt.counted.get(member) == sha256:  # the answer to its receipt was lost, and others went on
                return length
            upload = attempt.announce(member, sha256, length)
            if member in attempt.machine.answered():
                return length
            done = await in_thread(attempt.offset, upload) if attempt.files.get(member) else 0
            if done == length:  # the answer to the last chunk was lost, or it could not be kept then
                await self._keep(attempt, upload)
            return done

    async def write_chunk(self, member: str, position: Position, sha256: bytes, offset: int, data: bytes) -> int:
        """Append a chunk and return the next offset.

        Raises:
            PeerError: ``E-WIRE-CHUNK``, or it is not expected now.
        """
        run = self._run
        async with run.uploading(member):
            attempt = await self._collecting(member, position)
            upload = attempt.announced(member, sha256)
            if member in attempt.machine.answered():
                return attempt.length
            after = await in_thread(attempt.append, upload, offset, data)
            if after == upload.length:
                await self._keep(attempt, upload)
            attempt.timer.bytes_moved(member, after, upload.length)
            return after

    async def _collecting(self, member: str, position: Position) -> Attempt:
        await self._run.opened()
        attempt = self._attempt(member, position)
        if attempt is None:
            raise PeerError.by_participant(member, "E-WIRE-UNEXPECTED", Phase.COLLECT_MASKED, "the attempt is over")
        return attempt

    # --- measurements ---

    def _measured(self, member: str, one: Evaluation) -> None:
        run = self._run
        released = run.released(one.round)
        if member not in run.evaluators or released is None or released.sha256 != one.adapter_sha256:
            raise PeerError.by_participant(
                member, "E-WIRE-UNEXPECTED", Phase.EVALUATION, "no such measurement was asked of it"
            )
        signed = SignedEvaluation(
            plan_hash=one.plan_hash,
            evaluator=member,
            round=one.round,
            adapter_sha256=one.adapter_sha256,
            data_sha256=one.data_sha256,
            metrics=one.metrics,
            examples=one.examples,
            signature=one.signature,
        )
        if not signed.verifies(run.rules):
            raise PeerError.by_participant(
                member, "E-ROUND-SIGNATURE", Phase.EVALUATION, "the measurement is not signed by the evaluator"
            )
        if (one.round, member) in run.measured:
            return
        now = run.context.now()
        run.also(lambda connection: run_rows.add_evaluation(connection, member, one, now), run.distrust_memory)
        run.measured.add((one.round, member))
        run.answered(member)
        run.log.info("evaluated", member=member, round=one.round)


def _opened_again(member: str) -> PeerError:
    rule = "the attempt is being opened again; try again"
    return PeerError.by_participant(member, "E-WIRE-UNEXPECTED", Phase.ADVERTISE_KEYS, rule)


def _is_older(shown: JournalHead, before: JournalHead) -> bool:
    return shown.length < before.length or (shown.length == before.length and shown.hash != before.hash)


def _not_kept(member: str, code: str, rule: str) -> PeerError:
    return PeerError.by_participant(member, code, Phase.ADVERTISE_KEYS, rule)
