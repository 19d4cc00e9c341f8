"""Plans that were proposed to this participant, and what its owner decided, on disk.

Guarantees: a plan is kept only if the operator pinned at joining signed it; the same run id with other bytes is refused
and nothing is overwritten; a decision is written once, whole, and signed when it is an approval.
Leaves to others: who may decide and by which rules (``approval``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from host import durable
from host.credentials import DIRECTORY_MODE
from host.locks import held
from participant.home import Home
from privacy import canonical
from privacy.error_codes import REGISTRY
from privacy.errors import LocalError, PeerError, Phase, PlanError, VerificationError
from privacy.plan import VerifiedPlan
from privacy.plan_parts import Count, Hex256, Name

_RUN_ID = re.compile(r"^[0-9a-f]{32}$")
INITIAL_ADAPTER = "initial_adapter.safetensors"
ModelT = TypeVar("ModelT", bound=BaseModel)


class OverruledRule(BaseModel):
    """A rule of the policy that the person who decided has overruled, and what it said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    says: str


class Decision(BaseModel):
    """What the owner decided about a plan: who, when, how, and the hash of what was shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["approved", "refused"]
    plan_hash: Hex256
    who: str
    at: Count
    by: Literal["hand", "policy"]
    dataset: Name | None = None  # None for an evaluator, and in a refusal
    model: Name | None = None
    roster_verified: bool = False
    signature: str = ""  # of the identity key over the approval, in hexadecimal
    code: str = ""  # of a refusal
    because: str = ""  # what the owner chose to tell the operator; of an overruling approval, why (told to nobody)
    overruled: tuple[OverruledRule, ...] = ()  # by ``who``


class Ended(BaseModel):
    """How a run ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: str
    code: str
    at: Count

    @property
    def words(self) -> str:
        """How and why, for a person."""
        known = REGISTRY.get(self.code)
        why = f"{self.code}, {known.what}" if known else self.code
        return f"{self.state}: {why}" if why else self.state


