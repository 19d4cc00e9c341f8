"""From a draft and a list of members to a signed plan that waits for approvals.

Guarantees: sizes are those that members announced themselves; thresholds, noise and ring follow from roster and f by
the rules of the plan; nothing is registered before the signed plan has been read back as a participant would read it.
Leaves to others: approving it (``participant``), running it (``coordinator.runs.lifecycle``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

import methods
from coordinator.config import Settings
from coordinator.database import content_rows, label_rows, member_rows, run_rows
from coordinator.database.member_rows import MemberRecord
from coordinator.database.run_rows import RunRecord, RunState
from coordinator.database.store import Store
from coordinator.home import Home
from coordinator.runs.global_adapter import RunFiles
from coordinator.runs.thresholds import Requested, choose
from coordinator.storage.content import Content
from host import durable
from methods.global_adapter import read_initial
from privacy.draft import Draft, PrivacyTarget
from privacy.errors import LocalError, PlanError
from privacy.interfaces import RandomSource
from privacy.plan import Plan, VerifiedPlan, signed_plan_bytes, threshold
from privacy.plan_parts import Evaluation, Evaluator, Graph, Member, MemberOptions
from privacy.secagg import graph_bounds
from privacy.secagg.keys import SigningKey
from protos.envelope import Role

LEAST_ROSTER: Final = 3
RUN_ID_BYTES: Final = 16
DRAFT_FILES: Final = ("draft.json", "initial_adapter.safetensors", "adapter_config.json")

WeightRule = Literal["equal", "units"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the operator asks for beside the draft."""

    members: Sequence[str]
    tolerance: Requested = field(default_factory=Requested)
    weight_rule: WeightRule = "equal"
    ranks: Mapping[str, int] = field(default_factory=dict)  # of members that train less than the adapter's
    suite: Literal[1, 2] | None = None  # the draft's
    entry_bits: int | None = None  # as narrow as the sum allows
    expires_at: int
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What a run like an earlier one takes over, where the operator says nothing else."""

    draft: Path
    members: tuple[str, ...]
    tolerance: Requested
    weight_rule: WeightRule
    ranks: Mapping[str, int]
    suite: Literal[1, 2]


def like(files: RunFiles, plan: Plan, members: Sequence[str]) -> Again:
    """Return what another run takes over from a plan: its draft, and with the same roster all that was chosen for it.

    With another roster f, least survivors and dropouts are chosen anew; noise and words always are.

    Args:
        files: of the earlier run.
        plan: of the earlier run.
        members: the roster that is asked for; empty for the same.

    Raises:
        LocalError: ``E-NOT-FOUND``: the earlier run has no draft, since older software made it.
    """
    drafted, roster = [files.file(name) for name in DRAFT_FILES], tuple(member.id for member in plan.roster)
    if not drafted[0].is_file():
        raise LocalError(
            "E-NOT-FOUND", f"run {plan.run_id} has no draft: older software made it; create from the draft"
        )
    names = tuple(members) or roster
    tolerance = Requested(graph=plan.graph.kind)
    if {*names} == {*roster}:
        regular = plan.graph.kind == "k-regular"
        dropouts = plan.graph.max_dropouts if regular else None
        survivors = None if regular else plan.min_survivors
        tolerance = Requested(f=plan.f, min_survivors=survivors, graph=plan.graph.kind, max_dropouts=dropouts)
    ranks = {member.id: member.options.rank for member in plan.roster if member.options.rank and member.id in names}
    return Again(
        draft=files.directory,
        members=names,
        tolerance=tolerance,
        weight_rule=plan.weight_rule,
        ranks=ranks,
        suite=plan.suite,
    )


def read_draft(directory: Path) -> Draft:
    """Read a draft directory as ``plan build`` makes it.

    Raises:
        LocalError: ``E-NOT-FOUND``, or ``E-PLAN-MALFORMED`` when it does not parse.
    """
    for name in DRAFT_FILES:
        if not (directory / name).is_file():
            raise LocalError("E-NOT-FOUND", f"{directory / name}: a draft directory has {', '.join(DRAFT_FILES)}")
    return Draft.from_bytes((directory / "draft.json").read_bytes())


def make_plan(store: Store, settings: Settings, draft: Draft, request: RunRequest, *, random: RandomSource) -> Plan:
    """Bind a draft to a roster: members, sizes, thresholds, noise, words.

    Raises:
        LocalError: ``E-USAGE``, ``E-RUN-SIZES``, ``E-RUN-TOLERANCE``, ``E-PLAN-NOISE``, ``E-PLAN-RING``,
            ``E-PLAN-STREAM`` or ``E-METHOD-REFUSED``.
    """
    methods.require_sound(draft.recipe, draft.privacy.mode, draft.privacy.bands)
    return bind(
        draft,
        _roster(store, settings, draft, request),
        request.tolerance,
        federation=settings.federation,
        operator=settings.operator,
        operator_contact=settings.contact,
        run_id=random.token_bytes(RUN_ID_BYTES).hex(),
        created_at=request.created_at,
        expires_at=request.expires_at,
        weight_rule=request.weight_rule,
        evaluators=_evaluators(store),
        suite=request.suite,
        entry_bits=request.entry_bits,
    )


def bind(
    draft: Draft,
    roster: Sequence[Member],
    tolerance: Requested,
    *,
    federation: str,
    operator: str,
    operator_contact: str = "",
    run_id: str,
    created_at: int,
    expires_at: int,
    weight_rule: WeightRule = "equal",
    evaluators: tuple[Evaluator, ...] = (),
    suite: Literal[1, 2] | None = None,
    entry_bits: int | None = None,
) -> Plan:
    """Return the plan of a draft over a roster, calibrated; nobody is asked and nothing is registered.

    Args:
        draft: as ``plan build`` writes it.
        roster: in the order of their ids.
        tolerance: what the run is to withstand.
        federation: its name; the other arguments are the fields of a plan.
        operator: who signs it.
        operator_contact: whom to call.
        run_id: 32 hexadecimal digits.
        created_at: seconds since the Unix epoch.
        expires_at: likewise.
        weight_rule: what weights follow from.
        evaluators: who measures.
        suite: ``None`` takes the draft's.
        entry_bits: of an entry of a sum; ``None`` for as few as cost little.

    Raises:
        LocalError: ``E-RUN-TOLERANCE``, ``E-PLAN-NOISE``, ``E-PLAN-RING`` or ``E-PLAN-RULE``.
    """
    rounds, n = draft.recipe.rounds, len(roster)
    with_operator = sum(member.with_operator for member in roster)
    withstood = choose(tolerance, n, with_operator=with_operator, rounds=rounds, attempts=draft.max_attempts)
    f, survivors = withstood.f, withstood.min_survivors
    # SciPy under the accountants takes longer to import than everything else that this command does.
    from privacy.dp.calibration import calibrate
    from privacy.dp.signal import Setting

    setting = Setting.of(draft.recipe, roster, f=f, min_survivors=survivors)
    privacy, encoding = calibrate(_reserving(draft.privacy, withstood.graph), setting, entry_bits=entry_bits)
    privacy = privacy.model_copy(update={"delta": draft.privacy.delta})
    try:
        return Plan(
            suite=suite or draft.suite,
            federation=federation,
            operator=operator,
            operator_contact=operator_contact,
            run_id=run_id,
            created_at=created_at,
            expires_at=expires_at,
            recipe=draft.recipe,
            privacy=privacy,
            encoding=encoding,
            weight_rule=weight_rule,
            evaluation=Evaluation(
                data=draft.evaluation_data,
                every=draft.evaluate_every,
                evaluators=() if draft.recipe.measured else evaluators,
            ),
            roster=tuple(roster),
            f=f,
            shamir_threshold=threshold(n, f),
            quorum=threshold(n, f),
            min_survivors=survivors,
            graph=withstood.graph,
            max_attempts=draft.max_attempts,
        )
    except ValidationError as error:
        raise LocalError("E-PLAN-RULE", error.errors(include_url=False, include_input=False)[0]["msg"]) from None


def _roster(store: Store, settings: Settings, draft: Draft, request: RunRequest) -> tuple[Member, ...]:
    names = sorted(set(request.members))
    if len(names) != len(request.members) or len(names) < LEAST_ROSTER:
        raise LocalError("E-USAGE", f"--members takes at least {LEAST_ROSTER} different names")
    with store.read() as connection:
        known = {member.name: member for member in member_rows.list_members(connection) if member.active}
        offers = {name: {one.name: one.units for one in member_rows.announced(connection, name)} for name in names}
    for name in names:
        if name not in known or known[name].role is not Role.PARTICIPANT:
            raise LocalError("E-NOT-FOUND", f"no participant {name} is enrolled; see `onlysum coordinator member list`")
    data = draft.recipe.task.data
    if missing := [name for name in names if data not in offers[name]]:
        raise LocalError("E-RUN-SIZES", f"{', '.join(missing)} announced no dataset {data!r}")
    _require_ranks(draft, names, request.ranks)
    return tuple(_member(known[name], offers[name][data], settings, request) for name in names)


def read_ranks(text: str) -> dict[str, int]:
    """Return ranks by member, as the command line has them: ``a=4,b=2``.

    Raises:
        LocalError: ``E-USAGE``.
    """
    ranks = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, rank = part.partition("=")
        if not rank.isascii() or not rank.isdigit() or name in ranks:
            raise LocalError("E-USAGE", "--ranks takes members with their ranks, each once: a=4,b=2")
        ranks[name] = int(rank)
    return ranks


def _require_ranks(draft: Draft, names: Sequence[str], ranks: Mapping[str, int]) -> None:
    """Refuse ranks that nobody has or that the method does not allow."""
    if ranks and draft.recipe.counts != "rank":
        raise LocalError("E-USAGE", f"--ranks: method {draft.recipe.adapter.method} has one rank for everybody")
    for name, rank in ranks.items():
        if name not in names:
            raise LocalError("E-USAGE", f"--ranks: {name} is not among --members")
        if not 1 <= rank <= draft.recipe.adapter.rank:
            raise LocalError("E-USAGE", f"--ranks: {name} may have 1 to {draft.recipe.adapter.rank}")


def _member(one: MemberRecord, units: int, settings: Settings, request: RunRequest) -> Member:
    return Member(
        id=one.name,
        identity_key=one.identity_key.hex(),
        units=units,
        weight=units if request.weight_rule == "units" else 1,
        with_operator=one.name in settings.also_a_participant,
        options=MemberOptions(rank=request.ranks.get(one.name, 0)),
    )


def _evaluators(store: Store) -> tuple[Evaluator, ...]:
    with store.read() as connection:
        members = member_rows.list_members(connection)
    return tuple(
        Evaluator(id=member.name, identity_key=member.identity_key.hex())
        for member in members
        if member.active and member.role is Role.EVALUATOR
    )


def _reserving(target: PrivacyTarget, graph: Graph) -> PrivacyTarget:
    """Return the target that noise is calibrated for: a k-regular graph's chance of failure is taken off its delta."""
    if graph.kind == "complete" or target.mode == "none":
        return target
    left = Decimal(target.delta) - Decimal(2) ** -graph_bounds.SECURITY_BITS
    return target.model_copy(update={"delta": f"{left.quantize(Decimal('1e-18'), ROUND_FLOOR):f}"})


