"""``onlysum participant policy``: what is allowed.

Guarantees: these commands read, but for `propose --append`, which adds sections and changes none.
Leaves to others: judging plans (``participant.owner.rules``), deciding about them (``participant.commands.plan``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import AsJson, show
from participant.commands.console import DatasetOption, Directory, WaitingRun, directory, opened

if TYPE_CHECKING:
    from host.rendering import Json
    from participant.owner.policy import Policy

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show, check and explain the policy.")


@app.command("show")
def show_policy(config: Directory = None, as_json: AsJson = False) -> None:
    """Show in words what the policy allows.

    Example: onlysum participant policy show
    """
    from participant.home import Home
    from participant.owner.policy import load_policy

    policy = load_policy(Home(directory(config)))
    approvers = ", ".join(policy.approval.approvers) or "whoever can read this directory"
    pinned, floors = policy.coordinator, policy.floors
    lines = [
        f"approval: {policy.approval.mode}; by hand: {approvers}",
        f"pinned: {len(pinned.roster)} members; authority {pinned.ca_fingerprint or 'NOT PINNED'}",
        f"floors: f {floors.f}, min_survivors {floors.min_survivors}",
        f"epsilon if all others collude: at most {floors.max_epsilon_if_all_collude:g}",
        f"suites: {', '.join(map(str, floors.suites))}; graphs: {_graphs(policy)}",
    ]
    for rule, persons in policy.approval.may_overrule.items():
        lines.append(f"{rule} may be overruled by hand by {', '.join(persons)}")
    for name, population in policy.population.items():
        lifetime = f"({population.lifetime_epsilon:g}, {population.lifetime_delta:g})"
        per_run = f"({population.per_run_epsilon:g}, {population.per_run_delta:g})"
        lines.append(f"population {name}: per {population.unit}, lifetime {lifetime}, per run {per_run}")
    for name, data in policy.dataset.items():
        allowed = f"modes {', '.join(data.modes) or 'none'}; methods {', '.join(data.methods) or 'none'}"
        allowed += f"; measures {', '.join(data.measures)}" if data.measures else ""
        lines.append(
            f"dataset {name} ({data.population}): {allowed}; {len(data.bases)} bases, {data.max_rounds} rounds"
        )
    if not policy.dataset:
        lines.append("No dataset has a section: every plan is refused.")
    show(policy.model_dump(mode="json"), lines, as_json=as_json)


def _graphs(policy: Policy) -> str:
    if policy.floors.graphs is not None:
        return ", ".join(policy.floors.graphs)
    return f"complete; k-regular is {'refused' if policy.approval.mode == 'by-policy' else 'left to a person'}"


@app.command("check")
def check_policy(config: Directory = None, as_json: AsJson = False) -> None:
    """Check policy.toml and list what in it has no effect.

    Example: onlysum participant policy check
    """
    from host.fingerprints import fingerprint
    from participant.owner.policy import load_policy

    participant = opened(config)
    policy = load_policy(participant.home)
    known = {dataset.name for dataset in participant.review.registry.datasets()}
    notes = [f"dataset {name} has a section but is not registered" for name in policy.dataset if name not in known]
    notes += [f"dataset {name} is registered but has no section" for name in sorted(known - set(policy.dataset))]
    if policy.coordinator.ca_fingerprint is None:
        notes.append("coordinator.ca_fingerprint is missing: every plan is refused")
    elif policy.coordinator.pins_predecessor(participant.owner.ca_fingerprint, participant.owner.followed):
        line = f'ca_fingerprint = "{fingerprint(participant.identity.authority_der)}"'
        notes.append(f"coordinator.ca_fingerprint is of an authority that named its successor; compare, then: {line}")
    elif not participant.owner.ca_fingerprint.startswith(policy.coordinator.ca_fingerprint):
        notes.append("coordinator.ca_fingerprint is not this coordinator's: every plan is refused")
    if policy.approval.mode == "by-policy":
        notes += _left_to_the_policy(policy)
    show({"ok": True, "notes": list(notes)}, ["policy.toml is valid.", *notes], as_json=as_json)


def _left_to_the_policy(policy: Policy) -> Iterator[str]:
    """Yield warnings about what automatic approval lets through."""
    if policy.floors.graphs is None:
        yield "plans on a k-regular graph are refused: its claim is weaker, and floors.graphs does not name it"
    elif "k-regular" in policy.floors.graphs:
        yield "plans on a k-regular graph are approved without a person, though its claim is weaker"
    if 1 in policy.floors.suites:
        yield "plans of suite 1 are approved without a person: a quantum computer may open their recordings one day"


@app.command("explain")
def explain_policy(run: WaitingRun = "", config: Directory = None, as_json: AsJson = False) -> None:
    """Show rule by rule how a plan fares under the policy.

    Example: onlysum participant policy explain 3f2a
    """
    review = opened(config).review
    judged = review.judge_run(review.plans.find(run))
    rules = judged.assessment.rules
    value: list[Json] = [{"rule": rule.name, "outcome": rule.outcome.value, "says": rule.says} for rule in rules]
    show(value, [f"{rule.outcome.value:<15}{rule.name}: {rule.says}" for rule in rules], as_json=as_json)


@app.command("propose")
def propose_policy(
    run: WaitingRun = "",
    *,
    append: Annotated[bool, typer.Option("--append", help="Append the lines to policy.toml.")] = False,
    dataset: DatasetOption = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Print the lines that a plan needs in policy.toml, or append them.

    They allow this plan and no more, with the least budget that it needs.

    Example: onlysum participant policy propose 3f2a --append
    """
    from participant.page import proposal

    participant = opened(config)
    run_id = participant.review.plans.find(run)
    proposed = proposal.proposal_for(participant.review, participant.home, run_id, dataset)
    if append:
        proposal.append(participant.home, proposed)
    value: Json = {
        "lines": list(proposed.lines),
        "changes": list(proposed.changes),
        "remaining": [{"rule": rule.name, "says": rule.says} for rule in proposed.remaining],
        "appended": append,
    }
    lines = [*proposed.lines, *(f"change: {change}" for change in proposed.changes)]
    lines += [f"still refuses it: {rule.name}: {rule.says}" for rule in proposed.remaining]
    lines += ["", f"Appended to {participant.home.policy}."] if append else []
    show(value, lines or ["The policy has every section that the plan needs."], as_json=as_json)
