"""How a plan comes to a decision: judged by the policy, then by a person or by the policy itself.

Guarantees: nobody approves a plan that a rule of the policy refuses, unless the policy lets this person overrule that
rule, for what it says now and with a reason that is kept; an approval records who, when and the hash that
was shown, and is signed by the identity key; every change of the policy is a row of the ledger.
Leaves to others: the rules (``assessment``), what the owner sees (``screen``), telling the coordinator (``runner``).
"""

from __future__ import annotations

import getpass
import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

from host import configuration
from participant.home import Home
from participant.owner.cost import cost_of
from participant.owner.ledger import Ledger
from participant.owner.plan_store import Decision, OverruledRule, PlanStore
from participant.owner.policy import Policy, load_policy, parse_policy
from participant.owner.registry import DatasetEntry, ModelEntry, Registry
from participant.owner.reservations import Neighbours, NoNeighbours, Reservation, Reservations
from participant.owner.rules import (
    Assessment,
    Cost,
    LocalContext,
    LocalDataset,
    Outcome,
    Overrule,
    assess,
    may_overrule,
)
from privacy.errors import LocalError, OnlysumError, RefusedError
from privacy.interfaces import Clock
from privacy.ledger_entries import PolicyChange
from privacy.plan import Plan, VerifiedPlan, signed_approval_bytes
from privacy.printable import first_unprintable
from privacy.secagg.keys import SigningKey
from protos.envelope import DatasetOffer

NOTIFY_SECONDS = 30  # a notify command that takes longer is left to itself


@dataclass(frozen=True, slots=True)
class Owner:
    """Who this participant is, as its certificate, identity key and pinned authority say."""

    name: str
    federation: str
    identity: SigningKey
    ca_fingerprint: str  # SHA-256 of the authority's certificate, in hexadecimal
    followed: tuple[str, ...] = ()  # of the authorities from which that one follows, newest first


@dataclass(frozen=True, slots=True)
class Judged:
    """A plan beside everything on this machine that bears on it."""

    verified: VerifiedPlan
    assessment: Assessment
    cost: Cost | None
    population: str | None
    policy: Policy
    dataset: DatasetEntry | None
    model: ModelEntry | None


