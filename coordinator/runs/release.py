"""What leaves a run when it ends: the adapter in PEFT's own format with a model card, and the signed report.

Guarantees: whatever PEFT loads from the exported directory is the released adapter of the last completed round, and its
card says so where the run did not complete; a report that cannot be made never keeps a run from ending.
Leaves to others: tensors and keys (``methods``), the report's content (``privacy.report``).
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save

import methods
from coordinator.database import attempt_rows, run_rows
from coordinator.database.store import Store
from coordinator.runs.adapter_use import TASK_FILE, needs, task_json, use_lines
from coordinator.runs.global_adapter import RunFiles
from host import durable
from methods.global_adapter import VECTOR_TYPE, read_initial
from privacy.adapter_parts import options_words
from privacy.claims import (
    COMMON,
    EARLIER_RUNS,
    NO_NOISE,
    collusion_sentence,
    difference_sentence,
    epsilon_sentence,
    graph_sentences,
    noise_sentences,
    relation_sentence,
    suite_sentences,
    sum_sentence,
    unfinished_sentences,
)
from privacy.errors import LocalError, OnlysumError
from privacy.evaluation import SignedEvaluation, metrics_words
from privacy.measurement import figures
from privacy.notice import HEADING, notice_sentences
from privacy.plan import Plan, VerifiedPlan
from privacy.secagg.keys import SigningKey
from protos import codec

MEASUREMENT_FILE: Final = "measurement.json"
COORDINATOR: Final = "coordinator"
LIBRARIES: Final = ("onlysum", "cryptography", "dp-accounting", "numpy", "safetensors")  # that the figures depend on


def finish(
    store: Store, operator: SigningKey, plan: VerifiedPlan, files: RunFiles, *, drafts: RunFiles, now: int
) -> str:
    """Export the released adapter, write the signed report, and return a note for the run's row, usually empty.

    Both are written to ``drafts``, and published once the run's end is committed.
    """
    with store.read() as connection:
        rounds = run_rows.list_rounds(connection, plan.plan.run_id)
        measured = run_rows.list_evaluations(connection, plan.plan.run_id)
    if len(rounds) == plan.plan.recipe.rounds and plan.plan.recipe.measured is None:
        write_adapter(drafts.exported, plan.plan, files, measured)
    try:
        durable.make_directory(drafts.directory)
        durable.write(drafts.report, make_report(store, operator, plan, files, now))
    except OnlysumError as error:
        if error.code == "E-STORAGE-AWAY":  # the report is made once it answers
            raise
        return f"no report: {error}"
    return ""


def write_adapter(
    directory: Path,
    plan: Plan,
    files: RunFiles,
    measured: tuple[run_rows.EvaluationRecord, ...],
    *,
    completed: int | None = None,
) -> None:
    """Write a released adapter in PEFT's own format, with a model card.

    Args:
        directory: where to, which is made unless it is there.
        plan: of the run.
        files: of the run.
        measured: its measurements on public data.
        completed: the last round that completed, in a run that ended early; by default the plan's last.

    Raises:
        LocalError: ``E-STATE-DAMAGED``: the adapter is not there any more.
    """
    last = plan.recipe.rounds if completed is None else completed
    try:
        vector = np.frombuffer(files.released(last).read_bytes(), dtype=VECTOR_TYPE)
    except FileNotFoundError as error:
        raise LocalError("E-STATE-DAMAGED", f"the adapter after round {last} is gone from {files.directory}") from error
    initial = read_initial(files.initial.read_bytes(), plan.recipe)
    tensors = methods.get(plan.recipe.adapter.method).export(plan.recipe, vector, initial)
    durable.make_directory(directory)
    durable.write(directory / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    durable.write(directory / "adapter_config.json", files.adapter_config.read_bytes())
    durable.write(directory / TASK_FILE, task_json(plan))
    durable.write(directory / "README.md", model_card(plan, measured, completed=completed).encode())


def measurement_json(plan: Plan, files: RunFiles, rounds: Sequence[run_rows.RoundRecord]) -> bytes:
    """Return what a measurement found, for programs: each figure with its 95% interval, and the sum itself.

    Args:
        plan: measures.
        files: of the run.
        rounds: those that are over.

    Raises:
        LocalError: ``E-STATE-DAMAGED``: the sum is not there any more.
    """
    total = files.measured(plan)
    if not total:
        raise LocalError("E-STATE-DAMAGED", f"the sum of the measurement is gone from {files.directory}")
    privacy, survivors = plan.privacy, rounds[0].survivors
    value = {
        "run": plan.run_id,
        "plan_sha256": plan.hash.hex(),
        "adapter_sha256": plan.recipe.adapter.initial_hash,
        "mode": privacy.mode,
        "unit": privacy.unit,
        "epsilon": privacy.epsilon,
        "delta": privacy.delta,
        "participants": survivors,
        "dropouts": list(rounds[0].dropouts),
        "figures": [figure.to_json() for figure in figures(plan, total, survivors)],
        "sum": total,
    }
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def make_report(store: Store, operator: SigningKey, plan: VerifiedPlan, files: RunFiles, now: int) -> bytes:
    """Return the coordinator's report of a run, signed with the operator's key.

    Raises:
        OnlysumError: the accountants disagree.
    """
    # SciPy under the accountants takes longer to import than all else here, and only the end of a run needs it.
    from privacy.report import ReportFacts, RoundFacts, build_report, sign_report

    with store.read() as connection:
        run = run_rows.find_run(connection, plan.plan.run_id)
        attempts = attempt_rows.list_attempts(connection, run.run_id)
        rounds = {record.round: record for record in run_rows.list_rounds(connection, run.run_id)}
        measured = run_rows.list_evaluations(connection, run.run_id)
    facts = ReportFacts(
        plan=plan.plan,
        operator_key=operator.public,
        operator_signature=run.signature,
        role="coordinator",
        name=plan.plan.federation,
        identity_key=operator.public,
        made_at=now,
        software={**{name: version(name) for name in LIBRARIES}, "python": platform.python_version()},
        roster_verified=False,  # a coordinator cannot vouch for the roster; owners compare fingerprints themselves
        rounds=[
            RoundFacts(
                round=number,
                attempts=sum(attempt.round == number for attempt in attempts),
                certificate=codec.decode_certificate(rounds[number].certificate, sender=COORDINATOR)
                if number in rounds and not rounds[number].voided
                else None,
            )
            for number in sorted({attempt.round for attempt in attempts})
        ],
        evaluations=[_signed(plan, one) for one in measured],
        measured=files.measured(plan.plan),
    )
    return sign_report(build_report(facts), operator)


def _signed(plan: VerifiedPlan, one: run_rows.EvaluationRecord) -> SignedEvaluation:
    return SignedEvaluation(
        plan_hash=plan.hash,
        evaluator=one.evaluator,
        round=one.round,
        adapter_sha256=one.adapter_sha256,
        data_sha256=one.data_sha256,
        metrics=one.metrics,
        examples=one.examples,
        signature=one.signature,
    )


# --- the model card ---


def privacy_sentences(plan: Plan) -> tuple[str, ...]:
    """Return what is said about privacy wherever an adapter goes."""
    privacy = plan.privacy
    noise = (
        (
            epsilon_sentence(float(privacy.epsilon), delta=privacy.delta, unit=privacy.unit),
            relation_sentence(privacy.unit),
            *noise_sentences(plan),
            COMMON,
            EARLIER_RUNS,
        )
        if privacy.noised
        else (NO_NOISE,)
    )
    masks = (collusion_sentence(plan), sum_sentence(plan), difference_sentence(plan))
    return (*noise, *masks, *graph_sentences(plan), *suite_sentences(plan))


def model_card(plan: Plan, measured: tuple[run_rows.EvaluationRecord, ...], *, completed: int | None = None) -> str:
    """Return the README of an exported adapter; arguments as of :func:`write_adapter`."""
    recipe = plan.recipe
    unfinished = () if completed is None else unfinished_sentences(plan, completed)
    label = "".join(f"**{sentence}**\n\n" for sentence in unfinished)
    final = [one for one in measured if one.round == (recipe.rounds if completed is None else completed)]
    figures = "".join(
        f"- {metrics_words(one.metrics)} on {one.examples} examples of `{plan.evaluation.data}`, measured by"
        f" {one.evaluator}\n"
        for one in final
    )
    figures = figures or "None was reported.\n"
    purpose = "\n".join(f"> {line}" for line in recipe.purpose.split("\n"))  # no line of it can pass for a heading
    privacy = "\n".join(f"- {sentence}" for sentence in privacy_sentences(plan))
    notice = "\n".join(f"- {sentence}" for sentence in notice_sentences(plan))
    reading = f" {sentence}" if (sentence := needs(plan)) else ""
    return f"""\
---
library_name: peft
---

# {recipe.title}

{label}{purpose}

- base model: `{recipe.base.name}` ({recipe.base.architecture}), files hash `{recipe.base.hash}`
- method: `{recipe.adapter.method}`, {options_words(recipe.adapter)}, {recipe.state_entries} entries
- trained by {plan.n} participants of the federation `{plan.federation}` in {recipe.rounds} rounds, run `{plan.run_id}`
- plan `{plan.hash.hex()}`, operator {plan.operator}

## Privacy

Mode `{plan.privacy.mode}`; the signed report has the figures of what was executed.

{privacy}

## Evaluation on public data

{figures}
## {HEADING}

{notice}

## Use

`{TASK_FILE}` has the labels in the order of the answers, and the preprocessing.{reading}

```python
{use_lines(plan)}```
"""
