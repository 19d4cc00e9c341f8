"""The evaluator's part in a run: measure each released adapter on public data, sign, send.

Guarantees: an adapter is downloaded and hashed before it is measured, and parsed from that same buffer; nothing here
masks, charges or touches private data.
Leaves to others: the measurement (``evaluation``), sending (``sender``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from host.logs import get_logger
from participant.runs.context import DaemonContext, TrainingJob
from privacy.errors import PeerError, Phase
from privacy.evaluation import Metric, SignedEvaluation, metrics_words
from protos.envelope import Evaluation, EvaluationAsked

_log = get_logger("onlysum.participant")


@dataclass(frozen=True, slots=True)
class Measured:
    """An adapter's figures over public examples, sorted by name, and the hash of that data."""

    examples: int
    metrics: tuple[Metric, ...]
    data_sha256: bytes


Measure = Callable[[TrainingJob, NDArray[np.float32]], Measured]


def evaluate_adapter(work: DaemonContext, job: TrainingJob, task: EvaluationAsked, measure: Measure) -> None:
    """Answer a request to measure an adapter.

    Raises:
        PeerError: the adapter has another length than the plan's vector.
        LocalError: ``E-MODEL-*`` or ``E-DATA-*``.
    """
    plan = job.verified.plan
    if task.adapter.length != 4 * plan.recipe.state_entries:
        rule = f"the adapter is announced as {task.adapter.length} bytes for {plan.recipe.state_entries} entries"
        raise PeerError.by_coordinator("E-ROUND-CONTEXT", Phase.EVALUATION, rule)
    data = work.sender.download(task.adapter)
    measured = measure(job, np.frombuffer(data, dtype="<f4").astype(np.float32))
    signed = SignedEvaluation(
        plan_hash=job.verified.hash,
        evaluator=job.me,
        round=task.round,
        adapter_sha256=task.adapter.sha256,
        data_sha256=measured.data_sha256,
        examples=measured.examples,
        metrics=measured.metrics,
    ).signed(work.owner.identity)
    work.sender.submit(
        Evaluation(
            run_id=task.run_id,
            plan_hash=signed.plan_hash,
            round=signed.round,
            adapter_sha256=signed.adapter_sha256,
            examples=signed.examples,
            metrics=signed.metrics,
            data_sha256=signed.data_sha256,
            signature=signed.signature,
        )
    )
    _log.info(
        "adapter measured",
        run=task.run_id,
        round=task.round,
        figures=metrics_words(signed.metrics),
        examples=signed.examples,
    )
