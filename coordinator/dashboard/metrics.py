"""Metrics for Prometheus, and whether the service is ready.

Guarantees: counts of members, runs, rounds, bytes and seconds by run, read from rows at each scrape; no metric is about
one participant, so none tells of its loss, its size or its data.
Leaves to others: alert rules and pictures (``deploy/monitoring``).
Source: Prometheus exposition format 0.0.4; its naming practices.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from coordinator.daemon.status import read_status
from coordinator.database import run_rows
from coordinator.database.run_rows import RunState
from coordinator.opened import OpenHome
from coordinator.views.inbox import inbox
from coordinator.views.members import Presence, member_list
from coordinator.views.overview import Overview, overview
from host.certificates import expires_at
from privacy.errors import OnlysumError, Phase
from privacy.interfaces import Clock

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
ENDED_SECONDS: Final = 7 * 86_400  # for so long the figures of a run that has ended are still told
PHASES: Final = (
    Phase.ADVERTISE_KEYS, Phase.SHARE_KEYS, Phase.COLLECT_MASKED, Phase.AGREE_SURVIVORS, Phase.UNMASK,
)  # fmt: skip


Figure = Callable[[Overview], float]
FamilyT = TypeVar("FamilyT", GaugeMetricFamily, CounterMetricFamily)


def _dropouts(run: Overview) -> int:
    return sum(len(done.dropouts) for done in run.rounds)


def _seconds(run: Overview) -> int:
    return sum((each.ended_at or 0) - each.opened_at for each in run.attempts if each.state == "completed")


def _aborted(run: Overview) -> int:
    return sum(each.state == "aborted" for each in run.attempts)


GAUGES: Final[dict[str, tuple[str, Figure]]] = {
    "round": ("The round that a run is at.", lambda run: min(len(run.rounds) + 1, run.plan.recipe.rounds)),
    "rounds_planned": ("Rounds of the plan.", lambda run: run.plan.recipe.rounds),
    "min_survivors": ("Participants that a sum needs.", lambda run: run.plan.min_survivors),
    "participants": ("Participants on the roster.", lambda run: run.plan.n),
    "participants_there": ("Participants that an attempt could begin with now.", lambda run: run.there),
    "paused": ("1 while its operator, or a trouble, holds it.", lambda run: run.run.paused),
    "ended": ("1 once it has ended.", lambda run: run.run.state.ended),
}
COUNTERS: Final[dict[str, tuple[str, Figure]]] = {
    "rounds_completed": ("Rounds with a sum.", lambda run: sum(not done.voided for done in run.rounds)),
    "rounds_voided": ("Rounds that were charged and have no sum.", lambda run: sum(d.voided for d in run.rounds)),
    "dropouts": ("Participants missing from sums, all rounds added up.", _dropouts),
    "attempts_aborted": ("Attempts that were given up.", _aborted),
    "uploaded_bytes": ("Bytes of masked updates.", lambda run: sum(run.uploaded.values())),
    "round_seconds": ("Seconds that completed attempts took.", _seconds),
}


def readiness(opened: OpenHome) -> str:
    """Return why the service is not ready to serve members; empty if it is."""
    try:
        with opened.store.read() as connection:
            run_rows.run_ids(connection, ended_after=0)
    except OnlysumError as error:
        return error.code
    return "" if read_status(opened.home) is not None else "starting"


class Metrics(Collector):
    """Reads the figures."""

    def __init__(self, opened: OpenHome, clock: Clock) -> None:
        self._opened = opened
        self._clock = clock
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def exposition(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the names are not known before the first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all figures."""
        now = self._clock.now()
        info = GaugeMetricFamily("onlysum_build_info", "The software; always 1.", labels=["version"])
        info.add_metric([version("onlysum")], 1)
        yield info
        yield from self._members()
        yield from self._runs(now)
        yield from self._machine(int(now))

    def _members(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("onlysum_members", "Members by role and state.", labels=["role", "state"])
        views = member_list(self._opened).members
        counted = Counter((view.role, view.presence) for view in views)
        for role in sorted({view.role for view in views}):
            for presence in Presence:
                family.add_metric([role, presence.value], counted[role, presence])
        yield family
        until = [view.certificate_until for view in views if view.active and view.certificate_until]
        if until:
            text = "When the first certificate of a member ends."
            yield GaugeMetricFamily("onlysum_member_certificate_expiry_timestamp_seconds", text, value=min(until))

    def _runs(self, now: float) -> Iterator[Metric]:
        with self._opened.store.read() as connection:
            known = run_rows.list_runs(connection)
        states = GaugeMetricFamily("onlysum_runs", "Runs by state.", labels=["state"])
        counted = Counter(run.state for run in known)
        for state in RunState:
            states.add_metric([state.value], counted[state])
        yield states
        recent = [run for run in known if run.ended_at is None or run.ended_at > now - ENDED_SECONDS]
        yield from run_figures([overview(self._opened, run.run_id) for run in recent])

    def _machine(self, now: int) -> Iterator[Metric]:
        authority, waiting = self._opened.authority(), inbox(self._opened, now)
        family = GaugeMetricFamily(
            "onlysum_certificate_expiry_timestamp_seconds", "When a certificate of the coordinator ends.", labels=["of"]
        )
        family.add_metric(["authority"], expires_at(authority.ca_certificate))
        family.add_metric(["service"], expires_at(authority.server_certificate))
        yield family
        free = shutil.disk_usage(self._opened.home.directory).free
        yield GaugeMetricFamily("onlysum_disk_free_bytes", "Free on the disk of the directory.", value=free)
        waits = GaugeMetricFamily("onlysum_inbox_items", "What waits for an operator.", labels=["kind"])
        for kind, count in sorted(Counter(item.kind for item in waiting.items).items()):
            waits.add_metric([kind], count)
        yield waits
        if waiting.backed_up_at is not None:
            text = "When `onlysum coordinator backup` last ran."
            yield GaugeMetricFamily("onlysum_backup_timestamp_seconds", text, value=waiting.backed_up_at)
        status = read_status(self._opened.home)
        troubles = GaugeMetricFamily("onlysum_troubles", "What keeps this machine from working.", labels=["code"])
        counted = Counter(each.code for each in (status.troubles if status else ()))
        for code, count in sorted(counted.items()):
            troubles.add_metric([code], count)
        yield troubles


def run_figures(runs: Iterable[Overview]) -> Iterator[Metric]:
    """Yield the figures of runs, each by its id."""
    runs = list(runs)
    for name, (text, value) in GAUGES.items():
        yield _fill(GaugeMetricFamily(f"onlysum_run_{name}", text, labels=["run"]), runs, value)
    for name, (text, value) in COUNTERS.items():
        yield _fill(CounterMetricFamily(f"onlysum_run_{name}", text, labels=["run"]), runs, value)
    yield from _phases([run for run in runs if run.phase is not None])


def _fill(family: FamilyT, runs: list[Overview], value: Figure) -> FamilyT:
    for run in runs:
        family.add_metric([run.run.run_id], value(run))
    return family


def _phases(runs: list[Overview]) -> Iterator[Metric]:
    here = GaugeMetricFamily("onlysum_run_phase", "1 for the phase that a run is in.", labels=["run", "phase"])
    expected = GaugeMetricFamily("onlysum_run_phase_expected", "Participants asked in the open phase.", labels=["run"])
    answered = GaugeMetricFamily("onlysum_run_phase_answered", "Of these, who has answered.", labels=["run"])
    until = GaugeMetricFamily(
        "onlysum_run_phase_deadline_timestamp_seconds", "When it closes at the latest.", labels=["run"]
    )
    for run in runs:
        phase = run.phase
        assert phase is not None
        for name in PHASES:
            here.add_metric([run.run.run_id, name.value], int(phase.phase == name.value))
        for family, value in (
            (expected, len(phase.expected)),
            (answered, len(phase.answered)),
            (until, phase.deadline),
        ):
            family.add_metric([run.run.run_id], value)
    yield from (here, expected, answered, until)
