"""The global adapter from round to round: what it starts as, and what each sum makes of it.

Guarantees: the next state is a function of plan, state, sum and survivors alone, and the same to the bit wherever it is
computed: each entry goes through additions, multiplications, divisions and square roots of float64, which IEEE 754
rounds correctly, in an order that is written here and in ``methods.optimizer``. So participants compute it from the
sum themselves, and an iterate that a coordinator chose is refused.
Leaves to others: the optimizer's arithmetic (``methods.optimizer``), what is where (``methods.vectors``), files.
Source: docs/protocol.md section 5.8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, assert_never

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

import methods
from methods import ranks
from methods.optimizer import OptimizerState, Wide, step, step_by_blocks
from methods.vectors import Vector
from privacy.dp.clipping import clip_radius
from privacy.draft import Recipe
from privacy.errors import LocalError
from privacy.plan import Plan
from privacy.secagg.fixed_point import Buffer, unfixed

Blocks = Iterable[tuple[int, NDArray[np.int64]]]  # the place of each one's first entry, and its integers
DECODED: Final = "decoded-"  # and how many rounds before the last: names of vectors on disk
VECTOR_TYPE: Final = np.dtype("<f4")  # of the vector, on disk and where it is hashed


def read_initial(data: bytes, recipe: Recipe) -> dict[str, NDArray[Any]]:
    """Parse the initial adapter and check it against the plan.

    Raises:
        LocalError: ``E-PLAN-RULE`` when hash, keys, shapes or types are not the manifest's.
    """
    if hashlib.sha256(data).hexdigest() != recipe.adapter.initial_hash:
        raise LocalError("E-PLAN-RULE", "the initial adapter is not the one that the plan names")
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise LocalError("E-PLAN-RULE", f"the initial adapter does not parse: {error}") from error
    expected = {tensor.key: tuple(tensor.shape) for tensor in recipe.adapter.tensors}
    if expected != {key: value.shape for key, value in tensors.items()}:
        raise LocalError("E-PLAN-RULE", "the initial adapter's tensors are not the manifest's")
    if wrong := sorted(key for key, value in tensors.items() if value.dtype != np.float32):
        raise LocalError("E-PLAN-RULE", f"tensor {wrong[0]} of the initial adapter is not float32")
    return tensors


def next_state(plan: Plan, state: OptimizerState, total: Blocks, survivors: Sequence[str]) -> OptimizerState:
    """Return the state after one more round.

    Where each entry goes its own way this holds one block at a time beside the two states.

    Args:
        plan: names optimizer, streams and turns; its constants are the only normalisers.
        state: after the round before.
        total: the sum's integers block by block, as :meth:`Layout.blocks` yields them.
        survivors: whose updates are in it.
    """
    recipe, number = plan.recipe, state.round + 1
    if recipe.measured is not None:  # its sum is no step
        return replace(state, round=number)
    if plan.privacy.banded:
        return _next_banded(plan, state, total, survivors)
    if methods.get(recipe.adapter.method).advance is step and (recipe.upload.kind, recipe.counts) == (
        "differences",
        "all",
    ):
        count = sum(_amounts(plan, survivors))
        directions = ((start, _direction_of(plan, number, entries, count)) for start, entries in total)
        return step_by_blocks(recipe, state, directions)
    whole = np.concatenate([entries for _, entries in total])
    return methods.advance(recipe, state, direction(plan, number, whole, survivors))


def without_sum(plan: Plan, state: OptimizerState) -> OptimizerState:
    """Return the state after a round that was voided: what nobody saw counts as zero where it is decoded."""
    number = state.round + 1
    if not plan.privacy.banded:
        return replace(state, round=number)
    nothing = np.zeros(plan.recipe.turn(number).entries, dtype=np.float32)
    return replace(state, round=number, decoded=_remembered(plan, nothing, state))


def _next_banded(plan: Plan, state: OptimizerState, total: Blocks, survivors: Sequence[str]) -> OptimizerState:
    """Return the state after a round whose sum has earlier rounds in it: they are taken out before the step.

    That is one row of C^-1 y (docs/privacy-accounting.md section 11), post-processing of sums alone.
    """
    number, count = state.round + 1, sum(_amounts(plan, survivors))
    newest = np.empty(plan.recipe.turn(number).entries, dtype=np.float32)

    def directions() -> Iterator[tuple[int, Wide]]:
        for start, entries in total:
            place = slice(start, start + entries.size)
            own = entries.astype(np.float64)
            for band, before in zip(plan.privacy.bands[1:], state.decoded, strict=False):
                own -= band * before[place].astype(np.float64)
            own /= plan.privacy.bands[0]
            newest[place] = own
            yield start, _direction_of(plan, number, own, count)

    after = step_by_blocks(plan.recipe, state, directions())
    return replace(after, decoded=_remembered(plan, newest, state))


def _remembered(plan: Plan, newest: Vector, state: OptimizerState) -> tuple[Vector, ...]:
    return (newest, *state.decoded)[: len(plan.privacy.bands) - 1]


def recovery_error(
    plan: Plan, state: OptimizerState, total: Callable[[], NDArray[np.int64]], survivors: Sequence[str]
) -> float | None:
    """Return how far the step after a round is from what it should be, where its sum does not determine it.

    Args:
        plan: names the method.
        state: after the round before.
        total: gives the sum's integers, shape (entries of the round's turn,); most methods do not ask for them.
        survivors: whose updates are in it.
    """
    measured = methods.get(plan.recipe.adapter.method).error
    if measured is None or plan.recipe.measured is not None:
        return None
    return measured(plan.recipe, state, direction(plan, state.round + 1, total(), survivors))


def direction(plan: Plan, round_number: int, total: NDArray[np.int64], survivors: Sequence[str]) -> Wide:
    """Return what the optimizer steps along: the mean difference, or minus the mean noisy gradient.

    Args:
        plan: its constants are the only normalisers; a realised batch is none.
        round_number: whose sum it is, from 1.
        total: the sum's integers, shape (entries of the round's turn,).
        survivors: whose updates are in it.
    """
    members, amounts = [plan.member(name) for name in survivors], _amounts(plan, survivors)
    if plan.recipe.counts == "rank":
        turn = plan.recipe.turn(round_number)
        counts = ranks.counts(plan.recipe, turn, zip(members, amounts, strict=True))
        everybody = _direction_of(plan, round_number, total, 1)
        return np.divide(everybody, counts, out=np.zeros_like(everybody), where=counts > 0)
    mean = _direction_of(plan, round_number, total, sum(amounts))
    return _over_everybody(plan, round_number, mean, sum(amounts) / sum(member.weight for member in plan.roster))


def _over_everybody(plan: Plan, round_number: int, mean: Wide, share: float) -> Wide:
    """Return a mean over survivors, in the streams for which the method says so over the whole roster."""
    start, wanted = 0, methods.get(plan.recipe.adapter.method).over_all
    for stream in plan.recipe.turn(round_number).sums:
        if stream.name in wanted:
            mean[start : start + stream.length] *= share
        start += stream.length
    return mean


def _amounts(plan: Plan, survivors: Sequence[str]) -> list[int]:
    """Return what each survivor counts for: its units in mode ``distributed``, its weight in the others."""
    members = [plan.member(name) for name in survivors]
    return [member.units if plan.privacy.mode == "distributed" else member.weight for member in members]


def _direction_of(plan: Plan, round_number: int, total: NDArray[np.int64] | Wide, count: int) -> Wide:
    """Return the direction of a sum that stands for so many weights, or units in mode ``distributed``."""
    match plan.privacy.mode:
        case "distributed":
            expected = float(plan.privacy.sampling_rate) * count
            return -total.astype(np.float64) * (unit(plan, round_number) / expected)
        case "distributed-participant":
            return total.astype(np.float64) * (unit(plan, round_number) / count)
        case "local" | "none":
            return unfixed(
                total.astype(np.int64, copy=False), scale_exponent=plan.encoding.scale_exponent, divisor=count
            )
        case _ as unknown:
            assert_never(unknown)


def unit(plan: Plan, round_number: int) -> float:
    """Return what one integer step of a round's clipped vector stands for: C / r."""
    return float(plan.privacy.clip_norm) / clip_radius(plan.privacy.sensitivity, plan.recipe.turn(round_number).entries)


