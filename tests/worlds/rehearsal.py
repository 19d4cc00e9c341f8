"""One real daemon of a data owner among simulated peers, and the coordinator's round machine that drives them all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.protocol.round import CoordinatorRound, Outgoing, RoundResult
from methods.global_adapter import iterate_bytes, next_state, without_sum
from methods.optimizer import OptimizerState
from participant.runs.participation import Participation
from participant.runs.tasks import RoundTask
from privacy.errors import Phase
from privacy.heads import JournalHead, LedgerHead, Moment
from privacy.ledger_entries import Charge
from privacy.plan import PROTOCOL_VERSION
from privacy.plan_parts import Mode
from privacy.secagg.hashes import adapter_hash, genesis_transcript
from privacy.secagg.messages import (
    Advertisement,
    AdvertisementSet,
    AttemptOffer,
    HolderShares,
    MaskedUpload,
    Position,
    Receipt,
    RoundCertificate,
    SurvivorProposal,
    UnmaskRequest,
    VoidedRound,
)
from protos.envelope import (
    Abstained,
    AttemptOpened,
    ContentRef,
    Evaluation,
    HeadsShown,
    KeysAdvertised,
    MemberLeft,
    MessageWithHeads,
    PlanApproved,
    PlanProposed,
    PlanRefused,
    RoundCompleted,
    RoundKnown,
    SharesDealt,
    Submission,
    SurvivorsProposed,
    UnmaskRequested,
)
from tests.worlds.expect import expect
from tests.worlds.federation import Federation
from tests.worlds.owner import INITIAL_ADAPTER, Killed, OwnerDirectory, content, give, owned_plan, policy_text
from tests.worlds.plans import sign_plan, signing_key, verified

InRound = AdvertisementSet | HolderShares | SurvivorProposal | UnmaskRequest | RoundCertificate
ME = "alice"  # whose daemon is the real one


class Rehearsal:
    """A coordinator's round machine, four simulated peers, and one daemon on disk."""

    def __init__(
        self,
        path: Path,
        *,
        name: str = ME,
        mode: Mode = "distributed",
        policy: str | None = None,
        **overrides: Any,
    ) -> None:
        self.name = name
        self.plan = owned_plan(mode=mode, **overrides)
        self.world = Federation(n=5)
        self.world.plan = verified(self.plan)
        self.world.transcript = genesis(self.world)
        for member in self.world.participants:
            self.world.participants[member] = self.world.new_participant(member, 0)
        others = [member for member in self.world.participants if member != name]
        self.me = OwnerDirectory(path, name=name, plan=self.plan, policy=policy or policy_text(roster=others))
        self.state = OptimizerState.start(np.zeros(self.plan.recipe.state_entries, dtype=np.float32))
        self.sums: list[ContentRef] = []
        self.voided: list[VoidedRound] = []
        self.serve(INITIAL_ADAPTER)
        self.daemon = self.me.daemon()
        self._machine: CoordinatorRound | None = None

    @property
    def adapter(self) -> bytes:
        """What the next round starts from, as it is hashed."""
        return bytes(iterate_bytes(self.state.iterate))

    def serve(self, data: bytes) -> ContentRef:
        """Let the coordinator have some content; return its reference."""
        self.me.link.contents[content(data).sha256] = data
        return content(data)

    @property
    def machine(self) -> CoordinatorRound:
        """The coordinator's machine of the attempt that was opened last."""
        assert self._machine is not None, "no attempt was opened"
        return self._machine

    @machine.setter
    def machine(self, machine: CoordinatorRound) -> None:
        self._machine = machine

    @property
    def part(self) -> Participation:
        """The daemon's part in the run."""
        return self.daemon._runs.part(self.plan.run_id)

    def propose(self) -> list[Submission]:
        """Let the coordinator propose the plan; return the answer."""
        give(
            self.daemon,
            PlanProposed(self.plan.run_id, self.plan.to_bytes(), sign_plan(self.plan), content(INITIAL_ADAPTER)),
        )
        return self.me.link.take()

    def restart(self) -> None:
        """Start a new daemon on the same disk; the old one is not heard of again."""
        self.me.link.before = self.me.link.after = lambda what: None
        self.daemon = self.me.daemon()

    def offer(self, number: int, attempt: int) -> AttemptOffer:
        """Return an honest offer."""
        position = Position(self.world.plan.hash, number, attempt)
        return AttemptOffer(position, self.world.transcript, adapter_hash(self.adapter))

    def open(self, number: int = 1, attempt: int = 1) -> None:
        """Open an attempt."""
        self.machine = CoordinatorRound(self.world.plan, self.offer(number, attempt))

    def outbox(self) -> Outgoing | None:
        """Return what the coordinator has for this participant."""
        return self.machine.outbox(self.name)

    def advertisements(self) -> tuple[Advertisement, ...]:
        """Return the keys of the round, which the coordinator now sends to this participant."""
        return expect(AdvertisementSet, self.outbox()).advertisements

    def due_task(self) -> RoundTask | None:
        """Return what the coordinator asks of this participant now, or ``None`` if it waits for nothing from it."""
        return self.task() if self.name in self.machine.expected() - self.machine.answered() else None

    def task(self) -> RoundTask:
        """Return what the coordinator asks of this participant now, which must be something."""
        machine, run_id = self.machine, self.plan.run_id
        assert self.name in machine.expected() - machine.answered(), "the coordinator waits for nothing from it"
        told = self.outbox()
        assert told is not None
        if isinstance(told, AttemptOffer):
            return AttemptOpened(run_id, told, tuple(self.sums), tuple(self.world.completed), tuple(self.voided))
        return task_that_says(told, run_id)

    def ask_me(self) -> None:
        """Hand the current task over; a daemon that is killed starts again and is asked again."""
        task = self.due_task()
        if task is None:
            return
        try:
            give(self.daemon, task)
        except Killed:
            self.restart()
            self.receive()
            again = self.due_task()
            if again is not None:
                give(self.daemon, again)
        self.receive()

    def receive(self) -> None:
        """Deliver what this participant has sent."""
        for submission in self.me.link.take():
            match submission:
                case Receipt():
                    self.machine.receive(MaskedUpload(submission, self.me.link.uploads[-1][1]))
                case Abstained() if submission.position == self.machine.offer.position:
                    self.machine.abstain(self.name)
                case Abstained():
                    pass  # from an attempt that is over
                case PlanApproved() | PlanRefused() | Evaluation() | HeadsShown() | RoundKnown() | MemberLeft():
                    raise AssertionError(f"no answer to a task of a round: {submission}")
                case MessageWithHeads():
                    raise AssertionError("the link of this world keeps heads apart")
                case message if message.position == self.machine.offer.position:
                    self.machine.receive(message)

    def ask_others(self) -> None:
        """Let the simulated peers answer."""
        for name in sorted(self.machine.expected() - {self.name}):
            for answer in self.world.participants[name].hear(self.machine.outbox(name)):
                self.machine.receive(answer)

    def phase(self) -> None:
        """Play a phase."""
        self.ask_me()
        self.ask_others()
        self.machine.close()

    def round(self, number: int = 1, attempt: int = 1) -> RoundResult:
        """Play a whole attempt and return its result."""
        self.open(number, attempt)
        while self.machine.phase is not Phase.RESULT:
            self.phase()
        return self.finish()

    def finish(self) -> RoundResult:
        """Hand the certificate to everybody and return the result."""
        result = self.machine.result
        self.certify(result)
        give(self.daemon, RoundCompleted(self.plan.run_id, result.certificate))
        return result

    def certify(self, result: RoundResult) -> None:
        """Let a round be over for the coordinator and the simulated peers, who hear its certificate."""
        self.world.completed.append(result.certificate)
        self.world.transcript = result.certificate.transcript(self.world.transcript)
        self.sums.append(self.serve(result.words.tobytes()))
        self.state = next_state(self.plan, self.state, result.blocks(), result.survivors)
        for name in self.world.participants:
            if name != self.name:
                self.world.participants[name].hear(result.certificate)

    def void(self, number: int) -> None:
        """Let a round be over without a sum, for the coordinator and the simulated peers; the daemon hears of it."""
        voided = VoidedRound(self.world.plan.hash, number)
        self.world.transcript = voided.transcript(self.world.transcript)
        self.state = without_sum(self.plan, self.state)
        self.voided.append(voided)
        for name in self.world.participants:
            if name != self.name:
                self.world.participants[name].hear(voided)

    def blobs(self) -> list[str]:
        """Return the names of the files of updates."""
        return sorted(file.name for file in (self.me.home.runs / self.plan.run_id).glob("*-*"))

    def charges(self) -> list[Charge]:
        """Return what the ledger was charged with."""
        return [record.entry for record in self.me.ledger().rows() if isinstance(record.entry, Charge)]


