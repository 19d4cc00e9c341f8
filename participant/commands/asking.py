"""What an owner is asked at a terminal before something is pinned, allowed or approved.

Guarantees: what is asked about is on the screen first: the whole plan, the exact lines for policy.toml, every digit; no
is what Enter means; nothing is written before the answer.
Leaves to others: pins (``participant.page.pins``), lines (``participant.page.proposal``), the decision
(``participant.owner.approval``).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from host.console import say
from privacy.errors import LocalError

if TYPE_CHECKING:
    from participant.opened import OpenHome
    from participant.owner.plan_store import Decision
    from participant.page.pins import ComparedRoster
    from participant.page.proposal import Proposal


def compare_roster(roster: ComparedRoster, heard: str) -> bool:
    """Return whether all other owners see the same roster: as was heard, or as the person at the terminal says.

    Raises:
        LocalError: ``E-USAGE``: nothing was given and there is nobody to ask, or not all digits were given.
        VerificationError: ``E-IDENTITY-DIFFERS``: what was heard is another fingerprint.
    """
    if heard:
        roster.require_heard(heard)
        return True
    if not sys.stdin.isatty():
        raise LocalError("E-USAGE", "give --heard, as the other owners read it to you: there is no terminal to ask")
    names = ", ".join(roster.others)
    say(
        "",
        f"The roster is you and {names}; its fingerprint, over all names and keys:",
        "",
        *roster.lines(),
        "",
        "Call them. One of you reads it aloud, and each of the others compares all 64 digits with its own screen.",
    )
    return typer.confirm(f"Did {names} each say that theirs is the same?")


def approve_with_lines(
    participant: OpenHome, run_id: str, *, who: str, dataset: str | None, because: str, heard: str, asks: bool
) -> tuple[Decision, Proposal, tuple[str, ...]]:
    """Let the policy allow a plan and approve it, after one look at both.

    Args:
        participant: the open directory.
        run_id: of the plan.
        who: decides; empty for who is logged in.
        dataset: to use; by default the plan's name for it.
        because: why, kept with the decision.
        heard: the roster's fingerprint as the other owners read it; empty for what the person at the terminal says.
        asks: whether there is one.

    Returns:
        The decision, the lines that were appended, and the names that were pinned.

    Raises:
        RefusedError: a rule refuses the plan whatever is appended, or ``who`` may not decide.
        VerificationError: ``E-IDENTITY-DIFFERS``.
        typer.Abort: the person said no; nothing was written.
    """
    from participant.owner.approval import approver
    from participant.page import proposal

    review, home = participant.review, participant.home
    proposed = proposal.proposal_for(review, home, run_id, dataset)
    judged = proposed.judged
    if asks:
        _show_plan(participant, run_id, proposed)
    if refusal := judged.assessment.refusal():
        say(*(f"change in policy.toml: {change}" for change in proposed.changes), to_error=True)
        raise refusal
    approver(who or None, judged.policy.approval.approvers)  # before anything is written
    pins = _compared(participant, proposed, heard, asks=asks)
    if asks:
        _ask(proposed, pins)
    if proposed.lines or pins:
        proposal.append(home, proposed, pins=pins)
    decision = review.approve(run_id, who=who or None, dataset_name=dataset, because=because)
    return decision, proposed, tuple(sorted(pins))


def _show_plan(participant: OpenHome, run_id: str, proposed: Proposal) -> None:
    from participant.owner.plan_page import plan_page

    plans = participant.review.plans
    page = plan_page(
        proposed.judged,
        participant.owner.name,
        plans.decision(run_id),
        plans.ended(run_id),
        plans.rehearsal(run_id),
    )
    say(*page.lines())


def _compared(participant: OpenHome, proposed: Proposal, heard: str, *, asks: bool) -> dict[str, bytes]:
    """Return whom to pin: those of the plan's roster that are not pinned, if the fingerprints were compared."""
    from participant.page.pins import compared_roster

    if not (heard or asks):
        return {}
    plan = proposed.judged.verified.plan
    roster = compared_roster(
        participant.owner, {member.id: bytes.fromhex(member.identity_key) for member in plan.roster}
    )
    fresh = roster.unpinned(proposed.judged.policy.coordinator.roster)
    if heard:
        roster.require_heard(heard)  # also where everybody is pinned
        return fresh
    if not fresh:
        return {}
    if compare_roster(roster, ""):
        return fresh
    say(
        "Nobody is pinned then, and the roster stays unverified. If a digit or a name differs, refuse this plan: "
        "somebody may stand in for one of them."
    )
    return {}


def _ask(proposed: Proposal, pins: dict[str, bytes]) -> None:
    if proposed.lines:
        say("", "These lines would be added to policy.toml. They allow this plan and no more:", *proposed.lines)
    if pins:
        say("", f"Pinned with them: {', '.join(sorted(pins))}.")
    say("")
    typer.confirm("Add them and approve this plan?" if proposed.lines or pins else "Approve this plan?", abort=True)
