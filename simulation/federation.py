"""The demo's federation, run by the commands that its operator and its data owners would type.

Guarantees: every member enrols with a token of its own and pins the others' fingerprints, taken from their own machines
and not from the coordinator; every figure that is returned was signed or is in an owner's ledger.
Leaves to others: processes (``simulation.processes``), paths and file contents (``simulation.stage``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from privacy.errors import LocalError
from privacy.plan import Plan
from simulation.ports import free_ports
from simulation.processes import Daemon, Processes, wait_until
from simulation.stage import EVALUATOR, FEDERATION, Cast, Stage

READY_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run cost; ``None`` without differential privacy."""

    epsilon: float | None
    delta: float | None


class Federation:
    """A coordinator, participants and an evaluator, each with a directory and a process of its own.

    Args:
        stage: where everything lies.
        processes: that run it.
        cast: who takes part, and with what.
        say: told what has just happened.
    """

    def __init__(self, stage: Stage, processes: Processes, cast: Cast, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._say = say
        self._processes = processes
        self._cast = cast
        self._roster: dict[str, str] = {}  # identity fingerprints by name
        self.daemons: dict[str, Daemon] = {}
        self.rounds = 0

    def create_coordinator(self) -> None:
        """Make and start the coordinator, invite everybody, and let them join."""
        address, enrolment = (f"127.0.0.1:{port}" for port in free_ports(2))
        made = ["init", str(self._stage.coordinator), "--name", FEDERATION, "--operator", "The demo"]
        self._processes.run("coordinator", *made, "--address", address, "--enrolment-address", enrolment)
        self.daemons["coordinator"] = self._processes.start(
            "coordinator", "coordinator", "start", "--config", str(self._stage.coordinator)
        )
        log = self.daemons["coordinator"].log
        self._wait("a coordinator that listens", lambda: "Ready:" in log.read_text())
        self._say(f"the coordinator listens on {address}")
        identities = self._processes.together(*(partial(self._enrol, member) for member in self._cast.members))
        self._roster = dict(zip(self._cast.members, identities, strict=True))

    def _enrol(self, member: str) -> str:
        """Invite a member, let it join, and return its identity's fingerprint as its own machine prints it."""
        role = "evaluator" if member == EVALUATOR else "participant"
        token = self._coordinator("invite", member, "--role", role)["token"]
        home = ["--json", "--config", str(self._stage.home(member))]
        home += ["--ledgers", str(self._stage.home(member) / "ledgers")]  # six owners on one machine: each its own
        identity = str(json.loads(self._processes.run("participant", "join", "-", *home, given=token))["identity"])
        self._say(f"{member} joined as {role}")
        return identity

    def equip(self) -> None:
        """Register base and data with every member, write the policies, and start the daemons."""
        hashes = self._processes.together(*(partial(self._register, member) for member in self._cast.members))
        authority = self._coordinator("member", "fingerprint")["authority"]
        for member, base_hash in zip(self._cast.participants, hashes, strict=False):
            text = self._cast.policy(base_hash, authority, self._roster)
            (self._stage.home(member) / "policy.toml").write_text(text)
        for member in self._cast.members:
            self.start_member(member)

    def _register(self, member: str) -> str:
        """Register a member's data and its copy of the base, and return the base's hash as that member computed it."""
        cast = self._cast
        options = (*cast.owner_options, "--population", cast.population)
        name, options = (cast.held_out, cast.evaluator_options) if member == EVALUATOR else (cast.dataset, options)
        self._member(member, "dataset", "add", name, str(self._stage.data(member)), *options)
        base_hash = str(self._member_json(member, "model", "add", cast.base, str(self._stage.base))["hash"])
        self._say(f"{member} registered its rows and its copy of the base")
        return base_hash

    def start_member(self, member: str) -> None:
        """Start a member's daemon, or start it again."""
        self.daemons[member] = self._processes.start(
            member, "participant", "start", "--config", str(self._stage.home(member))
        )

    def build(self) -> None:
        """Turn the recipe into a draft."""
        self._processes.run("plan", "build", str(self._stage.recipe), "-o", str(self._stage.draft))
        self._say("the recipe became a draft; the daemons load torch and connect")

    def propose(self) -> str:
        """Wait until everybody is there, then bind the draft to the roster, sign it, and return the run's id."""
        self._wait("members that poll", self._all_live)
        self._say(f"all {len(self._cast.members)} members are connected; the operator creates the run")
        members = ["--members", ",".join(self._cast.participants)]
        run = str(self._coordinator("run", "create", str(self._stage.draft), *members)["run"])
        self.rounds = int(self._show(run)["rounds"])
        return run

    def _all_live(self) -> bool:
        return sum(bool(member["live"]) for member in self._coordinator("status")["members"]) == len(self._cast.members)

    def events(self, run: str) -> Iterator[dict[str, Any]]:
        """Yield what happens in a run until it ends, as ``run watch --json`` prints it."""
        words = ["coordinator", "run", "watch", run, "--json", "--config", str(self._stage.coordinator)]
        for line in self._processes.follow(*words):
            yield json.loads(line)

    def export(self, run: str) -> None:
        """Copy the adapter in PEFT's format, and the signed report."""
        result = self._stage.federation / "result"
        self._processes.run(
            "coordinator", "run", "export", run, "-o", str(result), "--config", str(self._stage.coordinator)
        )
        (result / "adapter").rename(self._stage.adapter)
        where = ["--from", "coordinator", "--config", str(self._stage.coordinator)]
        self._processes.run("audit", "report", run, "-o", str(self._stage.report), *where)

    def render(self, report: Path) -> None:
        """Write a report as a page beside it."""
        self._processes.run("audit", "export", str(report), "--to", "html")

    def verify(self, report: Path, *, accept: int = 0) -> None:
        """Verify a report; ``accept`` is the exit code that is expected."""
        self._processes.run("audit", "verify", str(report), accept=accept)

    def measured(self, run: str, metric: str) -> tuple[float, float]:
        """Return a figure that the evaluator signed, of the starting adapter and of the last one."""
        measured = {
            evaluation["round"]: float(evaluation["metrics"][metric]) for evaluation in self._show(run)["evaluations"]
        }
        if 0 not in measured or self.rounds not in measured:
            raise LocalError("E-DEMO", f"the evaluator measured after rounds {sorted(measured)} only")
        return measured[0], measured[self.rounds]

    def spent(self, run: str) -> Spent:
        """Return the largest epsilon that an owner's ledger has for the run alone, and its delta."""
        show = [
            partial(self._member_json, member, "ledger", "show", self._cast.population)
            for member in self._cast.participants
        ]
        ledgers = self._processes.together(*show)
        entries = [entry for ledger in ledgers for entry in ledger["populations"][0]["runs"] if entry["run"] == run]
        noised = [
            Spent(float(entry["epsilon"]), float(entry["delta"])) for entry in entries if entry["epsilon"] is not None
        ]
        return max(noised, key=lambda spent: spent.epsilon or 0.0, default=Spent(None, None))

    def bytes_sent(self, survivors: int) -> int:
        """Return the size of the masked updates that reached a sum.

        Args:
            survivors: participant-rounds, over all completed rounds.
        """
        plan = Plan.from_bytes((self._stage.federation / "result" / "plan.json").read_bytes())
        return survivors * plan.layout(1).bytes

    def _show(self, run: str) -> dict[str, Any]:
        shown: dict[str, Any] = self._coordinator("run", "show", run)
        return shown

    def _coordinator(self, *words: str) -> Any:
        return json.loads(
            self._processes.run("coordinator", *words, "--json", "--config", str(self._stage.coordinator))
        )

    def _member(self, member: str, *words: str) -> str:
        return self._processes.run("participant", *words, "--config", str(self._stage.home(member)))

    def _member_json(self, member: str, *words: str) -> Any:
        return json.loads(self._member(member, *words, "--json"))

    def _wait(self, what: str, happened: Callable[[], bool]) -> None:
        wait_until(happened, seconds=READY_SECONDS, watching=tuple(self.daemons.values()), what=what, every=0.3)
