"""``onlysum participant policy``, ``ledger`` and ``member``: what is allowed, what is spent, and who the others are.

Guarantees: these commands read; the policy is changed in its file, the ledger by the daemon alone.
Leaves to others: judging plans (``decision_cli``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from host.console import AsJson, Json, show, table
from participant.commands.console import Directory, Run, directory, opened, write_new
from privacy.errors import LocalError

if TYPE_CHECKING:
    from participant.daemon.assembly import Opened
    from participant.owner.policy import Policy

policy_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show, check and explain the policy.")
ledger_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show, verify and export what is spent.")
member_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List members and their fingerprints.")


@policy_app.command("show")
def show_policy(config: Directory = None, as_json: AsJson = False) -> None:
    """Say in words what the policy allows.

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
    for name, one in policy.population.items():
        lines.append(
            f"population {name}: per {one.unit}, lifetime ({one.lifetime_epsilon:g}, {one.lifetime_delta:g}), "
            f"per run ({one.per_run_epsilon:g}, {one.per_run_delta:g})"
        )
    for name, data in policy.dataset.items():
        allowed = f"modes {', '.join(data.modes) or 'none'}; methods {', '.join(data.methods) or 'none'}"
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


@policy_app.command("check")
def check_policy(config: Directory = None, as_json: AsJson = False) -> None:
    """Check policy.toml and say what in it has no effect.

    Example: onlysum participant policy check
    """
    from participant.owner.policy import load_policy

    here = opened(config)
    policy = load_policy(here.home)
    known = {one.name for one in here.review.registry.datasets()}
    notes = [f"dataset {name} has a section but is not registered" for name in policy.dataset if name not in known]
    notes += [f"dataset {name} is registered but has no section" for name in sorted(known - set(policy.dataset))]
    if policy.coordinator.ca_fingerprint is None:
        notes.append("coordinator.ca_fingerprint is missing: every plan is refused")
    elif not here.owner.ca_fingerprint.startswith(policy.coordinator.ca_fingerprint):
        notes.append("coordinator.ca_fingerprint is not this coordinator's: every plan is refused")
    if policy.approval.mode == "by-policy":
        notes += _left_to_the_policy(policy)
    show({"ok": True, "notes": list(notes)}, ["policy.toml is valid.", *notes], as_json=as_json)


def _left_to_the_policy(policy: Policy) -> Iterator[str]:
    """What nobody looks at any more once a policy approves by itself."""
    if policy.floors.graphs is None:
        yield "plans on a k-regular graph are refused: its claim is weaker, and floors.graphs does not name it"
    elif "k-regular" in policy.floors.graphs:
        yield "plans on a k-regular graph are approved without a person, though its claim is weaker"
    if 1 in policy.floors.suites:
        yield "plans of suite 1 are approved without a person: a quantum computer may open their recordings one day"


@policy_app.command("explain")
def explain_policy(run: Run, config: Directory = None, as_json: AsJson = False) -> None:
    """Say rule by rule how a plan fares under the policy.

    Example: onlysum participant policy explain 3f2a
    """
    review = opened(config).review
    judged = review.judge_run(review.plans.find(run))
    rules = judged.assessment.rules
    value: list[Json] = [{"rule": one.name, "outcome": one.outcome.value, "says": one.says} for one in rules]
    show(value, [f"{one.outcome.value:<15}{one.name}: {one.says}" for one in rules], as_json=as_json)


