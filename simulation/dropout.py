"""What happens in the middle of the demo's run: a participant is killed, the round goes on, the participant comes back.

Guarantees: the kill follows the state of a round and no clock: it comes when the victim has shared its keys and its
update is awaited, which is when a dropout is hardest to mend.
Leaves to others: processes (``simulation.federation``), the screen (``simulation.screen``).
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from privacy.errors import LocalError
from simulation.federation import Federation
from simulation.screen import Rounds
from simulation.stage import PARTICIPANTS

VICTIM: Final = "carol"
LINES: Final = 20  # about rounds, where there is no bar
KILL_AT: Final = 0.4  # of the rounds: late enough to matter, early enough to see the participant come back


class Condition(Enum):
    """How the victim is."""

    WELL = "takes part"
    KILLED = "was killed"
    STARTING = "was started again"
    BACK = "takes part again"


class Monitor:
    """Takes a run's events one by one, kills and restarts the victim, and counts the dropouts."""

    def __init__(self, federation: Federation, rounds: Rounds) -> None:
        self._federation = federation
        self._rounds = rounds
        self._condition = Condition.WELL
        self._from = round(KILL_AT * federation.rounds)
        self._approvals = 0
        self.dropouts = 0
        self.gone: dict[int, frozenset[str]] = {}  # who is missing from each round's sum

    def take(self, happened: dict[str, Any]) -> None:
        """Take an event as ``run watch --json`` prints it.

        Raises:
            LocalError: ``E-DEMO``, the run cannot complete.
        """
        match happened:
            case {"event": "phase", "phase": phase, "round": number, "answered": answered}:
                self._rounds.phase(f"round {number}: {phase}")
                if phase == "SHARE_KEYS" and number >= self._from and VICTIM in answered:
                    self._kill(number)
            case {"event": "round", "round": number, "survivors": survivors, "dropouts": gone}:
                self.dropouts += len(gone)
                self.gone[number] = frozenset(gone)
                without = f", without {', '.join(gone)}" if gone else ""
                shown = number % max(1, self._federation.rounds // LINES) == 0
                self._rounds.completed(number, f"round {number}: the sum of {survivors}{without}" if shown else "")
                self._look_after(number, gone=VICTIM in gone)
            case {"event": "evaluation", "round": number, "metrics": {"accuracy": accuracy}}:
                self._rounds.say(f"the evaluator measured {accuracy:.1%} after round {number}")
            case {"event": "abort", "round": number, "attempt": attempt, "code": code}:
                self._rounds.say(f"round {number}, attempt {attempt}: no sum ({code}); it is tried again")
            case {"event": "plan", "member": member, "approved": True}:
                self._approved(member)
            case {"event": "plan", "member": member, "approved": False}:
                raise LocalError("E-DEMO", f"{member} refused the plan")
            case {"event": "run", "state": "aborted" | "refused" as state, "code": code, "reason": reason}:
                raise LocalError("E-DEMO", f"the run was {state}: {code} {reason}")
            case _:
                pass

    def _approved(self, member: str) -> None:
        if member not in PARTICIPANTS:
            self._rounds.phase(f"{member} approved the plan")
            return
        self._approvals += 1
        self._rounds.say(f"{member}'s policy approved the plan")
        if self._approvals == len(PARTICIPANTS):
            self._rounds.say(
                "each owner's daemon loads the base and checks itself on synthetic rows, then rounds begin"
            )

    def _kill(self, number: int) -> None:
        if self._condition is Condition.WELL:
            self._federation.daemons[VICTIM].kill()
            self._condition = Condition.KILLED
            self._rounds.say(f"KILLED {VICTIM} (SIGKILL) in round {number}, after it had shared its keys")

    def _look_after(self, number: int, *, gone: bool) -> None:
        """Start the victim again once a round went on without it; say when it is back."""
        if self._condition is Condition.KILLED and gone:
            self._federation.start_member(VICTIM)
            self._condition = Condition.STARTING
            self._rounds.say(f"started {VICTIM} again; it takes part as soon as it is ready")
        elif self._condition is Condition.STARTING and not gone:
            self._condition = Condition.BACK
            self._rounds.say(f"{VICTIM} takes part again, in round {number}")