def task_that_says(told: InRound, run_id: str) -> RoundTask:
    """Return the task in which a coordinator says this to a participant."""
    match told:
        case AdvertisementSet(advertisements):
            return KeysAdvertised(run_id, advertisements, heads_with(advertisements))
        case HolderShares(shares, u2):
            return SharesDealt(run_id, shares[0].position, shares, u2)
        case SurvivorProposal():
            return SurvivorsProposed(run_id, told, heads_with(told.receipts))
        case UnmaskRequest():
            return UnmaskRequested(run_id, told)
        case RoundCertificate():
            return RoundCompleted(run_id, told)


def heads_with(messages: Iterable[Advertisement | Receipt], *, sequence: int = 1) -> tuple[HeadsShown, ...]:
    """Return what the senders of keys, or of receipts, show with them: ledgers with so many records."""
    ledger, shown = LedgerHead(sequence, bytes([sequence]) * 32), []
    for message in messages:
        if isinstance(message, Advertisement):
            moment, about = Moment.ADVERTISE, hashlib.sha256(message.body).digest()
        else:
            moment, about = Moment.UPLOAD, message.masked_hash
        unsigned = HeadsShown(message.position, message.sender, moment, JournalHead(1, bytes(32)), ledger, about)
        signature = signing_key(message.sender).sign(unsigned.signed_bytes(PROTOCOL_VERSION))
        shown.append(replace(unsigned, signature=signature))
    return tuple(shown)


def genesis(world: Federation) -> bytes:
    """Return what stands before the first round."""
    return genesis_transcript(world.plan.hash)


def exact(rehearsal: Rehearsal, result: RoundResult) -> tuple[str, ...]:
    """Return the survivors after checking that the sum is theirs, each counted once."""
    survivors = result.certificate.survivors.ids
    assert np.array_equal(result.total(), rehearsal.world.one_hot(survivors))
    return survivors
