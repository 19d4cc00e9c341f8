"""This participant's part in one run: each task is checked, made durable, and answered.

Guarantees: a record is on disk before its message leaves; a round is charged before it trains and trained at most once
per encoded update; retries mask the encoded update byte for byte; after a restart the part goes on from the journal, or
the attempt is forfeited; nothing of a round outlives its close but the journal.
Leaves to others: the checks (``round``), what memory means (``phase``), sending (``sender``), errors (``runner``).
Source: docs/protocol.md sections 5 and 6.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from host import durable
from methods.vectors import joined
from participant.home import certificate_file, erase_updates
from participant.protocol.memory import RunRefused, UpdateEncoded, shares_from_bytes, shares_to_bytes
from participant.protocol.round import (
    Advertised,
    Complained,
    Masked,
    Participant,
    Ready,
    Shared,
    Step,
    advertise,
    complete,
)
from participant.runs.consent import Consent
from participant.runs.context import DaemonContext, TrainingJob
from participant.runs.journal import Journal
from participant.training.trainer import Trainer
from privacy.errors import LocalError, OnlysumError, PeerError, Phase
from privacy.secagg.hashes import adapter_hash
from privacy.secagg.messages import Position, RoundCertificate, ShareBundle
from protos import codec
from protos.envelope import (
    AttemptAborted,
    AttemptOpened,
    ContentRef,
    KeysAdvertised,
    RoundCompleted,
    SharesDealt,
    SurvivorsProposed,
    UnmaskRequested,
    UploadAnnounced,
)

ADAPTER_FORMAT: Final = np.dtype("<f4")
# What the key of a round's coins and noise fails with: it is made before a batch is drawn, so this tells of no data.
BEFORE_DATA: Final = frozenset({"E-RANDOM-REPEATED", "E-DISK-FULL", "E-DISK-FAILED"})

_log = structlog.get_logger("onlysum.participant")


RoundTask = (
    AttemptOpened | KeysAdvertised | SharesDealt | SurvivorsProposed | UnmaskRequested | RoundCompleted | AttemptAborted
)
State = Advertised | Shared | Masked


def position_of(task: RoundTask) -> Position:
    """Return the attempt that a task belongs to."""
    match task:
        case AttemptOpened():
            return task.offer.position
        case KeysAdvertised():
            return task.advertisements[0].offer.position
        case SurvivorsProposed():
            return task.proposal.position
        case UnmaskRequested():
            return task.request.proposal.position
        case RoundCompleted():
            return task.certificate.position
        case SharesDealt() | AttemptAborted():
            return task.position


class Participation:
    """One approved run; made again from disk after a restart."""

    def __init__(self, work: DaemonContext, job: TrainingJob) -> None:
        """Open the journal.

        Raises:
            VerificationError: ``E-STATE-DAMAGED``.
        """
        self._work = work
        self._job = job
        self._party = Participant(job.verified, job.me, work.owner.identity)
        self._run_id = job.verified.plan.run_id
        self._journal = Journal.open(work.home.runs / self._run_id, job.verified.hash)
        self._state: State | None = self._resumed()
        self._bundle: ShareBundle | None = None
        self._adapter: NDArray[np.float32] | None = None
        self._trainer: Trainer | None = None
        self._trained: tuple[int, NDArray[np.int64]] | None = None
        self._opened_at: float | None = None
        self._consent = Consent(work, job)
        self._log = _log.bind(run=self._run_id)

    @property
    def highest(self) -> tuple[int, int]:
        """The last (round, attempt) that was advertised."""
        return self._journal.memory.highest

    @property
    def round_in_progress(self) -> bool:
        """Whether an attempt has begun here and its round has not closed."""
        return self._state is not None

    def prepare(self) -> None:
        """Load base and data and run the self-check, once per process; nothing is charged."""
        if self._trainer is None:
            trainer = self._work.make_trainer(self._job)
            trainer.prepare()
            self._trainer = trainer

    def refuse_for_good(self, code: str) -> None:
        """Take no part in this run any more, also after a restart."""
        if not self._journal.memory.refused:
            self._journal.append(RunRefused(code))
        self._state = None

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
                self._commit(self._masked(position_of(task)).on_survivors(task.proposal, self._journal.memory))
            case UnmaskRequested():
                step = self._masked(position_of(task)).on_unmask(task.request, self._journal.memory)
                self._commit(step, state=step.state)
            case RoundCompleted():
                self._on_completed(task.certificate)
            case AttemptAborted():
                self._log.info(
                    "attempt aborted", round=task.position.round, attempt=task.position.attempt, code=task.code
                )
                if self._at() == task.position:
                    self._state = None

    def close(self) -> None:
        """Erase what a run leaves behind: its encoded and masked updates."""
        self._close_round()
        self._trainer = self._adapter = None

    def _close_round(self) -> None:
        erase_updates(self._work.home.runs / self._run_id)
        self._state = self._trained = None

    # --- the phases ---

    def _on_opened(self, task: AttemptOpened) -> None:
        offer = task.offer
        if isinstance(self._state, Advertised) and self._state.own.offer == offer:
            self._work.sender.submit(self._state.own, of=(self._run_id, offer.position))
            return
        self._opened_at = self._work.clock.monotonic()
        for certificate in task.history:
            self._on_completed(certificate)
        self._consent.require()
        self.prepare()
        adapter = self._fetch_adapter(task.adapter, offer.adapter_hash, offer.position)
        step = advertise(self._party, offer, self._journal.memory, self._work.random)
        self._commit(step, state=step.state, send=False)  # if this fails, the attempt before goes on as it was
        self._adapter, self._bundle = adapter, None
        self._work.sender.submit(step.state.own, of=(self._run_id, offer.position))

    def _fetch_adapter(self, content: ContentRef, expected: bytes, position: Position) -> NDArray[np.float32]:
        """Download, hash and parse the global adapter from one buffer."""
        entries = self._party.plan.plan.recipe.state_entries
        if content.length != entries * ADAPTER_FORMAT.itemsize:
            raise PeerError.by_coordinator(
                "E-ROUND-CONTEXT",
                Phase.ADVERTISE_KEYS,
                f"the adapter is announced as {content.length} bytes for {entries} entries",
            )
        data = self._work.sender.download(content, of=(self._run_id, position))
        if adapter_hash(data) != expected:
            raise PeerError.by_coordinator(
                "E-ROUND-CONTEXT", Phase.ADVERTISE_KEYS, "the adapter is not the one that the offer names"
            )
        if position.round == 1 and data != self._start():
            raise PeerError.by_coordinator(
                "E-ROUND-CONTEXT",
                Phase.ADVERTISE_KEYS,
                "the first round does not start from the plan's initial adapter",
            )
        return np.frombuffer(data, dtype=ADAPTER_FORMAT).astype(np.float32)

    def _start(self) -> bytes:
        """Return the vector of the plan's initial adapter, whose hash the owner approved."""
        recipe, path = self._party.plan.plan.recipe, self._job.initial_adapter
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != recipe.adapter.initial_hash:
            raise LocalError("E-ADAPTER-HASH", f"{path} is not the plan's initial adapter any more")
        try:
            return joined(recipe, load(data)).astype(ADAPTER_FORMAT).tobytes()
        except SafetensorError:
            raise PeerError.by_coordinator(
                "E-PLAN-RULE", Phase.ADVERTISE_KEYS, "the initial adapter is not what the plan's manifest describes"
            ) from None

    def _on_keys(self, task: KeysAdvertised) -> None:
        position = position_of(task)
        match self._state:
            case Advertised() if self._at() == position:
                step = self._state.on_advertisements(task.advertisements, self._work.random)
                self._bundle = step.message if isinstance(step.message, ShareBundle) else None
                self._commit(step, state=step.state)
            case Shared() if self._at() == position and self._bundle is not None:
                self._work.sender.submit(self._bundle, of=(self._run_id, position))
            case _:
                raise _forfeited(position)

    def _on_shares(self, task: SharesDealt) -> None:
        match self._state:
            case Shared() if self._at() == task.position:
                step = self._state.on_shares(task.told)
                match step.state:
                    case Ready():
                        self._send_masked(task.position, self._mask(step.state))
                    case Complained():
                        self._log.warning("bad shares", dealer=step.state.dealer, round=task.position.round)
                        self._commit(step)
                        self._state = None
            case Masked() if self._at() == task.position:  # the upload or its receipt was cut short
                self._send_masked(task.position, self._masked_again(task.position))
            case _:
                raise _forfeited(task.position)

    def _mask(self, ready: Ready) -> memoryview:
        """Mask this round's update, make that durable, and return it."""
        position = ready.offer.position
        update = self._encoded(ready)
        self._work.sender.still_wanted(self._run_id, position)
        step, masked = ready.mask(update, threads=self._work.settings.threads)
        self._journal.store(_masked_name(position), masked)
        self._journal.store(_shares_name(position), shares_to_bytes(step.state.shares))
        self._commit(step, state=step.state, send=False)
        self._log.info("masked", round=position.round, attempt=position.attempt, bytes=len(masked))
        return masked

    def _masked_again(self, position: Position) -> bytes:
        """Return the masked update that lies on disk."""
        data = self._journal.load(_masked_name(position), self._masked(position).record.receipt.masked_hash)
        if data is None:
            raise LocalError("E-STATE-DAMAGED", f"the masked update of round {position.round} is lost")
        return data

    def _encoded(self, ready: Ready) -> NDArray[np.int64]:
        """Return this round's encoded update: the one on disk, or a new one, charged first and then written."""
        offer, number = ready.offer, ready.offer.position.round
        # As wide as the ring: weights and masks are applied modulo 2^bits, so that nothing is lost.
        form = np.dtype(f"<i{self._party.plan.plan.encoding.ring_bits // 8}")
        known = self._journal.memory.encoded_in(number)
        if known is not None:
            data = self._journal.load(_encoded_name(number), known.sha256)
            if data is None:
                raise LocalError("E-STATE-DAMAGED", f"the encoded update of round {number} is lost: abstaining")
            return np.frombuffer(data, dtype=form).astype(np.int64)
        self._consent.charge(number)
        update = self._train(number)
        encoded = update.astype(form).data.cast("B")
        self._journal.store(_encoded_name(number), encoded)
        sha256 = hashlib.sha256(encoded).digest()
        self._journal.append(UpdateEncoded(number, sha256, offer.adapter_hash, offer.previous_transcript))
        self._trained = None
        return update

    def _train(self, number: int) -> NDArray[np.int64]:
        if self._trained is not None and self._trained[0] == number:
            return self._trained[1]  # the disk was full when it was to be written
        if self._trainer is None or self._adapter is None:
            raise LocalError("E-BUG", "a round reached training without a trainer or an adapter")
        progress = self._work.show_progress(run_id=self._run_id, round_number=number)
        try:
            update = self._trainer.train(number, self._adapter, progress)
        except Exception as error:  # whatever happened there may depend on the data
            if isinstance(error, LocalError) and error.code in BEFORE_DATA:
                raise
            self._log.error("training failed", round=number, kind=type(error).__name__)
            raise LocalError("E-BUG", f"training failed with {type(error).__name__}: abstaining") from None
        self._trained = (number, update)
        return update

    def _send_masked(self, position: Position, masked: bytes | memoryview) -> None:
        receipt = self._masked(position).record.receipt
        clock, started = self._work.clock, self._opened_at
        earliest = (
            clock.monotonic() if started is None else started
        ) + self._party.plan.plan.privacy.upload_after_ms / 1000
        self._work.sender.pause(earliest - clock.monotonic())
        upload = UploadAnnounced(self._run_id, position, receipt.masked_hash, receipt.length)
        self._work.sender.upload(upload, masked)
        self._work.sender.submit(receipt, of=(self._run_id, position))

    def _on_completed(self, certificate: RoundCertificate) -> None:
        memory, number = self._journal.memory, certificate.position.round
        if number != memory.completed + 1:
            return  # known already, or the next offer brings the rounds between
        try:
            verified = self._state.quorum if isinstance(self._state, Masked) else None
            record = complete(self._party, certificate, memory, verified=verified)
        except PeerError as error:
            if error.code == "E-ROUND-TRANSCRIPT":
                self.refuse_for_good(error.code)
            raise
        certificate_path = certificate_file(self._work.home.runs / self._run_id, number)
        durable.write(certificate_path, codec.encode_certificate(certificate))  # before the record that relies on it
        self._journal.append(record)
        self._close_round()
        if record.alarm:
            self._log.warning("this participant uploaded and was left out of the sum", round=number)
        self._log.info("round completed", round=number, survivors=len(record.survivors))

    # --- helpers ---

    def _commit(self, step: Step[object], *, state: State | None = None, send: bool = True) -> None:
        """Make the record durable, move on, then send: in this order."""
        if step.record is not None:
            self._journal.append(step.record)
        if state is not None:
            self._state = state
        if send and step.message is not None:
            self._work.sender.submit(step.message, of=(self._run_id, step.message.position))

    def _resumed(self) -> State | None:
        memory = self._journal.memory
        masked = memory.masked
        if memory.refused or masked is None or masked.round <= memory.completed:
            return None
        if (masked.round, masked.attempt) != memory.highest:
            return None
        shares = self._journal.load(_shares_name(masked.offer.position), masked.shares_hash)
        return None if shares is None else Masked(self._party, masked, shares_from_bytes(shares))

    def _at(self) -> Position | None:
        match self._state:
            case Advertised():
                return self._state.own.offer.position
            case Shared():
                return self._state.offer.position
            case Masked():
                return self._state.record.offer.position
            case None:
                return None

    def _masked(self, position: Position) -> Masked:
        if isinstance(self._state, Masked) and self._at() == position:
            return self._state
        raise _forfeited(position)


# Names with a dash are of what a round leaves behind: ``home.erase_updates`` goes by it.


def _encoded_name(number: int) -> str:
    return f"encoded-{number}"


def _masked_name(position: Position) -> str:
    return f"masked-{position.round}-{position.attempt}"


def _shares_name(position: Position) -> str:
    return f"shares-{position.round}-{position.attempt}"


def _forfeited(position: Position) -> OnlysumError:
    detail = f"round {position.round}, attempt {position.attempt} was forfeited by a restart, or never begun here"
    return LocalError("E-ROUND-PHASE", detail)
