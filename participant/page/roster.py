"""The roster of a plan on the owner's page: its fingerprint, who is pinned, and pinning those who are not yet.

Guarantees: the fingerprint is the one that ``plan approve`` shows, and nobody is pinned unless it is still that of the
plan and the owner has said that all others read the same.
Leaves to others: what a fingerprint covers and what a pin is (``participant.page.pins``), hearing it (a person).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from participant.home import Home
from participant.owner.approval import Owner
from participant.owner.policy import load_policy
from participant.page.pins import ComparedRoster, compared_roster, pin
from privacy.errors import LocalError, OnlysumError, VerificationError
from privacy.plan import Plan

SAME = "yes"  # what a form says for: all others see the same


@dataclass(frozen=True, slots=True)
class RosterCard:
    """What an owner compares with the others, by telephone."""

    fingerprint: str
    lines: tuple[str, ...]  # as people read it aloud
    others: tuple[str, ...]
    pinned: tuple[str, ...]
    unpinned: tuple[str, ...]
    trouble: OnlysumError | None = None  # then there is nothing to compare, and nobody can be pinned


def roster_card(owner: Owner, plan: Plan, pins: Mapping[str, str]) -> RosterCard:
    """Return a plan's roster with the pins of a policy."""
    try:
        roster = _roster(owner, plan)
        fresh = roster.unpinned(pins)
    except VerificationError as error:
        return RosterCard("", (), (), (), (), error)
    pinned = tuple(name for name in roster.others if name not in fresh)
    return RosterCard(
        roster.fingerprint, tuple(line.strip() for line in roster.lines()), roster.others, pinned, tuple(sorted(fresh))
    )


def pin_roster(home: Home, owner: Owner, plan: Plan, *, shown: str, said: str) -> None:
    """Pin all of a plan's roster that are not pinned yet.

    Args:
        home: of the participant.
        owner: of this directory.
        plan: whose roster was compared.
        shown: the fingerprint that was on the page.
        said: :data:`SAME` if all others see it too.

    Raises:
        LocalError: ``E-USAGE``: another roster was shown, or the owner has not said that it is the same.
        VerificationError: ``E-IDENTITY-DIFFERS``.
    """
    roster = _roster(owner, plan)
    if shown != roster.fingerprint:
        raise LocalError("E-USAGE", "the roster is not the one that was shown; open its page anew")
    if said != SAME:
        raise LocalError("E-USAGE", "nobody is pinned before every other owner has said that theirs is the same")
    pin(home, roster.unpinned(load_policy(home).coordinator.roster))


def _roster(owner: Owner, plan: Plan) -> ComparedRoster:
    return compared_roster(owner, {member.id: bytes.fromhex(member.identity_key) for member in plan.roster})
