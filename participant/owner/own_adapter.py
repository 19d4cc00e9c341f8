"""An owner's own adapter: what a method leaves at home, put together with what the run released.

Guarantees: nothing is sent, charged or trained; what is written is for its owner alone (0700), and says so.
Leaves to others: what belongs together (``Method.mine``), when the part at home is erased
(``participant.runs.erasure``).
Source: docs/data-owner.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

import methods
from host import durable
from host.credentials import DIRECTORY_MODE
from methods.global_adapter import VECTOR_TYPE
from methods.method import WHOLE, Fusion, Method
from methods.vectors import home_tensors, joined
from participant.home import Home
from participant.owner.plan_store import PlanStore
from participant.protocol.memory import PartKept, kept_name
from participant.runs.journal import Journal
from privacy.errors import LocalError
from privacy.plan import VerifiedPlan

ADAPTER_FILE, CONFIG_FILE, TASK_FILE = "adapter_model.safetensors", "adapter_config.json", "task.json"
OWN_FILE: Final = "own_adapter.safetensors"  # where PEFT's format has no place for it

Tensors = Mapping[str, NDArray[Any]]


ChooseWeights = Callable[[NDArray[np.float32], NDArray[np.float32]], Fusion]  # by the released state and what is kept


def export_own(
    home: Home, verified: VerifiedPlan, released: Path, out: Path, *, choose: ChooseWeights | None = None
) -> int:
    """Write this participant's own adapter and return the round that it is of.

    Args:
        home: of the participant.
        verified: plan of a run that was approved here.
        released: the folder that the run's coordinator exported.
        out: the folder to make.
        choose: weighs the released adapter and one's own, where the method lets the owner's rows do so.

    Raises:
        LocalError: ``E-METHOD-REFUSED``, the method leaves nothing at home; ``E-NOT-FOUND``, no round has left
            anything yet, or a file is missing; ``E-PLAN-RULE``, the released adapter is not of this run; ``E-EXISTS``.
    """
    recipe = verified.plan.recipe
    method = methods.get(recipe.adapter.method)
    if not method.home:
        raise LocalError("E-METHOD-REFUSED", f"{method.title} leaves no part of an adapter at home")
    if out.exists():
        raise LocalError("E-EXISTS", str(out))
    record, kept = _kept(home, verified)
    tensors, start = {}, 0
    for tensor in home_tensors(recipe):
        tensors[tensor.key] = kept[start : start + tensor.entries].reshape(tensor.shape)
        start += tensor.entries
    shared, weights = _released(released, verified), WHOLE
    if method.fusions and choose is not None:
        weights = choose(joined(recipe, shared), kept)
    with durable.new_directory(out) as directory:
        directory.chmod(DIRECTORY_MODE)
        mine = method.mine(shared, tensors, weights)
        file = OWN_FILE if method.home == "mixed" else ADAPTER_FILE
        (directory / file).write_bytes(save_tensors(mine, metadata={"format": "pt"}))
        if method.home != "mixed":
            (directory / CONFIG_FILE).write_text(_config(released, method, verified))
        if (released / TASK_FILE).is_file():
            (directory / TASK_FILE).write_bytes((released / TASK_FILE).read_bytes())
        (directory / "README.md").write_text(_card(method, verified, record.round, file))
    return record.round


def erase_own(home: Home, plans: PlanStore, run_id: str) -> bool:
    """Erase what a run that is over has left at home, and return whether there was anything.

    Raises:
        LocalError: ``E-STATE-BUSY``, the run goes on.
    """
    if plans.ended(run_id) is None:
        raise LocalError("E-STATE-BUSY", f"run {run_id[:8]} goes on, and each round starts from what the last one left")
    record = Journal.open(home.runs / run_id, plans.get(run_id).hash).memory.kept
    path = home.runs / run_id / (kept_name(record.round) if record else "kept")
    found = path.is_file()
    if found:
        durable.erase(path)
    return found


def _kept(home: Home, verified: VerifiedPlan) -> tuple[PartKept, NDArray[np.float32]]:
    """Return the record and the values of what lies at home, by the journal's hash of it."""
    journal = Journal.open(home.runs / verified.plan.run_id, verified.hash)
    record = journal.memory.kept
    data = None if record is None else journal.load(kept_name(record.round), record.sha256)
    if record is None or data is None:
        what = "has left nothing at home yet" if record is None else "has nothing at home any more: it was erased"
        raise LocalError("E-NOT-FOUND", f"run {verified.plan.run_id[:8]} {what}")
    return record, np.frombuffer(data, dtype=VECTOR_TYPE).astype(np.float32)


def _released(folder: Path, verified: VerifiedPlan) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a released adapter, of which the plan's manifest gives keys and shapes."""
    try:
        found = load_tensors((folder / ADAPTER_FILE).read_bytes())
    except FileNotFoundError:
        raise LocalError("E-NOT-FOUND", f"{folder} has no {ADAPTER_FILE}; ask the operator for it") from None
    except SafetensorError:
        raise LocalError("E-PLAN-RULE", f"{folder / ADAPTER_FILE} is no safetensors file") from None
    shared = [tensor for tensor in verified.plan.recipe.adapter.tensors if tensor.stream != "personal"]
    for tensor in shared:
        value = found.get(tensor.key)
        if value is None or value.shape != tensor.shape or value.dtype != np.float32:
            raise LocalError("E-PLAN-RULE", f"{folder.name} lacks {tensor.key} of shape {tensor.shape}: another run's?")
    return found


def _config(released: Path, method: Method, verified: VerifiedPlan) -> str:
    try:
        values = json.loads((released / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise LocalError("E-NOT-FOUND", f"{released} has no {CONFIG_FILE} that parses") from None
    return json.dumps({**values, **method.mine_options(verified.plan.recipe.adapter)}, indent=2, sort_keys=True) + "\n"


def _card(method: Method, verified: VerifiedPlan, number: int, file: str) -> str:
    plan = verified.plan
    loading = (
        f"`{file}` has both LoRAs and the mixer; PEFT's format has no place for a mixer. A layer adds w0 B' A' x + "
        "w1 B A x to its output, where B' and A' are yours (`home` in their keys), B and A are shared, and w is the "
        "softmax of the mixer's answer to x."
        if file == OWN_FILE
        else "`PeftModel.from_pretrained` loads this folder on the base model."
    )
    return f"""\
# {plan.recipe.title}: your own adapter

- run `{plan.run_id}`, method `{plan.recipe.adapter.method}`, your part as round {number} left it
- base model: `{plan.recipe.base.name}`

{loading}

## Privacy

This adapter is made from your data and for you. The privacy that the run claims is about what was sent; your own part
was never sent, and {_noise(method, plan.privacy.mode)} Treat this folder like the data.
"""


def _noise(method: Method, mode: str) -> str:
    if mode == "local" and method.home in {"part", "mixed"}:
        return "it comes of steps that carry the run's noise."
    return "it has no noise of its own."