@ledger_app.command("show")
def show_ledger(
    population: Annotated[str | None, typer.Argument(help="One population; by default all.")] = None,
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show what each population has spent, run by run, and what is left.

    Example: onlysum participant ledger show patients
    """
    from participant.owner.policy import load_policy

    here = opened(config)
    policy = load_policy(here.home)
    names = [population] if population else sorted({*here.ledger.populations(), *policy.population})
    if population and population not in {*here.ledger.populations(), *policy.population}:
        raise LocalError("E-NOT-FOUND", f"no population {population} in the ledger or the policy")
    value: list[Json] = []
    lines: list[str] = []
    for name in names:
        found = _spent(here, policy, name)
        value.append(found[0])
        lines += found[1]
    head = here.ledger.head()
    lines.append(f"ledger head: record {head.sequence}, {head.hash.hex()}")
    show({"populations": value, "sequence": head.sequence, "head": head.hash.hex()}, lines, as_json=as_json)


def _spent(here: Opened, policy: Policy, name: str) -> tuple[dict[str, Json], list[str]]:
    from participant.owner.cost import left_of, lifetime_budget
    from privacy.dp.accountants import epsilon
    from privacy.dp.events import Composed, format_epsilon_up

    spent, section = here.ledger.spent(name), policy.population.get(name)
    runs: list[Json] = []
    lines = []
    for run in spent.runs:
        alone = epsilon(Composed(run.event, run.rounds), float(run.delta)) if run.event and run.rounds else None
        runs.append({"run": run.run_id, "rounds": run.rounds, "epsilon": alone, "delta": run.delta})
        says = (
            "no differential privacy"
            if alone is None
            else f"epsilon {format_epsilon_up(alone, 3)} at delta {run.delta}, this run alone"
        )
        lines.append(f"  run {run.run_id[:8]}: {run.rounds} rounds charged, {says}")
    value: dict[str, Json] = {"population": name, "unit": spent.unit, "runs": runs}
    if section is None:
        return value, [f"{name}: no section in the policy, nothing more may be spent", *lines]
    budget = lifetime_budget(section)
    used = spent.lifetime_epsilon(budget)
    left = max(0.0, section.lifetime_epsilon - used)
    value |= {
        "lifetime_epsilon": used,
        "allowed": section.lifetime_epsilon,
        "left": left,
        "delta": section.lifetime_delta,
    }
    rest = left_of(section.lifetime_epsilon, used)
    says = f"{name}: epsilon {format_epsilon_up(used, 3)} of {section.lifetime_epsilon:g} spent for ever, {rest} left"
    if used:
        why = f"holds across all runs; {format_epsilon_up(budget.fixed)} of it is for delta, paid once"
        lines.append(f"  counted by a Renyi filter of order {budget.order}, which {why}")
    return value, [f"{says} (delta {section.lifetime_delta:g}, per {section.unit})", *lines]


@ledger_app.command("verify")
def verify_ledger(config: Directory = None, as_json: AsJson = False) -> None:
    """Check the whole ledger: its chain and every signature.

    Example: onlysum participant ledger verify
    """
    count = opened(config).ledger.verify()
    show({"records": count, "ok": True}, [f"{count} records, chained and signed by this identity."], as_json=as_json)


@ledger_app.command("export")
def export_ledger(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    config: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Write the whole ledger as JSON, for an archive or an auditor.

    Example: onlysum participant ledger export ledger.json
    """
    ledger = opened(config).ledger
    write_new(file, ledger.export())
    show({"file": str(file), "records": len(ledger.rows())}, [f"wrote {file}"], as_json=as_json)


@member_app.command("list")
def list_members(config: Directory = None, as_json: AsJson = False) -> None:
    """List who is enrolled, with fingerprints to compare.

    It is the coordinator who says so, until the fingerprints are compared by telephone.

    Example: onlysum participant member list
    """
    from host.credentials import fingerprint
    from participant.daemon.status_file import read_status
    from participant.owner.policy import load_policy

    here = opened(config)
    seen = read_status(here.home)
    if seen is None:
        raise LocalError(
            "E-NOT-FOUND", "no daemon has run here yet; `onlysum participant start` learns who is enrolled"
        )
    pins = load_policy(here.home).coordinator.roster
    rows = []
    value: list[Json] = []
    for one in seen.members:
        shown = fingerprint(one.identity_key)
        plain = shown.replace(" ", "")
        pin = pins.get(one.name)
        state = "you" if one.name == here.owner.name else "not pinned" if pin is None else "pinned"
        if pin is not None and not plain.startswith(pin[: len(plain)]):
            state = "DIFFERS FROM YOUR PIN"
        rows.append((one.name, one.role.value, shown, state))
        value.append({"name": one.name, "role": one.role.value, "identity": shown, "state": state})
    lines = table(("MEMBER", "ROLE", "IDENTITY FINGERPRINT", ""), rows)
    if any(state == "not pinned" for *_, state in rows):
        lines.append('Compare by telephone, then write NAME = "FINGERPRINT" under [coordinator.roster] in policy.toml.')
    show(value, lines, as_json=as_json)


@member_app.command("fingerprint")
def own_fingerprint(config: Directory = None, as_json: AsJson = False) -> None:
    """Show this participant's own fingerprint.

    It is to be read to the other owners; the authority's stands beside it.

    Example: onlysum participant member fingerprint
    """
    from host.credentials import fingerprint

    identity = opened(config).identity
    authority = fingerprint(identity.authority_der)
    value: Json = {"name": identity.name, "identity": identity.fingerprint, "authority": authority}
    rows = ((identity.name, identity.fingerprint), ("authority", authority))
    show(value, table(("WHOSE", "FINGERPRINT"), rows), as_json=as_json)
