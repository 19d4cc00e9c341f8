"""What of a participant's work its owner should hear of: runs that end, a budget that is nearly spent, its certificate.

Guarantees: read from the directory and the ledger; looking changes nothing, and what fails is looked at again. What
happened before events were ever configured is no news. It runs beside the daemon's work, which never waits for it.
Leaves to others: telling (``host.events.announcer``), what is spent (``participant.views.ledger``).
"""

from __future__ import annotations

import threading
from typing import Final

from host.certificates import expires_at
from host.events.announcer import FILE_NAME, Announcer, Told
from host.events.event import CERTIFICATE_SECONDS, Event, Kind
from host.events.signature import load_secret
from host.logs import get_logger
from host.rendering import moment
from host.system import SystemClock
from participant.link.identity import load_identity
from participant.opened import OpenHome
from participant.views.ledger import LifetimeSpend, ledger_view
from privacy.dp.events import format_epsilon_up
from privacy.interfaces import Clock

LOOK_SECONDS: Final = 10.0
NEARLY: Final = 0.9  # share of a lifetime's budget that is spent or promised

_log = get_logger("onlysum.participant")


class EventWatch:
    """Looks at a participant's directory and tells what is new."""

    def __init__(self, opened: OpenHome, announcer: Announcer, told: Told, clock: Clock) -> None:
        self._opened = opened
        self._announcer = announcer
        self._told = told
        self._clock = clock
        self._state: tuple[object, ...] = ()  # of ledger and plans, when spend was last computed

    def look(self) -> None:
        """Tell what is new.

        Raises:
            OnlysumError: the directory cannot be read now.
        """
        now, plans = int(self._clock.now()), self._opened.review.plans
        ended = {run_id: how for run_id in plans.run_ids() if (how := plans.ended(run_id)) is not None}
        if self._told.fresh:
            self._told.settle(*(f"run-ended {run_id}" for run_id in ended))
        for run_id, how in ended.items():
            self._tell("run-ended", run_id, f"run {run_id[:8]} is {how.words}", how.at, key=run_id)
        until = expires_at(load_identity(self._opened.home.identity).certificate)
        if until - now < CERTIFICATE_SECONDS:
            text = f"this participant's certificate {'ended' if until <= now else 'ends'} at {moment(until)} UTC"
            self._tell("certificate-ends", self._opened.owner.name, text, now, key=str(until))
        policy = self._opened.home.policy
        state = (self._opened.ledger.head().hash, policy.stat().st_mtime_ns, len(ended), *sorted(plans.run_ids()))
        if state != self._state:  # to add up what was spent takes a while
            self._look_at_budgets(now)
            self._state = state

    def _look_at_budgets(self, now: int) -> None:
        for spend in ledger_view(self._opened).populations:
            lifetime = spend.lifetime
            if lifetime is not None and _used(lifetime) >= NEARLY * lifetime.budget.epsilon:
                figures = f"{format_epsilon_up(_used(lifetime))} of epsilon {lifetime.budget.epsilon:g}"
                text = f"the budget of {spend.population} is nearly spent: {figures} are spent or promised"
                self._tell("budget-low", spend.population, text, now, key=f"{spend.population} {lifetime.budget}")

    def _tell(self, kind: Kind, subject: str, text: str, at: int, *, key: str) -> None:
        owner = self._opened.owner
        self._announcer.announce(f"{kind} {key}", Event(kind, at, owner.federation, owner.name, subject, text))


def _used(lifetime: LifetimeSpend) -> float:
    return max(lifetime.used, lifetime.promised)


class EventThread(threading.Thread):
    """Looks and tells beside a daemon, until it is told to stop."""

    def __init__(self, opened: OpenHome, stop: threading.Event) -> None:
        super().__init__(name="events-watch", daemon=True)
        self._stop_event = stop
        told = Told(opened.home.directory / FILE_NAME)
        secret = load_secret(opened.home.directory, opened.settings.events)
        self._announcer = Announcer(opened.settings.events, told, secret=secret)
        self._watch = EventWatch(opened, self._announcer, told, SystemClock())

    def run(self) -> None:
        """Look every few seconds; whatever goes wrong is looked at again."""
        self._announcer.start()
        said = ""
        while not self._stop_event.wait(LOOK_SECONDS):
            try:
                self._watch.look()
                said = ""
            except Exception as error:  # noqa: BLE001  a disk, a policy that is being edited: the daemon works on
                if said != (said := type(error).__name__):
                    _log.warning("events-not-looked-at", kind=said)
        self._announcer.close()
