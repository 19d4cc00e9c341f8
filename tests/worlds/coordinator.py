"""A coordinator's daemon without a network: a directory, a runner, and scripted members that poll and submit.

Guarantees: members are the real round machines of the participant; time moves only when a test says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from coordinator.config import Durations, Listener, Settings
from coordinator.daemon.runner import Runner
from coordinator.database import attempt_rows, content_rows, member_rows, run_rows
from coordinator.database.member_rows import MemberRecord
from coordinator.database.run_rows import RunRecord, RunState
from coordinator.database.store import Store
from coordinator.enrolment.authority import Authority, create_authority
from coordinator.home import Home
from coordinator.opened import open_content
from coordinator.runs.global_adapter import RunFiles
from coordinator.runs.run import Run
from coordinator.storage.configured import Storage
from coordinator.storage.content import Content
from participant.protocol.member import Participant
from participant.protocol.states import Idle
from participant.training.trainer import OneHotTrainer
from privacy import canonical
from privacy.errors import PeerError
from privacy.evaluation import Metric, SignedEvaluation
from privacy.heads import JournalHead, Moment
from privacy.plan import Plan, VerifiedPlan, signed_approval_bytes
from privacy.secagg.keys import SigningKey
from privacy.secagg.messages import (
    Advertisement,
    AdvertisementSet,
    HolderShares,
    MaskedUpload,
    Receipt,
    RoundCertificate,
    VoidedRound,
)
from protos import envelope as env
from tests.worlds.federation import MemoryJournal, SeededSource, SimulatedParticipant, VirtualClock
from tests.worlds.plans import CREATED_AT, make_plan, sign_plan, signing_key

EVALUATOR = "referee"
SEVENTY_PERCENT = (Metric("accuracy", "0.700000"),)
RUN_ID = "00112233445566778899aabbccddeeff"

Send = Callable[[Any], Awaitable[None]]


def initial_adapter(entries: int) -> bytes:
    """Return the safetensors file that the small test plans' manifest describes, all zeros but the frozen part."""
    head = max(1, entries // 4)
    return save(
        {
            "base_model.model.layer.q_proj.lora_A.weight": np.ones((2, 4), dtype=np.float32),
            "base_model.model.layer.q_proj.lora_B.weight": np.zeros(entries - head, dtype=np.float32),
            "base_model.model.classifier.weight": np.zeros(head, dtype=np.float32),
        }
    )


@dataclass
class ScriptedMember:
    """A participant's daemon in miniature, over the backend: polls, hears, submits."""

    world: World
    simulated: SimulatedParticipant
    seen: set[bytes] = field(default_factory=set)
    present: bool = True
    approves: bool = True
    ended: str = ""
    shown: int = 0  # records of its ledger
    restarts: int = 0  # so often it restarts after it has advertised: its keys are gone, and it says so
    send: Send = field(init=False)  # how an answer leaves; a test may put a fault here

    def __post_init__(self) -> None:
        self.send = self.deliver

    @property
    def name(self) -> str:
        """Its name."""
        return self.simulated.name

    async def step(self) -> bool:
        """Take the next task, if there is one, and answer it; say whether there was one."""
        if not self.present:
            return False
        task = await self.world.runner.next_task(self.name, frozenset(self.seen), 0)
        if task is None:
            return False
        self.seen.add(task.id)
        for message in self._answers(task.task):
            await self.show_heads(message)
            await self.send(message)
        return True

    async def show_heads(self, message: Any) -> None:
        """Show how far its journal and ledger have come, before its keys and before its upload."""
        match message:
            case Advertisement():
                moment, about = Moment.ADVERTISE, hashlib.sha256(message.body).digest()
            case MaskedUpload():
                moment, about = Moment.UPLOAD, message.receipt.masked_hash
            case _:
                return
        self.shown += 1
        number = hashlib.sha256(str(self.shown).encode()).digest()
        journal, ledger = JournalHead(self.shown, number), env.LedgerHead(self.shown, number, bytes(64))
        unsigned = env.HeadsShown(message.position, self.name, moment, journal, ledger, about)
        signed = unsigned.signed_bytes(self.world.plan.protocol_version)
        await self.send(replace(unsigned, signature=self.world.keys[self.name].sign(signed)))

    def _decision(self, run_id: str) -> env.PlanApproved | env.PlanRefused:
        plan = self.world.plan
        if not self.approves:
            return env.PlanRefused(run_id, plan.hash, "E-POLICY-RULE", "not these rounds")
        signature = self.world.keys[self.name].sign(signed_approval_bytes(plan.hash, self.name))
        return env.PlanApproved(run_id, plan.hash, signature)

    def _answers(self, task: env.Task) -> list[Any]:
        hear = self.simulated.hear
        match task:
            case env.PlanProposed():
                return [self._decision(task.run_id)]
            case env.AttemptOpened():
                closed: list[RoundCertificate | VoidedRound] = [*task.history, *task.voided]
                for entry in sorted(closed, key=lambda entry: entry.position.round):
                    hear(entry)
                return hear(task.offer)
            case env.KeysAdvertised() if self.restarts:
                self.restarts -= 1
                self.simulated.state = Idle(self.simulated.participant)
                return [env.Abstained(task.run_id, task.advertisements[0].position, "E-ROUND-RESTART")]
            case env.KeysAdvertised():
                return hear(AdvertisementSet(task.advertisements))
            case env.SharesDealt():
                return hear(HolderShares(task.shares, task.u2))
            case env.SurvivorsProposed():
                return hear(task.proposal)
            case env.UnmaskRequested():
                return hear(task.request)
            case env.RoundCompleted():
                return hear(task.certificate)
            case env.RoundVoided() | env.AttemptAborted():
                voided = hear(task.voided) if isinstance(task, env.RoundVoided) else []
                at = task.voided.position if isinstance(task, env.RoundVoided) else task.position
                return [*voided, env.Abstained(task.run_id, at, "E-ROUND-DEADLINE")]
            case env.RunEnded():
                self.ended = task.state
        return []

    async def deliver(self, message: Any) -> None:
        """Hand an answer to the coordinator; what was masked leaves with its receipt, in chunks."""
        match message:
            case MaskedUpload(receipt, masked):
                await self.upload(receipt, bytes(masked))
                await self.world.runner.submit(self.name, receipt)
            case _:
                await self.world.runner.submit(self.name, message)

    async def upload(self, receipt: Receipt, masked: bytes, *, until: int | None = None) -> None:
        """Send an upload in chunks of 16 bytes, from where the coordinator says."""
        runner, at, sha = self.world.runner, receipt.position, receipt.masked_hash
        run_id = self.world.plan.run_id
        offset = await runner.upload_offset(self.name, run_id, at, sha, len(masked))
        while offset < len(masked) and (until is None or offset < until):
            data = masked[offset : offset + 16]
            offset = await runner.write_chunk(self.name, run_id, at, sha, offset, data)


class World:
    """A directory, a daemon on it, and its members."""

    def __init__(
        self,
        directory: Path,
        *,
        n: int = 3,
        rounds: int = 2,
        entries: int = 12,
        evaluated: bool = False,
        durations: Durations | None = None,
        database: str = "sqlite:///coordinator.db",
        storage: Storage | None = None,
        **overrides: Any,
    ) -> None:
        self.clock = VirtualClock()
        self.clock.seconds = float(CREATED_AT + 10)
        initial = self._initial = initial_adapter(entries)
        recipe: dict[str, Any] = {"rounds": rounds, "adapter": {"initial_hash": hashlib.sha256(initial).hexdigest()}}
        given = overrides.pop("recipe", {})
        key = signing_key(EVALUATOR).public.hex()
        evaluators = [{"id": EVALUATOR, "identity_key": key}] if evaluated else []
        plan, self.keys = make_plan(
            n=n,
            entries=entries,
            recipe={**recipe, **given},
            evaluation={"evaluators": evaluators, **overrides.pop("evaluation", {})},
            **{"f": 1, **overrides},
        )
        self.plan: Plan = plan
        self.home = Home(directory)
        self.settings = Settings(
            federation="test-federation",
            operator="Test Operator",
            participants=Listener(address="127.0.0.1:1"),
            enrolment=Listener(address="127.0.0.1:2"),
            durations=durations or Durations(),
            database=database,
            storage=storage,
        )
        made = create_authority(
            federation="test-federation", hosts=["127.0.0.1"], random=SeededSource("authority"), now=self.clock.now()
        )
        self.authority: Authority = replace(made, operator_key=_operator_secret())
        self.store = Store.create(self.settings.database_url(self.home))
        self._enrol(evaluated)
        self._register(initial)
        self.runner = self.daemon()
        self.members = {name: self._member(name) for name in sorted(self.keys)}
        self.measured: list[int] = []

    def daemon(self) -> Runner:
        """Return a new daemon on the same directory, as after a restart."""
        return Runner(
            self.store,
            self.home,
            self.settings,
            self.authority,
            clock=self.clock,
            random=SeededSource("runner"),
        )

    def other_daemon(self, address: str) -> Runner:
        """Return another coordinator's daemon on the same database and directory, which members dial at an address."""
        listener = self.settings.participants.model_copy(update={"address": address})
        settings = self.settings.model_copy(update={"participants": listener})
        source = SeededSource("another runner")
        return Runner(self.store, self.home, settings, self.authority, clock=self.clock, random=source)

    def on_another_machine(self, directory: Path, address: str = "127.0.0.1:1") -> Runner:
        """Return a coordinator's daemon on the same database and storage, and a directory of its own."""
        listener = self.settings.participants.model_copy(update={"address": address})
        settings = self.settings.model_copy(update={"participants": listener})
        source = SeededSource(f"runner in {directory}")
        return Runner(self.store, Home(directory), settings, self.authority, clock=self.clock, random=source)

    @property
    def content(self) -> Content | None:
        """Where files of runs are kept, if not in the directory alone."""
        return open_content(self.home, self.settings, self.store)

    def files(self) -> RunFiles:
        """Return the files of the run."""
        content = self.content
        return RunFiles(self.home.run(self.plan.run_id), content.of(self.plan.run_id) if content else None)

    def run(self, runner: Runner | None = None) -> Run:
        """Return the run as a daemon, by default the one that runs, has it in memory."""
        run = (runner or self.runner).run(RUN_ID)
        assert run is not None
        return run

    def _enrol(self, evaluated: bool) -> None:
        everyone = dict.fromkeys(self.keys, env.Role.PARTICIPANT)
        if evaluated:
            everyone[EVALUATOR] = env.Role.EVALUATOR
        with self.store.begin() as connection:
            for name, role in everyone.items():
                member = MemberRecord(
                    name=name,
                    role=role,
                    identity_key=signing_key(name).public,
                    certificate=b"",
                    labels="",
                    software_version="",
                    enrolled_at=CREATED_AT,
                    revoked_at=None,
                )
                member_rows.enrol_member(connection, member, token_id="", request_hash=b"")

    def _register(self, initial: bytes) -> None:
        files = RunFiles(self.home.run(self.plan.run_id))
        files.directory.mkdir(parents=True)
        files.initial.write_bytes(initial)
        files.adapter_config.write_text('{"peft_type":"LORA"}')
        files.write_start(self.plan)
        record = RunRecord(
            run_id=self.plan.run_id,
            plan=self.plan.to_bytes(),
            signature=sign_plan(self.plan),
            state=RunState.CREATED,
            code="",
            reason="",
            paused=False,
            abort_requested=False,
            created_at=CREATED_AT,
            ended_at=None,
        )
        kept = self.content.keep_all(self.plan.run_id) if self.content else ()
        with self.store.begin() as connection:
            run_rows.add_run(connection, record)
            content_rows.add(connection, self.plan.run_id, kept)

    def another_run(self, run_id: str) -> None:
        """Let the same members decide on the same plan once more, made now: the run before has ended."""
        fields = json.loads(self.plan.to_bytes())
        self.plan = Plan.from_bytes(canonical.encode({**fields, "run_id": run_id, "created_at": int(self.clock.now())}))
        self._register(self._initial)
        shown = {name: member.shown for name, member in self.members.items()}
        self.members = {name: self._member(name) for name in sorted(self.keys)}
        for name, member in self.members.items():
            member.shown = shown[name]  # its ledger goes on

    def _member(self, name: str) -> ScriptedMember:
        trainer = OneHotTrainer(self.plan, name)
        nothing = np.zeros(self.plan.recipe.entries, dtype=np.float32)
        plan = VerifiedPlan.verify(self.plan.to_bytes(), sign_plan(self.plan), self.authority.operator.public)
        simulated = SimulatedParticipant(
            participant=Participant(plan, name, self.keys[name]),
            journal=MemoryJournal(self.plan.hash),
            source=SeededSource(name),
            train=lambda number: trainer.train(number, nothing, lambda done, total: None),
        )
        return ScriptedMember(self, simulated)

    async def evaluate(self) -> bool:
        """Let the evaluator take its next task."""
        task = await self.runner.next_task(EVALUATOR, frozenset(), 0)
        if task is None or isinstance(task.task, env.RunEnded):
            return False
        key = signing_key(EVALUATOR)
        match task.task:
            case env.PlanProposed():
                signature = key.sign(signed_approval_bytes(self.plan.hash, EVALUATOR))
                await self.runner.submit(EVALUATOR, env.PlanApproved(self.plan.run_id, self.plan.hash, signature))
            case env.EvaluationAsked() as asked:
                self.measured.append(asked.round)
                await self.runner.submit(EVALUATOR, self.measurement(asked, key))
        return True

    def measurement(self, asked: env.EvaluationAsked, key: SigningKey) -> env.Evaluation:
        """Return a signed measurement."""
        signed = SignedEvaluation(
            plan_hash=self.plan.hash,
            evaluator=EVALUATOR,
            round=asked.round,
            adapter_sha256=asked.adapter.sha256,
            data_sha256=b"d" * 32,
            examples=10,
            metrics=SEVENTY_PERCENT,
        ).signed(key)
        return env.Evaluation(
            self.plan.run_id,
            self.plan.hash,
            asked.round,
            asked.adapter.sha256,
            10,
            SEVENTY_PERCENT,
            b"d" * 32,
            signed.signature,
        )

    async def turn(self) -> bool:
        """Let everybody act once; say whether anybody had something to do."""
        await self.runner.tick()
        busy = [await member.step() for member in self.members.values()]
        if self.plan.evaluation.evaluators:
            busy.append(await self.evaluate())
        return any(busy)

    async def collecting(self) -> tuple[Receipt, bytes]:
        """Let everybody act until alice has masked her update; return it with its receipt, nothing of it sent."""
        caught: list[MaskedUpload] = []
        alice = self.members["alice"]
        send = alice.send

        async def catch(message: Any) -> None:
            if isinstance(message, MaskedUpload):
                caught.append(message)
            else:
                await send(message)

        alice.send = catch
        while not caught:
            await self.turn()
        alice.send = send
        return caught[0].receipt, bytes(caught[0].masked)

    async def settle(self, *, turns: int = 400) -> None:
        """Let everybody act until nobody has anything left to do."""
        idle = 0
        for _ in range(turns):
            idle = 0 if await self.turn() else idle + 1
            if idle > 1:
                return
        raise AssertionError("the federation does not come to rest")

    def state(self) -> RunRecord:
        """Return the run's row."""
        with self.store.read() as connection:
            return run_rows.find_run(connection, self.plan.run_id)

    def answers(self) -> dict[str, bool]:
        """Return who has approved (true) or refused the plan."""
        with self.store.read() as connection:
            return {
                approval.member: approval.approved for approval in run_rows.list_approvals(connection, self.plan.run_id)
            }

    def adapter(self, round_number: int) -> NDArray[np.float32]:
        """Return the global adapter after a round."""
        return np.frombuffer(self.files().iterate(round_number).read_bytes(), dtype="<f4")

    def rounds(self) -> tuple[run_rows.RoundRecord, ...]:
        """Return the completed rounds."""
        with self.store.read() as connection:
            return run_rows.list_rounds(connection, self.plan.run_id)

    def attempts(self) -> tuple[attempt_rows.AttemptRecord, ...]:
        """Return all attempts."""
        with self.store.read() as connection:
            return attempt_rows.list_attempts(connection, self.plan.run_id)


def _operator_secret() -> Any:
    from privacy.secret import SecretBytes

    return SecretBytes(hashlib.sha256(b"onlysum tests: identity key of the operator").digest())


__all__ = ["PeerError", "ScriptedMember", "World", "asyncio"]
