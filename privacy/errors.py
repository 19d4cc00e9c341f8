"""Errors say who is at fault: this machine, a peer, the network, or nobody (a round that ended without a sum).

Guarantees: a message carries ids, counts and hashes, never data, updates, losses or keys.
Leaves to others: what, why and next step of each code (``privacy.error_codes``).
Source: h11 ``_util.py`` and ZcashFoundation/frost ``error.rs`` for "who is at fault".
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final, Self

from privacy.error_codes import REGISTRY, Explanation, Fault

COORDINATOR: Final = "coordinator"  # who is at fault, where no participant is


class Phase(StrEnum):
    """Where in the life of a run a peer's fault was noticed: the phases of a round, and what lies around rounds."""

    ADVERTISE_KEYS = "ADVERTISE_KEYS"
    SHARE_KEYS = "SHARE_KEYS"
    COLLECT_MASKED = "COLLECT_MASKED"
    AGREE_SURVIVORS = "AGREE_SURVIVORS"
    UNMASK = "UNMASK"
    RESULT = "RESULT"
    ENROLMENT = "enrolment"
    HANDSHAKE = "handshake"
    WIRE = "wire"
    PLAN = "plan"
    DOWNLOAD = "download"
    EVALUATION = "evaluation"


class OnlysumError(Exception):
    """An error with a code.

    Args:
        code: a key of :data:`~privacy.error_codes.REGISTRY`, e.g. ``E-PLAN-RING``.
        detail: what failed this time, with ids, counts and hashes only.
    """

    default_fault: ClassVar[Fault] = Fault.BUG

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    @property
    def explanation(self) -> Explanation:
        """The registry's entry, or a generic one for a code that is missing there."""
        return REGISTRY.get(self.code) or Explanation(
            self.default_fault, "an error without an entry", "the registry lacks it", "report it as a bug"
        )

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class LocalError(OnlysumError):
    """This machine's own fault: a bug, a broken disk, a wrong configuration."""


class RefusedError(OnlysumError):
    """Policy, budget or a missing approval says no; nothing has been sent or spent."""

    default_fault = Fault.REFUSED


class NetworkError(OnlysumError):
    """The other side could not be reached."""

    default_fault = Fault.NETWORK


class VerificationError(OnlysumError):
    """A document, a chain or a report does not verify."""

    default_fault = Fault.VERIFICATION


class PeerError(OnlysumError):
    """A participant or the coordinator broke a rule; the message is refused and the state is unchanged.

    Args:
        participant: who broke it, or ``coordinator``.
        phase: the phase in which it was noticed.
        rule: the rule, in words that name what was expected.
    """

    default_fault = Fault.PEER

    def __init__(self, code: str, *, participant: str, phase: Phase, rule: str) -> None:
        super().__init__(code, f"{participant} in {phase}: {rule}")
        self.participant = participant
        self.phase = phase
        self.rule = rule

    @classmethod
    def by_participant(cls, participant: str, code: str, phase: Phase, rule: str) -> Self:
        """Return a participant's fault."""
        return cls(code, participant=participant, phase=phase, rule=rule)

    @classmethod
    def by_coordinator(cls, code: str, phase: Phase, rule: str) -> Self:
        """Return the coordinator's fault."""
        return cls(code, participant=COORDINATOR, phase=phase, rule=rule)


class PlanError(OnlysumError):
    """A document is no plan, or breaks a rule of plans; whoever took it in says who is to blame.

    Args:
        rule: the rule, in words that name what was expected.
    """

    default_fault = Fault.REFUSED

    def __init__(self, code: str, rule: str) -> None:
        super().__init__(code, rule)
        self.rule = rule


class RoundAborted(OnlysumError):
    """The round ended without a sum; nothing about any update was revealed."""

    default_fault = Fault.PEER

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.reason = reason
