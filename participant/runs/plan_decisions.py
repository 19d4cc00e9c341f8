"""Plans as they come in, and decisions as they go out.

Guarantees: a plan is kept and judged before anybody is asked; an approval leaves only after the self-check has passed,
so that nobody starts a run that cannot be trained here.
Leaves to others: the rules (``approval``), taking part (``runs``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from host import durable
from host.logs import get_logger
from participant.owner.approval import notify, role_in
from participant.owner.plan_store import Decision
from participant.runs.context import DaemonContext
from participant.runs.open_runs import Runs
from privacy.adapter_parts import Tensor
from privacy.errors import OnlysumError, PeerError, Phase
from protos.envelope import PlanApproved, PlanProposed, PlanRefused, Role

RECONSIDER_SECONDS: Final = 5.0  # how often a waiting plan is judged again: its owner may be editing the policy
DISK_SECONDS: Final = 10.0  # for which a disk may refuse before an approved plan is turned down for it
WAITING: Final = "onlysum participant plan show RUN, then plan approve RUN or plan refuse RUN"

FLOAT_BYTES: Final = 4
HEADER_BYTES: Final = 2**16  # of a safetensors file: its length, free metadata
TENSOR_HEADER_BYTES: Final = 256  # of a tensor in that header, beside its key: type, shape and offsets
MAX_INITIAL_BYTES: Final = 2**32  # that all plans of open runs together may bring to this machine, approved or not
MAX_OPEN_RUNS: Final = 32  # whose plans are kept here at a time

_log = get_logger("onlysum.participant")


def largest_initial(tensors: Sequence[Tensor]) -> int:
    """Return how many bytes the safetensors file of a manifest's tensors has at most."""
    header = sum(TENSOR_HEADER_BYTES + 12 * len(tensor.key) for tensor in tensors)  # 12: of a character in JSON
    return HEADER_BYTES + header + FLOAT_BYTES * sum(tensor.entries for tensor in tensors)


