"""One real daemon of a data owner among simulated peers, and the coordinator's round machine that drives them all."""

from __future__ import annotations

import numpy as np

from coordinator.protocol.round import CoordinatorRound
from privacy.errors import Phase
from privacy.ledger_entries import Charge
from privacy.secagg.hashes import adapter_hash, genesis_transcript
from privacy.secagg.messages import AttemptOffer, Position, Receipt, SurvivorProposal, UnmaskRequest
from protos.envelope import (
    Abstained,
    AttemptOpened,
    KeysAdvertised,
    PlanProposed,
    RoundCompleted,
    SharesDealt,
    SurvivorsProposed,
    UnmaskRequested,
)
from tests.worlds.federation import Federation
from tests.worlds.owner import INITIAL_ADAPTER, Killed, OwnerDirectory, content, give, owned_plan, policy_text, zeros
from tests.worlds.plans import sign_plan, verified


class Rehearsal:
    """A coordinator's round machine, four simulated peers, and one daemon on disk."""

    def __init__(self, path, *, name="alice", mode="distributed", policy=None, **overrides):
        self.name = name
        self.plan = owned_plan(mode=mode, **overrides)
        self.world = Federation(n=5)
        self.world.plan = verified(self.plan)
        self.world.transcript = genesis(self.world)
        for one in self.world.participants:
            self.world.participants[one] = self.world._participant(one, 0)
        others = [one for one in self.world.participants if one != name]
        self.me = OwnerDirectory(path, name=name, plan=self.plan, policy=policy or policy_text(roster=others))
        self.adapter = zeros(self.plan)
        for data in (self.adapter, INITIAL_ADAPTER):
            self.me.link.contents[content(data).sha256] = data
        self.daemon = self.me.daemon()
        self.machine: CoordinatorRound | None = None

    def propose(self):
        """Let the coordinator propose the plan; return the answer."""
        give(
            self.daemon,
            PlanProposed(self.plan.run_id, self.plan.to_bytes(), sign_plan(self.plan), content(INITIAL_ADAPTER)),
        )
        return self.me.link.take()

    def restart(self):
        """Start a new daemon on the same disk; the old one is not heard of again."""
        self.me.link.before = self.me.link.after = lambda what: None
        self.daemon = self.me.daemon()

    def offer(self, number, attempt):
        """Return an honest offer."""
        position = Position(self.world.plan.hash, number, attempt)
        return AttemptOffer(position, self.world.transcript, adapter_hash(self.adapter))

    def open(self, number=1, attempt=1):
        """Open an attempt."""
        self.machine = CoordinatorRound(self.world.plan, self.offer(number, attempt))

    def task(self):
        """Return what the coordinator asks of this participant now, if it waits for it."""
        machine, run_id = self.machine, self.plan.run_id
        if self.name not in machine.expected() - machine.answered():
            return None
        if machine.phase is Phase.ADVERTISE_KEYS:
            return AttemptOpened(run_id, machine.offer, content(self.adapter), tuple(self.world.completed))
        match machine.outbox(self.name):
            case SurvivorProposal() as proposal:
                return SurvivorsProposed(run_id, proposal)
            case UnmaskRequest() as request:
                return UnmaskRequested(run_id, request)
            case told if machine.phase is Phase.SHARE_KEYS:
                return KeysAdvertised(run_id, told)
            case told:
                return SharesDealt(run_id, machine.offer.position, told)

    def ask_me(self):
        """Hand the current task over; a daemon that is killed starts again and is asked again."""
        task = self.task()
        if task is None:
            return
        try:
            give(self.daemon, task)
        except Killed:
            self.restart()
            self.receive()
            again = self.task()
            if again is not None:
                give(self.daemon, again)
        self.receive()

    def receive(self):
        """Deliver what this participant has sent."""
        for message in self.me.link.take():
            if isinstance(message, Receipt):
                self.machine.accumulate(message, self.me.link.uploads[-1][1])
            elif isinstance(message, Abstained):
                self.machine.abstain(self.name)
            elif message.position == self.machine.offer.position:
                self.machine.receive(message)

    def ask_others(self):
        """Let the simulated peers answer."""
        for name in sorted(self.machine.expected() - {self.name}):
            told = self.machine.offer if self.machine.phase is Phase.ADVERTISE_KEYS else self.machine.outbox(name)
            for answer in self.world.participants[name].hear(told):
                Federation._hand_over(self.machine, answer)

    def phase(self):
        """Play a phase."""
        self.ask_me()
        self.ask_others()
        self.machine.close()

    def round(self, number=1, attempt=1):
        """Play a whole attempt and return its result."""
        self.open(number, attempt)
        while self.machine.phase is not Phase.RESULT:
            self.phase()
        return self.finish()

    def finish(self):
        """Hand the certificate to everybody and return the result."""
        result = self.machine.result
        self.world.completed.append(result.certificate)
        self.world.transcript = result.certificate.transcript(self.world.transcript)
        for name in self.world.participants:
            if name != self.name:
                self.world.participants[name].hear(result.certificate)
        give(self.daemon, RoundCompleted(self.plan.run_id, result.certificate))
        return result

    def blobs(self):
        """Return the names of the files of updates."""
        return sorted(one.name for one in (self.me.home.runs / self.plan.run_id).glob("*-*"))

    def charges(self):
        """Return what the ledger was charged with."""
        return [one.entry for one in self.me.ledger().rows() if isinstance(one.entry, Charge)]


def genesis(world):
    """Return what stands before the first round."""
    return genesis_transcript(world.plan.hash)


def exact(rehearsal, result):
    """Return the survivors after checking that the sum is theirs, each counted once."""
    survivors = result.certificate.survivors.ids
    assert np.array_equal(result.total(), rehearsal.world.one_hot(survivors))
    return survivors