# --- on disk ---


def iterate_bytes(iterate: Vector) -> Buffer:
    """Return the vector as it is hashed, float32, little-endian: a read-only view, not a copy."""
    return np.ascontiguousarray(iterate, dtype=VECTOR_TYPE).data.cast("B").toreadonly()


def state_to_bytes(state: OptimizerState, *, with_iterate: bool) -> bytes:
    """Return a state's vectors, with its iterate or without.

    Moments of zero, and an average that is the iterate, take no room.
    """
    kept = {name: vector for name in ("momentum", "second") if (vector := getattr(state, name)).any()}
    if state.average is not state.iterate and not np.array_equal(state.average, state.iterate):
        kept["average"] = state.average
    kept |= {f"{DECODED}{back}": vector for back, vector in enumerate(state.decoded)}
    if with_iterate:
        kept["iterate"] = state.iterate
    return save_tensors(kept)


def state_from_bytes(round_number: int, data: bytes, *, iterate: bytes | None = None) -> OptimizerState:
    """Return the state after a round from :func:`state_to_bytes`, and :func:`iterate_bytes` where it lies apart.

    Raises:
        LocalError: ``E-STATE-DAMAGED``.
    """
    try:
        kept = load_tensors(data)
        vector = kept["iterate"] if iterate is None else np.frombuffer(iterate, dtype=VECTOR_TYPE)
    except (KeyError, ValueError, SafetensorError) as error:
        raise LocalError("E-STATE-DAMAGED", f"the adapter after round {round_number} does not load") from error
    zeros = np.zeros(vector.shape, vector.dtype)
    return OptimizerState(
        round=round_number,
        iterate=vector,
        average=kept.get("average", vector),
        momentum=kept.get("momentum", zeros),
        second=kept.get("second", zeros),
        decoded=tuple(kept[f"{DECODED}{back}"] for back in range(sum(name.startswith(DECODED) for name in kept))),
    )
