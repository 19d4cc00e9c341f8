"""Participants whose daemons train or measure in torch, over mutual TLS, each in a thread.

Guarantees: everything is done by the owner's commands, as people do it; data follow from a member's name.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import methods
import onlysum
from authoring.draft import build_draft
from coordinator.runs import creation
from coordinator.runs.thresholds import Requested
from host.system import SystemClock, SystemRandom
from participant.daemon import assembly
from participant.daemon.joining import join
from participant.opened import open_home
from privacy.plan import Plan
from protos.envelope import Role
from tests.worlds.daemons import Service
from tests.worlds.plans import names
from tests.worlds.torch_world import image_rows, text_rows

MEMBERS: Final = names(4)
ROWS: Final = 24
POLICY: Final = """
[approval]
mode = "by-policy"
unverified_roster = true
[coordinator]
ca_fingerprint = "{authority}"
[floors]
max_epsilon_if_all_collude = 64
[population.patients]
unit = "{unit}"
lifetime_epsilon = 12
lifetime_delta = 1e-5
per_run_epsilon = 8
per_run_delta = 1e-5
[dataset.rows]
population = "patients"
modes = ["{mode}"]
bases = ["{base}"]
methods = {methods}
{more}
"""


@dataclass
class Owner:
    """A participant, or the evaluator, with a daemon that trains in torch."""

    directory: Path
    leaves_in: int = 0  # the round in whose training it stops for good
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def start(self) -> None:
        """Start its daemon."""
        runner = assembly.assemble(self.directory, self.stop, show_progress=self.show_progress)
        self.thread = threading.Thread(target=runner.run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Stop its daemon."""
        self.stop.set()
        assert self.thread is not None
        self.thread.join(20)
        assert not self.thread.is_alive()

    def show_progress(self, *, run_id: str, round_number: int) -> Any:
        """Return what is told of a round's steps; it ends the daemon in the round in which it leaves."""

        def progress(done: int, of: int) -> None:
            if round_number == self.leaves_in:
                self.stop.set()

        return progress


def say(*words: object) -> None:
    """Run a command that succeeds."""
    assert onlysum.run([str(word) for word in words]) == 0


def enrol(service: Service, tmp_path: Path, name: str, kind: str, *, mode: str, unit: str, more: str = "") -> Owner:
    """Join, add data and base with the owner's commands, and write a policy, with more lines about the dataset."""
    role, home = (Role.EVALUATOR if name == "referee" else Role.PARTICIPANT), tmp_path / name
    join(service.invite(name, role), home, ledgers=home / "ledgers", clock=SystemClock(), random=SystemRandom())
    if kind == "image":
        data = image_rows(tmp_path / f"{name}.npz", rows=ROWS, seed=len(name))
    else:
        data = text_rows(tmp_path / f"{name}.jsonl", rows=ROWS, seed=len(name))
    users = ["--user", "person"] if unit == "user" else []
    owned = ["rows", data, "--population", "patients", *users] if role is Role.PARTICIPANT else ["public", data]
    say("participant", "dataset", "add", *owned, "--config", home)
    say("participant", "model", "add", f"tiny-{kind}", tmp_path / "base", "--config", home)
    base = open_home(home).review.registry.models()[0].hash
    if role is Role.PARTICIPANT:
        budget = "example" if unit == "none" else unit
        allowed = json.dumps([method.name for method in methods.all_methods()])
        text = POLICY.format(
            authority=service.authority.fingerprint,
            mode=mode,
            unit=budget,
            base=base,
            methods=allowed,
            more=more,
        )
        (home / "policy.toml").write_text(text)
    return Owner(home)


def create(service: Service, tmp_path: Path, recipe: str) -> Plan:
    """Build a recipe's draft, bind it to all members and propose it."""
    (tmp_path / "recipe.toml").write_text(recipe)
    build_draft(tmp_path / "recipe.toml", tmp_path / "draft", self_check=False)
    now = int(time.time())
    request = creation.RunRequest(members=MEMBERS, tolerance=Requested(f=1), created_at=now, expires_at=now + 3600)
    draft = creation.read_draft(tmp_path / "draft")
    plan = creation.make_plan(service.store, service.settings, draft, request, random=SystemRandom())
    creation.register(service.store, service.home, service.authority.operator, plan, tmp_path / "draft")
    return plan
