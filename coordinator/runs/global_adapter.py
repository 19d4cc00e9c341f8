"""The global adapter: from the initial tensors to the vector that travels, and from a sum to the next vector.

Guarantees: the vector is what the plan's manifest and state say, flat float32 little-endian; the step from a sum to
the next state is a function of plan, state, sum and survivors alone; files of a run are whole or absent.
Leaves to others: the optimizer's arithmetic (``methods.optimizer``), which tensor is where in the vector and
PEFT's keys (``methods``), the release (``coordinator.runs.completion``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, assert_never

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from host import durable
from methods import ranks
from methods.optimizer import OptimizerState, Wide
from methods.vectors import joined
from privacy.dp.clipping import clip_radius
from privacy.draft import Recipe
from privacy.errors import LocalError
from privacy.plan import Plan
from privacy.secagg.fixed_point import unfixed

VECTOR_TYPE: Final = np.dtype("<f4")  # of the vector, on disk and on the wire


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


# --- from a sum to the next state ---


def direction(plan: Plan, round_number: int, total: NDArray[np.int64], survivors: Sequence[str]) -> Wide:
    """Return what the optimizer steps along: the mean difference, or minus the mean noisy gradient.

    Args:
        plan: its constants are the only normalisers; a realised batch is none.
        round_number: whose sum it is, from 1.
        total: the sum's integers, shape (entries of the round's turn,).
        survivors: whose updates are in it.
    """
    members = [plan.member(name) for name in survivors]
    by_units = plan.privacy.mode == "distributed"
    amounts = [member.units if by_units else member.weight for member in members]
    if plan.recipe.counts == "rank":
        turn = plan.recipe.turn(round_number)
        counts = ranks.counts(plan.recipe, turn, zip(members, amounts, strict=True))
        everybody = _direction_of(plan, round_number, total, 1)
        return np.divide(everybody, counts, out=np.zeros_like(everybody), where=counts > 0)
    return _direction_of(plan, round_number, total, sum(amounts))


def _direction_of(plan: Plan, round_number: int, total: NDArray[np.int64], count: int) -> Wide:
    """Return the direction of a sum that stands for so many weights, or units in mode ``distributed``."""
    match plan.privacy.mode:
        case "distributed":
            expected = float(plan.privacy.sampling_rate) * count
            return -total.astype(np.float64) * (unit(plan, round_number) / expected)
        case "distributed-participant":
            return total.astype(np.float64) * (unit(plan, round_number) / count)
        case "local" | "none":
            return unfixed(total, scale_exponent=plan.encoding.scale_exponent, divisor=count)
        case _ as unknown:
            assert_never(unknown)


def unit(plan: Plan, round_number: int) -> float:
    """Return what one integer step of a round's clipped vector stands for: C / r."""
    return float(plan.privacy.clip_norm) / clip_radius(plan.privacy.sensitivity, plan.recipe.turn(round_number).entries)


# --- a run's files ---


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The directory of one run."""

    directory: Path

    @property
    def initial(self) -> Path:
        """All tensors that every participant starts from."""
        return self.directory / "initial_adapter.safetensors"

    @property
    def adapter_config(self) -> Path:
        """PEFT's own configuration of the adapter."""
        return self.directory / "adapter_config.json"

    @property
    def exported(self) -> Path:
        """The released adapter in PEFT's format."""
        return self.directory / "adapter"

    @property
    def report(self) -> Path:
        """The signed audit report."""
        return self.directory / "report.json"

    def iterate(self, round_number: int) -> Path:
        """The vector that the round after this one starts from."""
        return self.directory / f"global-{round_number}.f32"

    def released(self, round_number: int) -> Path:
        """The vector that is evaluated and exported after a round: the average of iterates, if the plan has one."""
        averaged = self.directory / f"released-{round_number}.f32"
        return averaged if averaged.exists() else self.iterate(round_number)

    def write_start(self, plan: Plan) -> None:
        """Write the vector that round 1 starts from."""
        vector = joined(plan.recipe, read_initial(self.initial.read_bytes(), plan.recipe))
        durable.write(self.iterate(0), vector.astype(VECTOR_TYPE).tobytes())

    def write_state(self, state: OptimizerState) -> tuple[bytes, bytes]:
        """Make a round's state durable, and return the bytes of its iterate and of what is released."""
        iterate, released = state.iterate.tobytes(), state.average.tobytes()
        tensors = {"momentum": state.momentum, "second": state.second}
        kept = {name: vector for name, vector in tensors.items() if vector.any()}  # a moment of zeros is left out
        if released != iterate:
            kept["average"] = state.average
        durable.write(self._state(state.round), save_tensors(kept))
        if released != iterate:
            durable.write(self.directory / f"released-{state.round}.f32", released)
        durable.write(self.iterate(state.round), iterate)
        return iterate, released

    def read_state(self, round_number: int) -> OptimizerState:
        """Return the state after a round; before round 1 it is the initial adapter.

        Raises:
            LocalError: ``E-STATE-DAMAGED``.
        """
        try:
            iterate = np.frombuffer(self.iterate(round_number).read_bytes(), dtype=VECTOR_TYPE)
            if round_number == 0:
                return OptimizerState.start(iterate)
            kept = load_tensors(self._state(round_number).read_bytes())
        except (OSError, SafetensorError) as error:
            raise LocalError("E-STATE-DAMAGED", f"the adapter after round {round_number} does not load") from error
        zeros = np.zeros_like(iterate)
        return OptimizerState(
            round=round_number,
            iterate=iterate,
            average=kept.get("average", iterate),
            momentum=kept.get("momentum", zeros),
            second=kept.get("second", zeros),
        )

    def forget(self, round_number: int, *, keep_released: bool) -> None:
        """Drop what no later round needs of a round."""
        self._state(round_number).unlink(missing_ok=True)
        if keep_released and self.released(round_number) == self.iterate(round_number):
            return
        self.iterate(round_number).unlink(missing_ok=True)
        if not keep_released:
            (self.directory / f"released-{round_number}.f32").unlink(missing_ok=True)

    def _state(self, round_number: int) -> Path:
        return self.directory / f"state-{round_number}.safetensors"