class PlanReview:
    """Where plans are judged and decided."""

    def __init__(
        self,
        home: Home,
        owner: Owner,
        plans: PlanStore,
        ledger: Ledger,
        clock: Clock,
        *,
        neighbours: Neighbours | None = None,
    ) -> None:
        self._home = home
        self._owner = owner
        self._ledger = ledger
        self._clock = clock
        self.plans = plans
        self.registry = Registry(home)
        self.reservations = Reservations(plans, ledger, owner.name)
        self._neighbours: Neighbours = neighbours or NoNeighbours()

    def has_authority(self, ca_fingerprint: str, followed: Sequence[str]) -> None:
        """Compare plans with another authority from now on: it follows from the present one, or that has ended."""
        self._owner = replace(self._owner, ca_fingerprint=ca_fingerprint, followed=tuple(followed))

    def offers(self) -> tuple[DatasetOffer, ...]:
        """Return what the handshake announces: in rows where the policy lets a single row of a person be the unit."""
        try:
            as_rows = load_policy(self._home).example_level
        except OnlysumError:  # nothing is approved or trained until it is corrected
            as_rows = frozenset()
        return self.registry.offers(as_rows=as_rows)

    def policy(self) -> Policy:
        """Read the policy as it is now and note a change of it in the ledger.

        Raises:
            LocalError: ``E-CONFIG-*``; until it is corrected nothing is approved or trained.
        """
        text = configuration.read_text(self._home.policy)
        policy = parse_policy(text)
        summary = f"{len(policy.dataset)} datasets, {len(policy.population)} populations, {policy.approval.mode}"
        change = PolicyChange(
            member=self._owner.identity.public,
            policy_sha256=hashlib.sha256(text.encode()).digest(),
            summary=summary,
        )
        self._ledger.note_policy(change, at=int(self._clock.now()))
        return policy

    def judge(
        self,
        verified: VerifiedPlan,
        dataset_name: str | None = None,
        overruled: Sequence[Overrule] = (),
        *,
        policy: Policy | None = None,
    ) -> Judged:
        """Compare a plan with the policy, the registry and the ledger.

        Args:
            verified: the plan.
            dataset_name: the dataset to use; by default the one that was decided, or the plan's name for it.
            overruled: the rules that a person has overruled for this plan.
            policy: to try; by default the one that holds.
        """
        plan, policy = verified.plan, policy or self.policy()
        dataset = self._dataset(dataset_name or plan.recipe.task.data)
        model = self.registry.model_with_hash(plan.recipe.base.hash)
        section = policy.dataset.get(dataset.name) if dataset else None
        population = section.population if section else None
        cost, unknown = None, ""
        if population is not None:
            reserved, unknown = self._reserved(verified, population, policy)
            spent = self._ledger.spent(population)
            cost = cost_of(verified, policy.population[population], spent, reserved=reserved)
        apart, unread = self._charged_apart(dataset)
        unknown = unknown or unread
        local = LocalContext(
            me=self._owner.name,
            identity_key=self._owner.identity.public,
            federation=self._owner.federation,
            ca_fingerprint=self._owner.ca_fingerprint,
            followed=self._owner.followed,
            now=self._clock.now(),
            dataset=_seen_by_policy(dataset),
            base_registered=model is not None,
            cost=cost,
            charged_to=self._ledger.populations_of_run(verified.hash),
            data_charged_to=self._ledger.populations_of_data(dataset.sha256 if dataset else ""),
            data_charged_apart=apart,
            neighbours_unknown=unknown,
        )
        return Judged(verified, assess(plan, policy, local, overruled), cost, population, policy, dataset, model)

    def _reserved(self, verified: VerifiedPlan, population: str, policy: Policy) -> tuple[tuple[Reservation, ...], str]:
        """Return what other approved runs reserve; for a run that is approved itself nothing: it has its place."""
        decision = self.plans.decision(verified.plan.run_id)
        if decision is not None and decision.verdict == "approved":
            return (), ""
        return self.reserved(population, policy, apart_from=verified.hash)

    def reserved(
        self, population: str, policy: Policy, *, apart_from: bytes = b""
    ) -> tuple[tuple[Reservation, ...], str]:
        """Return what approved runs reserve of a population's budget, those of others on this machine among them.

        Returns:
            The reservations, and why those of others are not known; empty if they are.
        """
        now = self._clock.now()
        own = self.reservations.of(population, policy, now=now, apart_from=apart_from)
        try:
            return (*own, *self._neighbours.reserved(population, now=now)), ""
        except OnlysumError as error:
            return own, error.detail

    def _charged_apart(self, dataset: DatasetEntry | None) -> tuple[tuple[str, ...], str]:
        """Return to whom the data was charged on other ledgers of this machine, and why that is not known, if so."""
        try:
            return self._neighbours.charged_apart(dataset.sha256 if dataset else ""), ""
        except OnlysumError as error:
            return (), error.detail

    def judge_run(self, run_id: str, dataset_name: str | None = None) -> Judged:
        """Judge a kept plan, with the dataset that was chosen when it was decided."""
        decision = self.plans.decision(run_id)
        chosen = dataset_name or (decision.dataset if decision else None)
        taken = [Overrule(rule.rule, rule.says, decision.who) for rule in decision.overruled] if decision else []
        return self.judge(self.plans.get(run_id), chosen, taken)

    def approve(
        self,
        run_id: str,
        *,
        who: str | None = None,
        dataset_name: str | None = None,
        overruling: Sequence[str] = (),
        because: str = "",
    ) -> Decision:
        """Approve a plan by hand.

        Args:
            run_id: of the plan.
            who: decides; by default whoever is logged in, who cannot overrule anything.
            dataset_name: by default the plan's name for it.
            overruling: names of broken rules that ``who`` takes upon itself, where the policy lets it.
            because: why, kept with the decision; demanded where a rule is overruled.

        Raises:
            RefusedError: a rule of the policy refuses it, or ``who`` is not among the approvers, or may not overrule.
            LocalError: ``E-USAGE``: overruling without a name, a reason or a broken rule.
        """
        with self.plans.deciding():  # no other approval counts on the same budget meanwhile
            verified = self.plans.get(run_id)
            judged = self.judge(verified, dataset_name)
            person = approver(who, judged.policy.approval.approvers)
            if overruling:
                taken = _overruled(judged, overruling, who=who, because=because)
                judged = self.judge(verified, dataset_name, taken)
            if refusal := judged.assessment.refusal():
                raise refusal
            return self._write_approval(run_id, judged, who=person, by_hand=True, because=because)

    def decide_by_policy(self, run_id: str) -> Decision:
        """Decide without a person, where the policy says so: approve if every rule is met, refuse if one is broken.

        A refusal tells the operator the names of the broken rules, not the figures in them.

        Raises:
            RefusedError: ``E-POLICY-WAITING``: a person decides, or approved runs reserve what it needs; the detail
                names what is broken so far.
        """
        with self.plans.deciding():
            return self._decide_by_policy(run_id)

    def _decide_by_policy(self, run_id: str) -> Decision:
        judged = self.judge(self.plans.get(run_id))
        refusal, may = judged.assessment.refusal(), judged.policy.approval.may_overrule
        if judged.policy.approval.mode == "by-hand":
            broken = f"; the policy refuses it: {refusal.detail}" if refusal else ""
            raise RefusedError("E-POLICY-WAITING", f"the plan of run {run_id} waits for a person{broken}")
        if refusal is not None and judged.assessment.waits_for_runs:
            raise RefusedError("E-POLICY-WAITING", f"the plan of run {run_id} waits for others: {refusal.detail}")
        if refusal is not None and all(rule.name in may for rule in judged.assessment.broken):
            detail = f"the plan of run {run_id} waits for who may overrule {refusal.detail}"
            raise RefusedError("E-POLICY-WAITING", detail)
        if refusal is not None:
            because = "refused by policy: " + ", ".join(rule.name for rule in judged.assessment.broken)
            return self._write_refusal(run_id, who="policy", by_hand=False, code=refusal.code, because=because)
        if not judged.assessment.by_policy:
            raise RefusedError("E-POLICY-WAITING", f"the plan of run {run_id} waits for a person: unknown members")
        return self._write_approval(run_id, judged, who="policy", by_hand=False)

    def accept_as_evaluator(self, run_id: str) -> Decision:
        """Take note of a plan whose adapters this member measures on public data: nothing private is touched."""
        verified = self.plans.get(run_id)
        signature = self._owner.identity.sign(signed_approval_bytes(verified.hash, self._owner.name))
        decision = Decision(
            verdict="approved",
            plan_hash=verified.hash.hex(),
            who="evaluator",
            at=int(self._clock.now()),
            by="policy",
            dataset=verified.plan.evaluation.data,
            signature=signature.hex(),
        )
        self.plans.decide(run_id, decision)
        return decision

    def refuse(self, run_id: str, *, because: str, who: str | None = None) -> Decision:
        """Refuse a plan; an approved one may still be refused, which ends this participant's part in the run.

        Raises:
            LocalError: ``E-USAGE``, the coordinator would not take these words.
        """
        if (character := first_unprintable(because)) is not None:
            raise LocalError("E-USAGE", f"--because: has a character that cannot be shown, {character}")
        person = approver(who, self.policy().approval.approvers)
        return self._write_refusal(run_id, who=person, by_hand=True, code="E-POLICY-REFUSED", because=because)

    def _write_refusal(self, run_id: str, *, who: str, by_hand: bool, code: str, because: str) -> Decision:
        decision = Decision(
            verdict="refused",
            plan_hash=self.plans.get(run_id).hash.hex(),
            who=who,
            at=int(self._clock.now()),
            by="hand" if by_hand else "policy",
            code=code,
            because=because,
        )
        self.plans.decide(run_id, decision)
        return decision

    def _write_approval(self, run_id: str, judged: Judged, *, who: str, by_hand: bool, because: str = "") -> Decision:
        dataset, model = judged.dataset, judged.model
        if dataset is None or model is None:
            raise LocalError("E-BUG", "a plan without dataset or base model met every rule")
        signature = self._owner.identity.sign(signed_approval_bytes(judged.verified.hash, self._owner.name))
        decision = Decision(
            verdict="approved",
            plan_hash=judged.verified.hash.hex(),
            who=who,
            at=int(self._clock.now()),
            by="hand" if by_hand else "policy",
            dataset=dataset.name,
            model=model.name,
            roster_verified=judged.assessment.roster_verified,
            signature=signature.hex(),
            because=because,
            overruled=tuple(
                OverruledRule(rule=rule.name, says=rule.says)
                for rule in judged.assessment.rules
                if rule.outcome is Outcome.OVERRULED
            ),
        )
        self.plans.decide(run_id, decision)
        return decision

    def _dataset(self, name: str) -> DatasetEntry | None:
        try:
            return self.registry.dataset(name)
        except OnlysumError as error:
            if error.code != "E-NOT-FOUND":
                raise
            return None