class Rehearsal(BaseModel):
    """What a round of a plan takes on this machine, as it was seen on synthetic rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: Count  # of a round's training at most, rounded up
    mib: Count  # the most that the process had, base and data included
    device: str
    at: Count


@dataclass(frozen=True, slots=True)
class _Kept:
    """A plan on disk, and what its bytes were verified to be."""

    data: bytes
    signature: bytes
    verified: VerifiedPlan


class PlanStore:
    """The plans in a participant's directory, by run id."""

    def __init__(self, home: Home, operator_key: bytes, *, decisions: Path | None = None) -> None:
        self._home = home
        self._decisions = decisions or home.plans / "decisions.lock"  # shared where a budget is
        self.operator_key = operator_key
        self._lock = RLock()
        self._deciding = False
        self._going_on: dict[str, _Kept] = {}  # approved ones alone: a stranger may propose any number of others

    def verify(self, data: bytes, signature: bytes) -> VerifiedPlan:
        """Return a proposed plan, of which nothing is kept yet.

        Raises:
            PeerError: ``E-PLAN-SIGNATURE``, ``E-PLAN-MALFORMED`` or ``E-PLAN-RULE``.
        """
        try:
            return VerifiedPlan.verify(data, signature, self.operator_key)
        except PlanError as error:
            raise PeerError.by_coordinator(error.code, Phase.PLAN, error.rule) from None

    def put(self, data: bytes, signature: bytes) -> VerifiedPlan:
        """Verify a proposed plan and keep it; the same plan again changes nothing.

        Raises:
            PeerError: ``E-PLAN-SIGNATURE``, ``E-PLAN-MALFORMED``, ``E-PLAN-RULE`` or ``E-PLAN-CHANGED``.
            LocalError: ``E-DISK-FULL``.
        """
        verified = self.verify(data, signature)
        directory = self.directory(verified.plan.run_id)
        kept = directory / "plan.json"
        if kept.exists():
            if kept.read_bytes() != data:
                rule = f"run {verified.plan.run_id} came back with another plan than the one that was seen first"
                raise PeerError.by_coordinator("E-PLAN-CHANGED", Phase.PLAN, rule)
            return verified
        durable.make_directory(directory, mode=DIRECTORY_MODE)
        durable.write(directory / "plan.sig", signature)
        durable.write(kept, data)  # last: with this name the plan is there
        return verified

    def get(self, run_id: str) -> VerifiedPlan:
        """Return a kept plan, verified again.

        One that goes on is verified once for the same bytes: of a hundred members that takes milliseconds, and each
        poll asks for it.

        Raises:
            LocalError: ``E-NOT-FOUND``.
            VerificationError: ``E-STATE-DAMAGED``: it was changed on disk.
        """
        return self._kept(run_id).verified

    def _kept(self, run_id: str) -> _Kept:
        directory, known = self.directory(run_id), self._going_on.get(run_id)
        try:
            data, signature = (directory / "plan.json").read_bytes(), (directory / "plan.sig").read_bytes()
        except FileNotFoundError:
            raise LocalError("E-NOT-FOUND", f"no plan of run {run_id} was proposed here") from None
        if known is not None and (known.data, known.signature) == (data, signature):
            return known
        try:
            return _Kept(data, signature, VerifiedPlan.verify(data, signature, self.operator_key))
        except PlanError:  # it did verify when it was kept
            raise VerificationError(
                "E-STATE-DAMAGED", f"{directory} has another plan than the one that was proposed; restore a backup"
            ) from None

    def signature(self, run_id: str) -> bytes:
        """Return the operator's signature over a kept plan."""
        return (self.directory(run_id) / "plan.sig").read_bytes()

    def find(self, start: str) -> str:
        """Return the run id that begins like this; of an empty beginning, that of the one plan that waits.

        Raises:
            LocalError: ``E-NOT-FOUND``, none or several do.
        """
        if not start:
            return self._waiting()
        found = [run_id for run_id in self.run_ids() if run_id.startswith(start)]
        if len(found) != 1:
            says = "several plans" if found else "no plan"
            raise LocalError(
                "E-NOT-FOUND", f"{says} of a run that begins with {start!r}; see `onlysum participant plan list`"
            )
        return found[0]

    def _waiting(self) -> str:
        found = [run_id for run_id in self.open_runs() if self.decision(run_id) is None]
        if len(found) != 1:
            says = f"{len(found)} plans wait, name one" if found else "no plan waits"
            raise LocalError("E-NOT-FOUND", f"{says}; see `onlysum participant plan list --pending`")
        return found[0]

    def run_ids(self) -> tuple[str, ...]:
        """Return the run ids of all kept plans, oldest first."""
        kept = (path.parent for path in self._home.plans.glob("*/plan.json") if _RUN_ID.match(path.parent.name))
        return tuple(path.name for path in sorted(kept, key=lambda one: ((one / "plan.json").stat().st_mtime, one)))

    def open_runs(self) -> tuple[str, ...]:
        """Return the run ids of all kept plans whose runs have not ended, as far as is known here."""
        return tuple(run_id for run_id in self.run_ids() if not (self.directory(run_id) / "ended.json").exists())

    def going_on(self, *, strictly: bool = False) -> tuple[VerifiedPlan, ...]:
        """Return the plans of the runs that were approved here and have not ended, damaged ones aside.

        Args:
            strictly: raise instead where one is damaged: whoever asks does not take part in its run.

        Raises:
            VerificationError, LocalError: ``E-STATE-DAMAGED``.
        """
        aside = () if strictly else (VerificationError, LocalError)  # whoever takes part meets it, and says so
        found: dict[str, _Kept] = {}
        for run_id in self.run_ids() if strictly else self.open_runs():
            with suppress(*aside):
                decision = self.decision(run_id)
                if decision is not None and decision.verdict == "approved" and self.ended(run_id) is None:
                    found[run_id] = self._kept(run_id)
        self._going_on = found
        return tuple(kept.verified for kept in found.values())

    def directory(self, run_id: str) -> Path:
        """Return where a run's plan lies."""
        if not _RUN_ID.match(run_id):
            raise LocalError("E-NOT-FOUND", f"{run_id!r} is no run id")
        return self._home.plans / run_id

    def initial_adapter(self, run_id: str) -> Path:
        """Return where the initial adapter of a run lies once it was downloaded and hashed."""
        return self.directory(run_id) / INITIAL_ADAPTER

    def initial_bytes(self, run_id: str) -> int:
        """Return how many bytes the initial adapter of a run has here, also while it is still coming."""
        path = self.initial_adapter(run_id)
        return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))

    def decision(self, run_id: str) -> Decision | None:
        """Return what was decided, or ``None`` while the plan waits."""
        return _read(self.directory(run_id) / "decision.json", Decision)

    def decide(self, run_id: str, decision: Decision) -> None:
        """Write a decision down; an approval may be turned into a refusal, nothing else is changed.

        Raises:
            LocalError: ``E-EXISTS``.
        """
        with self.deciding():
            before = self.decision(run_id)
            if before is not None and not (before.verdict == "approved" and decision.verdict == "refused"):
                raise LocalError("E-EXISTS", f"the plan of run {run_id} was {before.verdict} by {before.who} already")
            _write(self.directory(run_id) / "decision.json", decision)

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Let nobody else decide about any plan meanwhile: neither a command nor the daemon, in any thread or process.

        What a decision rests on is read inside. A thread that decides already may enter again.
        """
        with self._lock:
            if self._deciding:
                yield
                return
            with held(self._decisions):
                self._deciding = True
                try:
                    yield
                finally:
                    self._deciding = False

    def rehearsal(self, run_id: str) -> Rehearsal | None:
        """Return what a round was seen to take, or ``None`` before a dry run."""
        return _read(self.directory(run_id) / "rehearsal.json", Rehearsal)

    def note_rehearsal(self, run_id: str, rehearsal: Rehearsal) -> None:
        """Write down what a round takes; the last rehearsal counts."""
        _write(self.directory(run_id) / "rehearsal.json", rehearsal)

    def ended(self, run_id: str) -> Ended | None:
        """Return how a run ended, or ``None``."""
        return _read(self.directory(run_id) / "ended.json", Ended)

    def end(self, run_id: str, ended: Ended) -> None:
        """Write down how a run ended."""
        _write(self.directory(run_id) / "ended.json", ended)


def _write(path: Path, value: BaseModel) -> None:
    durable.write(path, canonical.encode(value.model_dump(mode="json")) + b"\n")


def _read(path: Path, kind: type[ModelT]) -> ModelT | None:
    if not path.exists():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError:
        raise LocalError("E-STATE-DAMAGED", f"{path} does not parse; delete it and decide again") from None