def register(
    store: Store,
    home: Home,
    operator: SigningKey,
    plan: Plan,
    draft: Path,
    *,
    labels: Mapping[str, str] | None = None,
    content: Content | None = None,
) -> RunRecord:
    """Sign a plan, write the run's directory, and register it to be proposed to its roster.

    Args:
        store: where it is registered.
        home: of the coordinator.
        operator: who signs.
        plan: as :func:`make_plan` makes it.
        draft: the directory that it was made of.
        labels: notes of the operator on the run, by key; they are beside the plan.
        content: where the run's files are kept, if not in its directory alone.

    Raises:
        LocalError: ``E-PLAN-RULE``: the initial adapter is not the manifest's; ``E-STORAGE-*``.
    """
    data = plan.to_bytes()
    signature = operator.sign(signed_plan_bytes(data))
    try:
        VerifiedPlan.verify(data, signature, operator.public)
    except PlanError as error:
        raise LocalError("E-BUG", f"the new plan does not verify: {error}") from error
    initial = (draft / "initial_adapter.safetensors").read_bytes()
    read_initial(initial, plan.recipe)
    with durable.new_directory(home.run(plan.run_id)) as directory:
        files = RunFiles(directory)
        durable.write(files.initial, initial)
        durable.write(files.adapter_config, (draft / "adapter_config.json").read_bytes())
        durable.write(directory / "draft.json", (draft / "draft.json").read_bytes())  # for another run like this one
        durable.write(directory / "plan.json", data)
        durable.write(directory / "plan.sig", signature)
        files.write_start(plan)
    durable.sync_directory(home.runs)
    kept = () if content is None else content.keep_all(plan.run_id)
    record = RunRecord(
        run_id=plan.run_id,
        plan=data,
        signature=signature,
        state=RunState.CREATED,
        code="",
        reason="",
        paused=False,
        abort_requested=False,
        created_at=plan.created_at,
        ended_at=None,
    )
    with store.begin() as connection:
        run_rows.add_run(connection, record)
        label_rows.set_labels(connection, plan.run_id, labels or {})
        content_rows.add(connection, plan.run_id, kept)
    return record