def _seen_by_policy(dataset: DatasetEntry | None) -> LocalDataset | None:
    if dataset is None:
        return None
    return LocalDataset(
        dataset.name,
        dataset.units,
        dataset.rows,
        dataset.user_column,
        dataset.population,
        dataset.another_population,
    )


def _overruled(judged: Judged, names: Sequence[str], *, who: str | None, because: str) -> list[Overrule]:
    """Return what a person takes upon itself: rules that are broken, and that the policy lets this person overrule."""
    if not who or not because.strip():
        raise LocalError("E-USAGE", "--overrule needs --as NAME and --because TEXT: it is kept who did it, and why")
    _require_printable(because)
    broken = {rule.name: rule for rule in judged.assessment.broken}
    for name in names:
        if name not in broken:
            raise LocalError("E-USAGE", f"--overrule {name}: this rule does not refuse the plan")
        if not may_overrule(judged.policy, name, who):
            allowed = ", ".join(judged.policy.approval.may_overrule.get(name, ())) or "nobody"
            raise RefusedError(
                "E-POLICY-RULE", f"{name} may be overruled by {allowed} (approval.may_overrule), not {who}"
            )
    return [Overrule(name, broken[name].says, who) for name in names]


def _require_printable(text: str, option: str = "--because") -> None:
    if (character := first_unprintable(text)) is not None:
        raise LocalError("E-USAGE", f"{option}: has a character that cannot be shown, {character}")


