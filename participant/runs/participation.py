"""This participant's part in one run: each task is told to the round machine, and what it asks for is done.

Guarantees: files and record of a step are on disk before its message leaves; after a restart the part goes on from the
journal, or the attempt is forfeited; nothing of a round outlives its close but the journal.
Leaves to others: the checks (``participant.protocol``), what a round costs and that it is trained once
(``round_update``), sending (``delivery``), errors (``participant.daemon.runner``).
Source: docs/protocol.md sections 5 and 6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import methods
from host import durable
from host.logs import get_logger
from participant.home import certificate_file, erase_updates
from participant.owner.peer_heads import PeerHeads
from participant.protocol.member import Participant
from participant.protocol.memory import RoundClosed, masked_name, shares_from_bytes, shares_name
from participant.protocol.round import hear
from participant.protocol.states import Advertised, Idle, Masked, Ready, Shared, State
from participant.protocol.step import Message, Step
from participant.protocol.transitions import Abort, EncodedUpdate, Told
from participant.runs.consent import Consent
from participant.runs.context import DaemonContext, TrainingJob
from participant.runs.global_adapter import GlobalAdapter
from participant.runs.journal import Journal
from participant.runs.round_training import RoundTraining
from participant.runs.round_update import KeptSums, RoundUpdate
from participant.runs.tasks import RoundTask, position_of
from privacy.errors import LocalError, OnlysumError, PeerError, Phase
from privacy.heads import HeadsShown, Moment
from privacy.plan import Plan
from privacy.secagg.messages import (
    Advertisement,
    AdvertisementSet,
    Complaint,
    HolderShares,
    MaskedUpload,
    Position,
    RoundCertificate,
    SurvivorSignature,
    UnmaskShares,
    VoidedRound,
)
from protos import codec
from protos.envelope import (
    Abstained,
    AttemptAborted,
    AttemptOpened,
    KeysAdvertised,
    MessageWithHeads,
    RecordedMessage,
    RoundCompleted,
    RoundKnown,
    RoundVoided,
    SharesDealt,
    SurvivorsProposed,
    UnmaskRequested,
    UploadAnnounced,
)

_log = get_logger("onlysum.participant")


class Participation:
    """One approved run; made again from disk after a restart."""

    def __init__(self, work: DaemonContext, job: TrainingJob) -> None:
        """Open the journal.

        Raises:
            VerificationError: ``E-STATE-DAMAGED``.
        """
        self._work = work
        self._job = job
        self._participant = Participant(job.verified, job.me, work.owner.identity)
        self._run_id = job.verified.plan.run_id
        self._journal = Journal.open(work.home.runs / self._run_id, job.verified.hash)
        self._state: State = self._resumed()
        self._opened_at: float | None = None
        self._consent = Consent(work, job)
        self._training = RoundTraining(work, job)
        directory = work.home.runs / self._run_id
        self._adapter = GlobalAdapter(self._plan, job.initial_adapter, directory, work.sender)
        self._peer_heads = PeerHeads(work.home.peer_heads)
        keeps = methods.get(self._plan.recipe.adapter.method).keeps
        home = self._training if keeps else None
        word = self._plan.layout(1).ring.dtype
        encode = self._participant.encode
        sums = KeptSums.of_plan(self._plan, self._training)
        self._update = RoundUpdate(self._journal, self._consent, encode, word, me=job.me, home=home, sums=sums)
        self._log = _log.bind(run=self._run_id)

    @property
    def _plan(self) -> Plan:
        return self._participant.plan.plan

    @property
    def plan_hash(self) -> bytes:
        """The plan, by its hash."""
        return self._participant.plan.hash

    @property
    def highest(self) -> tuple[int, int]:
        """The last (round, attempt) that was advertised."""
        return self._journal.memory.highest

    @property
    def journal(self) -> Journal:
        """What was promised in this run."""
        return self._journal

    @property
    def round_in_progress(self) -> bool:
        """Whether an attempt has begun here and its round has not closed."""
        return not isinstance(self._state, Idle)

    def prepare(self) -> None:
        """Load base and data and run the self-check, once per process; nothing is charged."""
        self._training.prepare()

    def refuse_for_good(self, code: str) -> None:
        """Take no part in this run any more, also after a restart."""
        self._journal.refuse(code)
        self._state = Idle(self._participant)
        self._erase_useless()

    def may_abstain(self, position: Position) -> bool:
        """Return whether abstaining is safe and of use: nothing masked of this attempt may have left."""
        masked = self._journal.memory.masked
        return masked is None or masked.offer.position.order < position.order

    def handle(self, task: RoundTask) -> None:
        """Answer a task.

        Raises:
            OnlysumError: nothing was sent in answer, and the state is as before.
        """
        match task:
            case AttemptOpened():
                self._on_opened(task)
            case KeysAdvertised():
                self._on_keys(task)
            case SharesDealt():
                self._on_shares(task)
            case SurvivorsProposed():
                self._on_survivors(task)
            case UnmaskRequested():
                self._follow(self._hear(task.request, of=position_of(task)))
            case RoundCompleted():
                self._on_completed(task.certificate)
                self._keep_sum(task)
            case RoundVoided():
                self._on_voided(task.voided)
            case AttemptAborted():
                self._on_aborted(task)

    def close(self) -> None:
        """Let go of the run: its journal is not written to any more. Its files are swept by state (``erasure``)."""
        self._state = Idle(self._participant)
        self._update.forget()
        self._training.close()

    # --- tasks that take more than telling the machine ---

    def _on_opened(self, task: AttemptOpened) -> None:
        offer = task.offer
        if isinstance(self._state, Advertised) and self._state.own.offer == offer:
            self._send(self._state.own)
            return
        self._opened_at = self._work.clock.monotonic()
        at = offer.position
        if at.plan_hash == self._participant.plan.hash and 1 <= at.round <= self._journal.memory.completed:
            self._show_completed(offer.position)
        self._catch_up(task)
        self._consent.require()
        self.prepare()
        step = self._hear(offer)
        adapter = self._adapter.start_of(offer, task.sums, task.adapter, voided=self._journal.memory.voided)
        self._keep(step)  # if this fails, the attempt before goes on as it was
        self._erase_useless()  # what the attempt before has stored: it is closed for ever
        self._training.start_from(adapter)
        self._send(step.message)

    def _show_completed(self, offered: Position) -> None:
        """Show a coordinator that offers a round again the certificate of a later one: it was set back.

        Raises:
            PeerError: ``E-COORDINATOR-ROLLBACK``, always.
        """
        done, path = self._journal.memory.completed, self._work.home.runs / self._run_id
        rule = f"it offers round {offered.round} again, but round {done} was completed: it was set back, or lies"
        try:
            certificate = codec.decode_certificate(certificate_file(path, done).read_bytes(), sender="coordinator")
            self._work.sender.submit(RoundKnown(self._run_id, certificate))  # wanted, though that attempt is over
        except (OnlysumError, OSError) as error:
            self._log.warning("the coordinator was not shown that it was set back", kind=type(error).__name__)
        raise PeerError.by_coordinator("E-COORDINATOR-ROLLBACK", Phase.ADVERTISE_KEYS, rule)

    def _on_keys(self, task: KeysAdvertised) -> None:
        position = position_of(task)
        if isinstance(self._state, Shared) and self._state.position == position:
            self._send(self._state.bundle)
        else:
            step = self._hear(AdvertisementSet(task.advertisements), of=position)
            about = {keys.sender: hashlib.sha256(keys.body).digest() for keys in task.advertisements}
            self._admit(task.heads, position, Moment.ADVERTISE, about)
            self._follow(step)

    def _on_survivors(self, task: SurvivorsProposed) -> None:
        position, receipts = position_of(task), task.proposal.receipts
        step = self._hear(task.proposal, of=position)
        about = {receipt.sender: receipt.masked_hash for receipt in receipts}
        self._admit(task.heads, position, Moment.UPLOAD, about)
        self._follow(step)

    def _admit(self, heads: Sequence[HeadsShown], at: Position, moment: Moment, about: Mapping[str, bytes]) -> None:
        """Go on with members alone whose ledgers are as new as was ever seen here, and keep how new they are."""
        self._peer_heads.admit(self._plan, heads, at=at, moment=moment, about=about)

    def _on_shares(self, task: SharesDealt) -> None:
        if isinstance(self._state, Masked) and self._state.position == task.position:
            self._send(self._masked_before(self._state))  # the upload or its receipt was cut short
            return
        step = self._hear(HolderShares(task.shares, task.u2), of=task.position)
        match step.state, step.message:
            case Ready() as ready, _:
                self._mask(ready)
            case _, Complaint() as complaint:
                self._log.warning("bad shares", dealer=complaint.dealer, round=task.position.round)
                self._send(complaint)  # first, so that it is repeated to a coordinator that does not take it yet
                self._keep(step)

    def _mask(self, ready: Ready) -> None:
        """Mask this round's update, make that durable, and send it."""

        def train(number: int) -> NDArray[np.int64]:
            shown = self._heads(Moment.TRAIN, ready.position)  # the charge is known before anything follows from it
            self._work.sender.submit(shown, of=(self._run_id, ready.position))
            return self._training.train(number)

        words = self._update.encoded(ready.offer, train)
        self._work.sender.still_wanted(self._run_id, ready.position)
        update = EncodedUpdate(words, threads=self._work.settings.threads)
        step = hear(ready, update, self._journal.memory, self._work.random)
        self._keep(step)
        self._log.info("masked", round=ready.position.round, attempt=ready.position.attempt, words=words.size)
        self._send(step.message)

    def _masked_before(self, state: Masked) -> MaskedUpload:
        """Return the masked update that lies on disk."""
        receipt = state.record.receipt
        data = self._journal.load(masked_name(state.position), receipt.masked_hash)
        if data is None:
            raise LocalError("E-STATE-DAMAGED", f"the masked update of round {state.position.round} is lost")
        return MaskedUpload(receipt, data)

    def _on_completed(self, certificate: RoundCertificate) -> None:
        number = certificate.position.round
        if number != self._journal.memory.completed + 1:
            return  # known already, or the next offer brings the rounds between
        try:
            step = self._hear(certificate)
        except PeerError as error:
            if error.code == "E-ROUND-TRANSCRIPT":
                self.refuse_for_good(error.code)
            raise
        certificate_path = certificate_file(self._work.home.runs / self._run_id, number)
        durable.write(certificate_path, codec.encode_certificate(certificate))  # before the record that relies on it
        self._keep(step)
        self._close_round()
        if isinstance(step.record, RoundClosed):
            self._report_closed(step.record)

    def _keep_sum(self, task: RoundCompleted) -> None:
        """Fetch the sum of a measurement, so that this owner's report has the figures; without it they are left out."""
        if task.sum is None or self._plan.recipe.measured is None or self._journal.memory.completed == 0:
            return
        try:
            self._adapter.keep_sum(task.sum)
        except OnlysumError as error:
            self._log.warning("the measurement's sum is not here", code=error.code, detail=error.detail)

    def _catch_up(self, task: AttemptOpened) -> None:
        """Close the rounds that this participant missed, in their order."""
        voided = list(task.voided)
        for certificate in task.history:
            while voided and voided[0].round < certificate.position.round:
                self._on_voided(voided.pop(0))
            self._on_completed(certificate)
        for last in voided:
            self._on_voided(last)

    def _on_voided(self, voided: VoidedRound) -> None:
        if voided.round != self._journal.memory.completed + 1:
            return
        self._keep(self._hear(voided))
        self._close_round()
        self._log.warning("round voided: charged, without a sum", round=voided.round)
        self._say_at_work(voided.position)

    def _report_closed(self, record: RoundClosed) -> None:
        if record.alarm:
            self._log.warning("this participant uploaded and was left out of the sum", round=record.round)
        self._log.info("round completed", round=record.round, survivors=len(record.survivors))

    def _on_aborted(self, task: AttemptAborted) -> None:
        at = task.position
        self._log.info("attempt aborted", round=at.round, attempt=at.attempt, code=task.code)
        if self._position() == at:
            self._follow(self._hear(Abort(at)))
        self._say_at_work(at)

    def _say_at_work(self, closed: Position) -> None:
        """Abstain from an attempt that is over: a coordinator that waited for this daemon may take it for stuck."""
        self._work.sender.submit(Abstained(self._run_id, closed, "E-ROUND-DEADLINE"))

    def _close_round(self) -> None:
        self._erase_useless()
        self._state = Idle(self._participant)
        self._update.forget()

    def _erase_useless(self) -> None:
        """Erase what the journal says is of no use any more; a crash before it is mended by the next sweep."""
        erase_updates(self._work.home.runs / self._run_id, keep=self._journal.memory.files)

    # --- what a step asks of its caller ---

    def _hear(self, told: Told, *, of: Position | None = None) -> Step[State]:
        """Tell the machine; what belongs to another attempt than the one in progress, or to none, is not told."""
        if of is not None and self._position() != of:
            lost = isinstance(self._state, Idle) and of.order == self.highest
            if lost and not self._journal.memory.refused:
                detail = f"round {of.round}, attempt {of.attempt} was forfeited by a restart: its keys were in memory"
                raise LocalError("E-ROUND-RESTART", detail)
            detail = f"round {of.round}, attempt {of.attempt} is not the attempt in progress here"
            raise LocalError("E-ROUND-PHASE", detail)
        return hear(self._state, told, self._journal.memory, self._work.random)

    def _follow(self, step: Step[State]) -> None:
        """Make durable what a step keeps, go on, then send: in this order."""
        self._keep(step)
        self._send(step.message)

    def _keep(self, step: Step[State]) -> None:
        for file in step.files:
            self._journal.store(file.name, file.data)
        if step.record is not None:
            self._journal.append(step.record)
        self._state = step.state

    def _send(self, message: Message | None) -> None:
        match message:
            case None:
                return
            case MaskedUpload():
                self._upload(message)
            case Advertisement():
                self._submit(message, Moment.ADVERTISE, hashlib.sha256(message.body).digest())
            case SurvivorSignature():
                self._submit(message, Moment.SIGN)
            case UnmaskShares():
                self._submit(message, Moment.RELEASE)
            case _:  # keys stand for shares and complaints: after a restart none is made again with the same keys
                self._work.sender.submit(message, of=(self._run_id, message.position))

    def _submit(self, message: RecordedMessage, moment: Moment, about: bytes = b"") -> None:
        """Send a message of which the journal has a record, with the heads that say so: both are taken, or neither."""
        shown = self._heads(moment, message.position, about)
        self._work.sender.submit(MessageWithHeads(shown, message), of=(self._run_id, message.position))

    def _heads(self, moment: Moment, at: Position, about: bytes = b"") -> HeadsShown:
        """Return how far journal and ledger have come, signed."""
        me = self._participant
        unsigned = HeadsShown(at, me.me, moment, self._journal.head, self._work.ledger.head(), about)
        return replace(unsigned, signature=me.identity.sign(unsigned.signed_bytes(me.parameters.protocol_version)))

    def _upload(self, upload: MaskedUpload) -> None:
        """Send a masked update, not before the plan's least time since the attempt was opened, then its receipt."""
        receipt, at = upload.receipt, upload.position
        now = self._work.clock.monotonic()
        opened_at = now if self._opened_at is None else self._opened_at
        self._work.sender.pause(opened_at + self._plan.privacy.upload_after_ms / 1000 - now)
        announced = UploadAnnounced(self._run_id, at, receipt.masked_hash, receipt.length)
        self._work.sender.upload(announced, upload.masked)
        self._submit(receipt, Moment.UPLOAD, receipt.masked_hash)

    def _resumed(self) -> State:
        """Return where this participant stands after a restart."""
        masked = self._journal.memory.resumable
        shares = None if masked is None else self._journal.load(shares_name(masked.offer.position), masked.shares_hash)
        if masked is None or shares is None:
            return Idle(self._participant)
        return Masked(self._participant, masked, shares_from_bytes(shares))

    def _position(self) -> Position | None:
        """Return the attempt in progress."""
        return None if isinstance(self._state, Idle) else self._state.position
