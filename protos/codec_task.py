"""Tasks and submissions, between ``protos.envelope`` and ``federation.proto``.

Guarantees: as ``codec_round``; which member of the ``oneof`` stands for which type is said here alone.
Leaves to others: the messages inside them (``codec_round``), bytes and blame (``codec``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, assert_never

from privacy.evaluation import Metric, are_sound
from privacy.secagg import messages
from privacy.secagg.hashes import HASH_BYTES
from privacy.secagg.keys import SIGNATURE_BYTES
from protos import codec_heads as heads
from protos import codec_round as rounds
from protos import envelope as env
from protos import federation_pb2 as pb
from protos.codec_fields import (
    MAX_HISTORY,
    Malformed,
    ascending,
    bounded,
    code,
    count,
    each,
    exact,
    name,
    part,
    run_id,
    some,
    text,
)

MAX_PLAN_BYTES: Final = 2**24  # thousands of tensors and members are about 1 MiB
TASK_ID_BYTES: Final = 16
RUN_STATES: Final = frozenset({"completed", "aborted", "refused"})


# --- tasks ---


def _write_heads(values: Sequence[env.HeadsShown]) -> list[pb.HeadsShown]:
    return [heads.write_heads(shown) for shown in values]


def _read_heads(messages: Sequence[pb.HeadsShown]) -> tuple[env.HeadsShown, ...]:
    return each(messages, "heads", heads.read_heads)


def write_task(value: env.NumberedTask) -> pb.NumberedTask:
    """Return the message of a task with its id."""
    message = _write_task(value.task)
    message.id = value.id
    return message


def _write_task(task: env.Task) -> pb.NumberedTask:
    match task:
        case env.PlanProposed():
            return pb.NumberedTask(plan_proposed=_write_plan(task))
        case env.AttemptOpened():
            return pb.NumberedTask(attempt_opened=_write_opened(task))
        case env.KeysAdvertised():
            known = [rounds.write_advertisement(advertisement) for advertisement in task.advertisements]
            return pb.NumberedTask(
                keys_advertised=pb.KeysAdvertised(
                    run_id=task.run_id, advertisements=known, heads=_write_heads(task.heads)
                )
            )
        case env.SharesDealt():
            return pb.NumberedTask(shares_dealt=_write_shares(task))
        case env.SurvivorsProposed():
            proposal = rounds.write_proposal(task.proposal)
            return pb.NumberedTask(
                survivors_proposed=pb.SurvivorsProposed(
                    run_id=task.run_id, proposal=proposal, heads=_write_heads(task.heads)
                )
            )
        case env.UnmaskRequested():
            request = rounds.write_unmask_request(task.request)
            return pb.NumberedTask(unmask_requested=pb.UnmaskRequested(run_id=task.run_id, request=request))
        case env.RoundCompleted() | env.RoundVoided() | env.AttemptAborted():
            return _write_closing(task)
        case env.MemberExcluded():
            return pb.NumberedTask(member_excluded=pb.MemberExcluded(run_id=task.run_id))
        case env.EvaluationAsked():
            adapter = write_ref(task.adapter)
            asked = pb.EvaluationAsked(run_id=task.run_id, round=task.round, adapter=adapter)
            return pb.NumberedTask(evaluation_asked=asked)
        case env.RunEnded():
            ended = pb.RunEnded(run_id=task.run_id, state=task.state, code=task.code)
            return pb.NumberedTask(run_ended=ended)
        case _:
            assert_never(task)


def _write_closing(task: env.RoundCompleted | env.RoundVoided | env.AttemptAborted) -> pb.NumberedTask:
    match task:
        case env.RoundCompleted():
            certificate = rounds.write_certificate(task.certificate)
            total = None if task.sum is None else write_ref(task.sum)
            completed = pb.RoundCompleted(run_id=task.run_id, certificate=certificate, sum=total)
            return pb.NumberedTask(round_completed=completed)
        case env.RoundVoided():
            voided = rounds.write_voided(task.voided)
            return pb.NumberedTask(round_voided=pb.RoundVoided(run_id=task.run_id, voided=voided))
        case env.AttemptAborted():
            position = rounds.write_position(task.position)
            aborted = pb.AttemptAborted(run_id=task.run_id, position=position, code=task.code)
            return pb.NumberedTask(attempt_aborted=aborted)


def read_task(message: pb.NumberedTask) -> env.NumberedTask:
    """Return a task with its id."""
    return env.NumberedTask(id=exact(message.id, TASK_ID_BYTES, "id"), task=_read_task(message))


def _read_task(message: pb.NumberedTask) -> env.Task:
    kind = message.WhichOneof("task")
    if kind is None:
        raise Malformed("task is missing")
    return part(message, kind, _TASK_READERS[kind])


def write_ref(value: env.ContentRef) -> pb.ContentRef:
    """Return the message of a reference to content."""
    return pb.ContentRef(sha256=value.sha256, length=value.length)


def read_ref(message: pb.ContentRef) -> env.ContentRef:
    """Return a reference to content."""
    return env.ContentRef(
        sha256=exact(message.sha256, HASH_BYTES, "sha256"),
        length=count(message.length, "length", least=1, most=env.MAX_CONTENT_BYTES),
    )


def _write_plan(task: env.PlanProposed) -> pb.PlanProposed:
    return pb.PlanProposed(
        run_id=task.run_id,
        plan=task.plan,
        signature=task.signature,
        initial_adapter=write_ref(task.initial_adapter),
    )


def _read_plan(message: pb.PlanProposed) -> env.PlanProposed:
    return env.PlanProposed(
        run_id=run_id(message.run_id),
        plan=bounded(message.plan, MAX_PLAN_BYTES, "plan"),
        signature=exact(message.signature, SIGNATURE_BYTES, "signature"),
        initial_adapter=part(message, "initial_adapter", read_ref),
    )


def _write_opened(task: env.AttemptOpened) -> pb.AttemptOpened:
    return pb.AttemptOpened(
        run_id=task.run_id,
        offer=rounds.write_offer(task.offer),
        sums=[write_ref(content) for content in task.sums],
        adapter=None if task.adapter is None else write_ref(task.adapter),
        history=[rounds.write_certificate(certificate) for certificate in task.history],
        voided=[rounds.write_voided(voided) for voided in task.voided],
    )


def _read_opened(message: pb.AttemptOpened) -> env.AttemptOpened:
    return env.AttemptOpened(
        run_id=run_id(message.run_id),
        offer=part(message, "offer", rounds.read_offer),
        sums=each(message.sums, "sums", read_ref, most=MAX_HISTORY),
        adapter=part(message, "adapter", read_ref) if message.HasField("adapter") else None,
        history=each(message.history, "history", rounds.read_certificate, most=MAX_HISTORY),
        voided=each(message.voided, "voided", rounds.read_voided, most=MAX_HISTORY),
    )


def _read_keys(message: pb.KeysAdvertised) -> env.KeysAdvertised:
    known = each(message.advertisements, "advertisements", rounds.read_advertisement)
    some(known, "advertisements")
    return env.KeysAdvertised(run_id(message.run_id), known, _read_heads(message.heads))


def _write_shares(task: env.SharesDealt) -> pb.SharesDealt:
    return pb.SharesDealt(
        run_id=task.run_id,
        position=rounds.write_position(task.position),
        shares=[rounds.write_dealt(share) for share in task.shares],
        u2=task.u2,
    )


def _read_shares(message: pb.SharesDealt) -> env.SharesDealt:
    ascending(message.u2, "u2")
    return env.SharesDealt(
        run_id=run_id(message.run_id),
        position=part(message, "position", rounds.read_position),
        shares=each(message.shares, "shares", rounds.read_dealt),
        u2=each(message.u2, "u2", lambda member: name(member, "name")),
    )


def _read_survivors(message: pb.SurvivorsProposed) -> env.SurvivorsProposed:
    proposal = part(message, "proposal", rounds.read_proposal)
    return env.SurvivorsProposed(run_id(message.run_id), proposal, _read_heads(message.heads))


def _read_unmask(message: pb.UnmaskRequested) -> env.UnmaskRequested:
    request = part(message, "request", rounds.read_unmask_request)
    return env.UnmaskRequested(run_id=run_id(message.run_id), request=request)


def _read_completed(message: pb.RoundCompleted) -> env.RoundCompleted:
    certificate = part(message, "certificate", rounds.read_certificate)
    total = part(message, "sum", read_ref) if message.HasField("sum") else None
    return env.RoundCompleted(run_id=run_id(message.run_id), certificate=certificate, sum=total)


def _read_voided(message: pb.RoundVoided) -> env.RoundVoided:
    return env.RoundVoided(run_id=run_id(message.run_id), voided=part(message, "voided", rounds.read_voided))


def _read_aborted(message: pb.AttemptAborted) -> env.AttemptAborted:
    position = part(message, "position", rounds.read_position)
    return env.AttemptAborted(run_id=run_id(message.run_id), position=position, code=code(message.code))


def _read_excluded(message: pb.MemberExcluded) -> env.MemberExcluded:
    return env.MemberExcluded(run_id=run_id(message.run_id))


def _read_asked(message: pb.EvaluationAsked) -> env.EvaluationAsked:
    return env.EvaluationAsked(
        run_id=run_id(message.run_id),
        round=count(message.round, "round"),
        adapter=part(message, "adapter", read_ref),
    )


def _read_ended(message: pb.RunEnded) -> env.RunEnded:
    if message.state not in RUN_STATES:
        raise Malformed(f"state is none of {', '.join(sorted(RUN_STATES))}")
    if (message.state == "completed") != (not message.code):
        raise Malformed("code is empty when a run completed, and only then")
    return env.RunEnded(
        run_id=run_id(message.run_id), state=message.state, code=code(message.code) if message.code else ""
    )


_TASK_READERS: Final[Mapping[str, Callable[..., env.Task]]] = {
    "plan_proposed": _read_plan,
    "attempt_opened": _read_opened,
    "keys_advertised": _read_keys,
    "shares_dealt": _read_shares,
    "survivors_proposed": _read_survivors,
    "unmask_requested": _read_unmask,
    "round_completed": _read_completed,
    "round_voided": _read_voided,
    "attempt_aborted": _read_aborted,
    "member_excluded": _read_excluded,
    "evaluation_asked": _read_asked,
    "run_ended": _read_ended,
}


# --- submissions ---


def write_submission(value: env.Submission) -> pb.Submission:
    """Return the message of a submission."""
    match value:
        case env.PlanApproved():
            approved = pb.PlanApproved(run_id=value.run_id, plan_hash=value.plan_hash, signature=value.signature)
            return pb.Submission(plan_approved=approved)
        case env.PlanRefused():
            refused = pb.PlanRefused(
                run_id=value.run_id, plan_hash=value.plan_hash, code=value.code, because=value.because
            )
            return pb.Submission(plan_refused=refused)
        case env.Abstained():
            position = rounds.write_position(value.position)
            return pb.Submission(abstained=pb.Abstained(run_id=value.run_id, position=position, code=value.code))
        case env.Evaluation():
            return pb.Submission(evaluation=_write_evaluation(value))
        case env.MemberLeft():
            return pb.Submission(member_left=pb.MemberLeft(signature=value.signature))
        case env.MessageWithHeads():
            message = _write_said(value.message)
            message.heads.CopyFrom(heads.write_heads(value.heads))
            return message
        case env.HeadsShown():
            return pb.Submission(heads_shown=heads.write_heads(value))
        case env.RoundKnown():
            certificate = rounds.write_certificate(value.certificate)
            return pb.Submission(round_known=pb.RoundKnown(run_id=value.run_id, certificate=certificate))
        case _:
            return _write_said(value)


def _write_said(value: env.RoundMessage) -> pb.Submission:
    """Return the message of what a participant says in a round."""
    match value:
        case messages.Advertisement():
            return pb.Submission(advertisement=rounds.write_advertisement(value))
        case messages.ShareBundle():
            return pb.Submission(share_bundle=rounds.write_bundle(value))
        case messages.Complaint():
            return pb.Submission(complaint=rounds.write_complaint(value))
        case messages.Receipt():
            return pb.Submission(receipt=rounds.write_receipt(value))
        case messages.SurvivorSignature():
            return pb.Submission(survivor_signature=rounds.write_survivor_signature(value))
        case messages.UnmaskShares():
            return pb.Submission(unmask_shares=rounds.write_unmask_shares(value))
        case _:
            assert_never(value)


def read_submission(message: pb.Submission) -> env.Submission:
    """Return a submission."""
    kind = message.WhichOneof("submission")
    if kind is None:
        raise Malformed("submission is missing")
    submission = part(message, kind, _SUBMISSION_READERS[kind])
    if not message.HasField("heads"):
        return submission
    if not isinstance(submission, env.RecordedMessage):
        raise Malformed("heads come with a message that the sender's journal has a record of")
    return env.MessageWithHeads(part(message, "heads", heads.read_heads), submission)


def _read_approved(message: pb.PlanApproved) -> env.PlanApproved:
    return env.PlanApproved(
        run_id=run_id(message.run_id),
        plan_hash=exact(message.plan_hash, HASH_BYTES, "plan_hash"),
        signature=exact(message.signature, SIGNATURE_BYTES, "signature"),
    )


def _read_refused(message: pb.PlanRefused) -> env.PlanRefused:
    return env.PlanRefused(
        run_id=run_id(message.run_id),
        plan_hash=exact(message.plan_hash, HASH_BYTES, "plan_hash"),
        code=code(message.code),
        because=text(message.because, "because"),
    )


def _read_abstained(message: pb.Abstained) -> env.Abstained:
    position = part(message, "position", rounds.read_position)
    return env.Abstained(run_id=run_id(message.run_id), position=position, code=code(message.code))


def _read_left(message: pb.MemberLeft) -> env.MemberLeft:
    return env.MemberLeft(signature=exact(message.signature, SIGNATURE_BYTES, "signature"))


def _read_known(message: pb.RoundKnown) -> env.RoundKnown:
    certificate = part(message, "certificate", rounds.read_certificate)
    return env.RoundKnown(run_id=run_id(message.run_id), certificate=certificate)


def _write_evaluation(value: env.Evaluation) -> pb.Evaluation:
    return pb.Evaluation(
        run_id=value.run_id,
        plan_hash=value.plan_hash,
        round=value.round,
        adapter_sha256=value.adapter_sha256,
        examples=value.examples,
        metrics=[pb.Metric(name=metric.name, value=metric.value) for metric in value.metrics],
        data_sha256=value.data_sha256,
        signature=value.signature,
    )


def _read_evaluation(message: pb.Evaluation) -> env.Evaluation:
    metrics = tuple(Metric(metric.name, metric.value) for metric in message.metrics)
    if not are_sound(metrics):
        raise Malformed("metrics are not known figures, each once and in order")
    return env.Evaluation(
        run_id=run_id(message.run_id),
        plan_hash=exact(message.plan_hash, HASH_BYTES, "plan_hash"),
        round=count(message.round, "round"),
        adapter_sha256=exact(message.adapter_sha256, HASH_BYTES, "adapter_sha256"),
        examples=count(message.examples, "examples", least=1),
        metrics=metrics,
        data_sha256=exact(message.data_sha256, HASH_BYTES, "data_sha256"),
        signature=exact(message.signature, SIGNATURE_BYTES, "signature"),
    )


_SUBMISSION_READERS: Final[Mapping[str, Callable[[Any], env.Submission]]] = {
    "plan_approved": _read_approved,
    "plan_refused": _read_refused,
    "advertisement": rounds.read_advertisement,
    "share_bundle": rounds.read_bundle,
    "complaint": rounds.read_complaint,
    "receipt": rounds.read_receipt,
    "survivor_signature": rounds.read_survivor_signature,
    "unmask_shares": rounds.read_unmask_shares,
    "abstained": _read_abstained,
    "evaluation": _read_evaluation,
    "heads_shown": heads.read_heads,
    "member_left": _read_left,
    "round_known": _read_known,
}