class PlanDecisions:
    """Takes proposals and sends decisions."""

    def __init__(self, work: DaemonContext, role: Role, runs: Runs) -> None:
        self._work = work
        self._role = role
        self._runs = runs
        self._waiting: dict[str, float] = {}  # runs whose plan waits, and when it was last judged
        self._said: dict[str, str] = {}  # why, as last logged
        self._disk_since: dict[str, float] = {}  # approved runs that the disk keeps from being prepared
        self._refused: set[str] = set()  # runs whose refusal the coordinator was told, by this process

    def proposed(self, task: PlanProposed) -> None:
        """Keep a plan, then decide by policy, or let it wait for a person; a known decision is sent again.

        Raises:
            PeerError: ``E-PLAN-*``; the plan is not kept.
        """
        review, name = self._work.review, self._work.owner.name
        verified = review.plans.verify(task.plan, task.signature)
        run_id = verified.plan.run_id
        if run_id != task.run_id or role_in(verified.plan, name) != self._role.value:
            raise PeerError.by_coordinator(
                "E-PLAN-RULE", Phase.PLAN, f"the plan does not name {name} as {self._role.value}"
            )
        self._require_room(run_id)
        review.plans.put(task.plan, task.signature)
        self._fetch_initial_adapter(task)
        if review.plans.decision(run_id) is None and not self._decided(run_id):
            if trouble := notify(self._work.settings.notify, run_id):
                _log.warning("the notify command failed", kind=trouble)
            return
        self.answer(run_id)

    def _require_room(self, run_id: str) -> None:
        """Refuse a plan beyond those that a machine keeps at a time: plans are signed by who could send any number."""
        open_runs = self._work.review.plans.open_runs()
        if run_id not in open_runs and len(open_runs) >= MAX_OPEN_RUNS:
            rule = f"it proposes one more plan while {len(open_runs)} runs are open here; ask it to end some"
            raise PeerError.by_coordinator("E-PLAN-RULE", Phase.PLAN, rule)

    def _decided(self, run_id: str) -> bool:
        """Decide without a person if the policy says so; otherwise the plan waits."""
        self._waiting[run_id] = self._work.clock.monotonic()
        try:
            if self._role is Role.EVALUATOR:
                self._work.review.accept_as_evaluator(run_id)
            else:
                self._work.review.decide_by_policy(run_id)
        except OnlysumError as error:
            if self._said.get(run_id) != error.detail:
                self._said[run_id] = error.detail
                _log.warning("a plan waits", run=run_id, code=error.code, detail=error.detail, next=WAITING)
            return False
        return True

    def _fetch_initial_adapter(self, task: PlanProposed) -> None:
        plans = self._work.review.plans
        path, adapter = plans.initial_adapter(task.run_id), plans.get(task.run_id).plan.recipe.adapter
        if path.exists():
            return
        if task.initial_adapter.sha256.hex() != adapter.initial_hash:
            raise PeerError.by_coordinator(
                "E-PLAN-RULE", Phase.PLAN, "the initial adapter that is offered is not the plan's"
            )
        others = (run_id for run_id in plans.open_runs() if run_id != task.run_id)
        left = MAX_INITIAL_BYTES - sum(map(plans.initial_bytes, others))
        length, most = task.initial_adapter.length, min(largest_initial(adapter.tensors), left)
        if length > most:  # said before a byte of it is kept; nobody has approved the plan yet
            rule = f"the initial adapter is announced as {length} bytes, at most {most} are taken for this plan"
            raise PeerError.by_coordinator("E-PLAN-RULE", Phase.PLAN, rule)
        self._work.sender.download_file(task.initial_adapter, path)

    def reconsider(self) -> None:
        """Answer plans that a person has decided with a command, or that a changed policy decides.

        A refusal is told to the coordinator also where an approval was told before, and again after a restart, since
        nothing says here whether it arrived.
        """
        for run_id in self._runs.refused():
            if run_id not in self._refused:
                self._refused.add(run_id)  # once, also if the coordinator does not want to hear it
                self._runs.leave(run_id)
                self._try_to_answer(run_id)
        for run_id, judged_at in sorted(self._waiting.items()):
            due = self._work.clock.monotonic() - judged_at >= RECONSIDER_SECONDS
            if run_id in self._disk_since and not due:
                continue
            if self._work.review.plans.decision(run_id) is not None or (due and self._decided(run_id)):
                self._try_to_answer(run_id)

    def _try_to_answer(self, run_id: str) -> None:
        try:
            self.answer(run_id)
        except OnlysumError as error:
            _log.warning("refused", run=run_id, code=error.code, detail=error.detail)

    def forget(self, run_id: str) -> None:
        """The run has ended: nobody waits for a decision any more."""
        self._waiting.pop(run_id, None)
        self._disk_since.pop(run_id, None)

    def answer(self, run_id: str) -> None:
        """Tell the coordinator what was decided about a plan, after it has been prepared here if that is yes."""
        review, sender = self._work.review, self._work.sender
        decision = review.plans.decision(run_id)
        if decision is None:
            return
        plan_hash = review.plans.get(run_id).hash
        if decision.verdict == "approved":
            problem = self._runs.problem(run_id)
            decision = review.plans.decision(run_id) or decision  # that took long: its owner may have refused meanwhile
            if problem is not None and decision.verdict == "approved":
                if self._may_pass(run_id, problem):
                    return
                decision = self._turn_down(run_id, decision, problem)
        self.forget(run_id)
        if decision.verdict == "approved":
            sender.submit(PlanApproved(run_id, plan_hash, bytes.fromhex(decision.signature)))
        else:
            sender.submit(PlanRefused(run_id, plan_hash, decision.code, decision.because))
            self._refused.add(run_id)
        _log.info(f"plan {decision.verdict}", run=run_id, by=decision.by, who=decision.who)

    def _may_pass(self, run_id: str, problem: OnlysumError) -> bool:
        """Return whether an approved plan is prepared again later: what a disk refuses it may take in a moment."""
        now = self._work.clock.monotonic()
        if problem.code not in durable.DISK_CODES or now - self._disk_since.setdefault(run_id, now) >= DISK_SECONDS:
            return False
        self._waiting[run_id] = now
        _log.warning("a plan waits", run=run_id, code=problem.code, detail=problem.detail)
        return True

    def _turn_down(self, run_id: str, decision: Decision, problem: OnlysumError) -> Decision:
        _log.error("the plan cannot be trained here", run=run_id, code=problem.code, detail=problem.detail)
        changes = {"verdict": "refused", "code": problem.code, "because": problem.explanation.what, "signature": ""}
        refused = decision.model_copy(update=changes)
        self._work.review.plans.decide(run_id, refused)
        self._runs.leave(run_id)
        return refused
