"""Puts a daemon together from a participant's directory.

Guarantees: torch is imported only when a run is prepared or an adapter measured; the directory's permissions and the
names in configuration, certificate and ledger are compared before anything is dialled.
Leaves to others: the work (``runner``), the command (``cli``).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from participant.approval import Desk, Owner
from participant.channel import Channel
from participant.config import Settings, load_settings
from participant.courier import Courier, Inbox
from participant.evaluator import Measure, Measured
from participant.home import Home
from participant.identity import Identity, load_identity
from participant.keystream import KeyBook
from participant.ledger import Ledger
from participant.pace import Pace
from participant.plans import PlanShelf
from participant.policy import load_policy
from participant.progress import silent
from participant.runner import Runner
from participant.trainer import Trainer
from participant.workplace import Assignment, ShowProgress, Workplace
from privacy.errors import LocalError
from privacy.secagg import masks
from protos.system import SystemClock, SystemRandom


@dataclass(frozen=True, slots=True)
class Opened:
    """A participant's directory, checked and read; what commands and the daemon start from."""

    home: Home
    settings: Settings
    identity: Identity
    owner: Owner
    ledger: Ledger
    desk: Desk


def open_home(directory: Path) -> Opened:
    """Check and read a participant's directory.

    Raises:
        LocalError: ``E-CONFIG-*`` or ``E-PERMISSIONS``.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    home = Home(directory)
    home.check()
    settings, identity = load_settings(home), load_identity(home.identity)
    if settings.name != identity.name:
        detail = f"participant.toml says {settings.name}, the certificate {identity.name}"
        raise LocalError("E-CONFIG-INVALID", detail)
    authority = hashlib.sha256(identity.authority_der).hexdigest()
    owner = Owner(identity.name, identity.federation, identity.signing, authority)
    ledger = Ledger.open(settings.ledger_path(home), key=owner.identity)
    shelf = PlanShelf(home, identity.operator_key)
    return Opened(home, settings, identity, owner, ledger, Desk(home, owner, shelf, ledger, SystemClock()))


def assemble(
    directory: Path,
    stop: threading.Event,
    *,
    make_trainer: Callable[[Assignment], Trainer] | None = None,
    measure: Measure | None = None,
    show_progress: ShowProgress = silent,
) -> Runner:
    """Return a daemon that works until ``stop`` is set.

    Args:
        directory: the participant's directory.
        stop: set it to end the daemon.
        make_trainer: makes the trainer of a run; the torch trainer by default.
        measure: measures an adapter at an evaluator; in torch by default.
        show_progress: makes the callback that shows a round's training.
    """
    opened = open_home(directory)
    load_policy(opened.home)  # a policy that does not parse is refused at the start, not in a round
    masks.choose(SystemClock())  # and so is a library whose key streams are wrong
    link, inbox = Channel(opened.identity, proxy=opened.settings.proxy), Inbox()
    work = Workplace(
        home=opened.home,
        settings=opened.settings,
        owner=opened.owner,
        desk=opened.desk,
        ledger=opened.ledger,
        courier=Courier(link, stop, inbox),
        clock=SystemClock(),
        random=SystemRandom(),
        make_trainer=make_trainer
        or partial(
            torch_trainer,
            keys=KeyBook(opened.home.noise_keys, SystemRandom()),
            pace=Pace(SystemClock().monotonic, stop.wait),
        ),
        show_progress=show_progress,
    )
    return Runner(work, opened.identity.role, link=link, inbox=inbox, stop=stop, measure=measure or TorchMeasure())


def torch_trainer(
    assignment: Assignment, *, keys: KeyBook | None = None, pace: Pace | None = None, strict: bool = False
) -> Trainer:
    """Return the torch trainer of a run.

    Args:
        assignment: what is trained with what.
        keys: opens each round's stream of coins and noise; not needed where nothing is trained.
        pace: hides how long a round's training takes; likewise.
        strict: refuse rows that the plan cannot use, for the owner's own eyes.

    Raises:
        LocalError: ``E-EXTRA-MISSING``.
    """
    require_torch()
    from participant.data import task_columns
    from participant.training import Materials, TorchTrainer

    dataset, plan = assignment.dataset, assignment.verified.plan
    materials = Materials(
        plan=plan,
        me=assignment.me,
        model=Path(assignment.model.path),
        dataset=Path(dataset.path),
        columns=task_columns(
            plan.recipe.task,
            input_column=dataset.input_column,
            label_column=dataset.label_column,
            user_column=dataset.user_column,
        ),
        initial_adapter=assignment.initial_adapter,
        device=assignment.device,
        threads=assignment.threads,
        engine=assignment.engine,
        precision=assignment.precision,
        strict=strict,
    )
    return TorchTrainer(materials, SystemRandom(), keys, pace)


class TorchMeasure:
    """Measures adapters; model and data of a run are loaded once."""

    def __init__(self) -> None:
        self._loaded: dict[bytes, Callable[[NDArray[np.float32]], Measured]] = {}

    def __call__(self, assignment: Assignment, adapter: NDArray[np.float32]) -> Measured:
        """Return the counts; errors as ``participant.evaluation`` has them."""
        key = assignment.verified.hash
        if key not in self._loaded:
            self._loaded = {key: _load_measure(assignment)}
        return self._loaded[key](adapter)


def _load_measure(assignment: Assignment) -> Callable[[NDArray[np.float32]], Measured]:
    require_torch()
    from participant.data import task_columns
    from participant.evaluation import AdapterEvaluator

    dataset, recipe = assignment.dataset, assignment.verified.plan.recipe
    evaluator = AdapterEvaluator.load(
        recipe,
        model=Path(assignment.model.path),
        dataset=Path(dataset.path),
        columns=task_columns(recipe.task, input_column=dataset.input_column, label_column=dataset.label_column),
        initial_adapter=assignment.initial_adapter,
        device=assignment.device,
        threads=assignment.threads,
    )

    def measured(adapter: NDArray[np.float32]) -> Measured:
        result = evaluator.measure(adapter)
        return Measured(result.correct, result.examples, result.data_sha256)

    return measured


def require_torch() -> None:
    """Raise ``E-EXTRA-MISSING`` where the participant extra is not installed."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise LocalError("E-EXTRA-MISSING", "training needs torch: pip install 'onlysum[participant]'")
