"""The participant at work: takes tasks one by one and hands each to the part of the daemon that answers it.

Guarantees: never exits because of the network, a full disk or a lying coordinator; whatever is refused is logged with
its code and next step, nothing is sent in answer, and an attempt is given up openly where that is safe.
Leaves to others: the heartbeat (``poller``), rounds (``participation``), plans (``decisions``), measuring
(``evaluator``).
"""

from __future__ import annotations

import threading
from typing import Final

from host.durable import disk_error_behind
from host.logs import get_logger
from participant.daemon.disk_trouble import DiskTrouble
from participant.daemon.poller import Poller
from participant.daemon.status import StatusFile
from participant.link.delivery import Link, Stopping, Superseded, TaskQueue
from participant.link.upkeep import Upkeep
from participant.runs.context import DaemonContext
from participant.runs.evaluator import Measure, evaluate_adapter
from participant.runs.open_runs import NotApproved, Runs
from participant.runs.plan_decisions import PlanDecisions
from participant.runs.tasks import position_of
from privacy.errors import LocalError, OnlysumError
from protos.envelope import (
    Abstained,
    AttemptOpened,
    EvaluationAsked,
    KeysAdvertised,
    MemberExcluded,
    NumberedTask,
    PlanProposed,
    Role,
    RunEnded,
    SharesDealt,
    Task,
    Welcome,
)

TICK_SECONDS: Final = 0.5  # how often decisions that commands wrote are looked for
RETRY_SECONDS: Final = 1.0  # before a task that met a full disk or a starting coordinator is in the next poll
SWEEP_SECONDS: Final = 3600.0  # between sweeps of files of no use: of runs whose end was never told, above all
SWEEP_AGAIN_SECONDS: Final = 60.0  # after one in which the disk refused
PASSING: Final = frozenset({"E-DISK-FULL", "E-DISK-READONLY", "E-WIRE-UNEXPECTED"})  # what such a task fails with

_log = get_logger("onlysum.participant")


class Runner:
    """The daemon; made by ``participant.daemon.assembly``, or by a test."""

    def __init__(
        self,
        work: DaemonContext,
        role: Role,
        *,
        link: Link,
        queue: TaskQueue,
        stop: threading.Event,
        measure: Measure,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._work = work
        self._link = link
        self._inbox = queue
        self._stop = stop
        self._measure = measure
        self._status = StatusFile(work.home, work.clock)
        self._runs = Runs(work, role)
        self._swept_at = 0.0
        self._said = ""  # why plans are not looked at, as last logged
        self._disk = DiskTrouble(work)
        self._clerk = PlanDecisions(work, role, self._runs)
        self._poller = Poller(
            work,
            role,
            link=link,
            queue=queue,
            status=self._status,
            is_idle=self._is_idle,
            stop=stop,
            upkeep=upkeep,
        )

    def run(self) -> None:
        """Work until the stop event is set."""
        try:
            self._sweep()
            self._runs.prepare_all()
            self._poller.start()
            while not self._stop.is_set():
                self._reconsider()
                self._sweep_if_due()
                item = self._inbox.get(TICK_SECONDS)
                if isinstance(item, Welcome):
                    self._compare(item)
                elif item is not None:
                    self._take(item)
        except Stopping:
            pass
        finally:
            self._stop.set()
            self._link.close()  # ends a poll in flight
            if self._poller.is_alive():
                self._poller.join(timeout=5)
            self._status.stopped()

    def _is_idle(self) -> bool:
        """Return whether this participant is to count as absent; called from the polling thread."""
        return self._disk.in_the_way() or self._runs.is_idle()

    def _sweep_if_due(self) -> None:
        seconds = SWEEP_AGAIN_SECONDS if self._runs.unerased else SWEEP_SECONDS
        if self._work.clock.monotonic() - self._swept_at >= seconds:
            self._sweep()

    def _sweep(self) -> None:
        self._runs.sweep()
        self._swept_at = self._work.clock.monotonic()

    def _reconsider(self) -> None:
        try:
            self._clerk.reconsider()
            self._said = ""
        except OnlysumError as error:  # a file of the directory was damaged while the daemon ran
            if error.detail != self._said:
                _log.error("plans are not looked at", code=error.code, detail=error.detail)
            self._said = error.detail

    def _compare(self, welcome: Welcome) -> None:
        try:
            self._runs.compare(welcome)
            self._status.abstaining(self._runs.rolled_back, self._runs.closed())
        except OnlysumError as error:
            _log.error("refused", code=error.code, detail=error.detail, next=error.explanation.next_step)

    def _take(self, numbered: NumberedTask) -> None:
        """Answer a task; whatever goes wrong is logged, and the next task is taken."""
        task = numbered.task
        log = _log.bind(run=task.run_id, task=type(task).__name__)
        try:
            self._dispatch(task)
            self._disk.over()
            self._status.note_run(task.run_id, None)
        except Stopping:
            raise
        except Superseded:
            log.info("superseded")
        except OnlysumError as error:
            self._refused(numbered, error)
        except Exception as error:  # noqa: BLE001  # a bug must not end the daemon, nor show data in a traceback
            if (refused := disk_error_behind(error)) is not None:
                self._refused(numbered, refused)
                return
            log.error("failed", kind=type(error).__name__)
            self._abstain(task, LocalError("E-BUG", type(error).__name__))

    def _refused(self, numbered: NumberedTask, error: OnlysumError) -> None:
        """Take up again later what will pass; abstain from the rest."""
        task = numbered.task
        log = _log.bind(run=task.run_id, task=type(task).__name__)
        log.warning("refused", code=error.code, detail=error.detail, next=error.explanation.next_step)
        self._status.note_run(task.run_id, error)
        # A plan is proposed once: its run would wait for an answer until the plan expires.
        passes = error.code in PASSING or (error.code == "E-DISK-FAILED" and isinstance(task, PlanProposed))
        if passes and self._current(task) and not self._disk.lasts(error):
            self._work.sender.pause(RETRY_SECONDS)
            self._inbox.put_back(numbered)
        else:
            self._abstain(task, error)

    def _dispatch(self, task: Task) -> None:
        match task:
            case PlanProposed():
                self._clerk.proposed(task)
            case EvaluationAsked():
                evaluate_adapter(self._work, self._runs.job(task.run_id), task, self._measure)
            case RunEnded():
                self._clerk.forget(task.run_id)
                self._runs.end(task)
            case MemberExcluded():
                self._runs.excluded(task)
            case _:
                self._runs.part(task.run_id).handle(task)

    def _current(self, task: Task) -> bool:
        """Return whether asking for a task again makes sense: its attempt has not closed meanwhile."""
        if isinstance(task, PlanProposed | EvaluationAsked | MemberExcluded | RunEnded):
            return True
        return self._inbox.is_open(task.run_id, position_of(task))

    def _abstain(self, task: Task, error: OnlysumError) -> None:
        """Say that this participant takes no part in an attempt, so that nobody waits for it."""
        if not isinstance(task, AttemptOpened | KeysAdvertised | SharesDealt) or isinstance(error, NotApproved):
            return
        position, part = position_of(task), self._runs.present(task.run_id)
        if part is not None and not part.may_abstain(position):
            return
        try:
            self._work.sender.submit(Abstained(task.run_id, position, error.code), of=(task.run_id, position))
        except (OnlysumError, Superseded):
            _log.info("abstention not taken", run=task.run_id)
        self._disk.abstained(error)
