"""Who takes no part in an attempt, or no longer, and how an aborted attempt says so.

Guarantees: whoever is not waited for is named with the reason, which is its own, the operator's or a dispute.
Leaves to others: what follows from it (``round``), whom an attempt leaves out from the start (``coordinator.runs``).
Source: docs/protocol.md section 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Absences:
    """Whom an attempt leaves out, who abstains from it, and who complains about whom in it."""

    disputed: frozenset[str]  # whom complaints in earlier attempts at the round are by or about
    excluded: frozenset[str]  # by the operator
    abstained: dict[str, str] = field(default_factory=dict)  # who takes no part any more -> why, in a word
    complaints: dict[str, str] = field(default_factory=dict)  # who complained -> about which dealer

    @property
    def left_out(self) -> frozenset[str]:
        """Who was left out from the start."""
        return self.disputed | self.excluded

    def disputes(self) -> list[str]:
        """Return who is or will be left out for complaints, and why."""
        left_out = "both are left out of the next attempts at this round"
        disputes = [
            f"{sender} complains about the shares of {dealer}: {left_out}"
            for sender, dealer in sorted(self.complaints.items())
        ]
        return disputes + _listed("left out after complaints", self.disputed)

    def reasons(self) -> list[str]:
        """Return all of it in words."""
        abstained = [f"{member} takes no part ({why})" for member, why in sorted(self.abstained.items()) if why]
        return [*abstained, *self.disputes(), *_listed("excluded by the operator", self.excluded)]


def _listed(what: str, members: frozenset[str]) -> list[str]:
    return [f"{what}: {', '.join(sorted(members))}"] if members else []