def approver(who: str | None, approvers: Sequence[str]) -> str:
    """Return who decides: the named person, or who runs this command.

    Raises:
        RefusedError: ``E-POLICY-RULE``, the policy names approvers and this person is none.
    """
    person = who or _login()
    _require_printable(person, "--as")
    if approvers and person not in approvers:
        listed = ", ".join(approvers)
        raise RefusedError("E-POLICY-RULE", f"approval.approvers: {person} is not among {listed}; use --as NAME")
    return person


def _login() -> str:
    """Return who runs this command; in a container a user id often has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid-{os.getuid()}"


def notify(command: Sequence[str], run_id: str, *, message: str = "") -> str | None:
    """Run the owner's notify command without a shell, the run's id as its last argument.

    Args:
        command: program and arguments.
        run_id: of the run that the owner should look at.
        message: what happened, if not that a plan waits; the command finds it in ``ONLYSUM_MESSAGE``.

    Returns:
        What went wrong, or ``None``; a broken notify command never stops the daemon.
    """
    if not command:
        return None
    try:
        done = subprocess.run(  # noqa: S603  # the owner's own command, from participant.toml, without a shell
            [*command, run_id],
            timeout=NOTIFY_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "ONLYSUM_MESSAGE": message},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    return None if done.returncode == 0 else f"exit code {done.returncode}"


def role_in(plan: Plan, name: str) -> str | None:
    """Return ``participant`` or ``evaluator`` as the plan lists a member, or ``None`` if it does not."""
    if any(member.id == name for member in plan.roster):
        return "participant"
    if any(evaluator.id == name for evaluator in plan.evaluation.evaluators):
        return "evaluator"
    return None
