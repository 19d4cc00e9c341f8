"""Puts a daemon together from a participant's directory.

Guarantees: torch is imported only when a run is prepared or an adapter measured; the directory is checked before
anything is dialled.
Leaves to others: the directory (``participant.opened``), the work (``runner``), the process (``process``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from host.system import SystemClock, SystemRandom
from participant.daemon.runner import Runner
from participant.link.channel import Channel
from participant.link.delivery import Sender, TaskQueue
from participant.link.identity import Identity
from participant.link.upkeep import Upkeep
from participant.opened import open_home
from participant.owner.policy import load_policy
from participant.runs.context import DaemonContext, ShowProgress, TrainingJob
from participant.runs.evaluator import Measure, Measured
from participant.training.noise_keys import NoiseKeys
from participant.training.progress import silent
from participant.training.record import RunRecord
from participant.training.timing import FixedDuration
from participant.training.trainer import Trainer
from privacy.errors import LocalError
from privacy.secagg import masks
from protos.envelope import Hello, Welcome
from protos.transport import SESSION_BYTES

if TYPE_CHECKING:
    from methods.method import Fusion
    from participant.training.torch_trainer import TorchTrainer


def assemble(
    directory: Path,
    stop: threading.Event,
    *,
    make_trainer: Callable[[TrainingJob], Trainer] | None = None,
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
    session = SystemRandom().token_bytes(SESSION_BYTES)
    link, queue = Channel(opened.identity, proxy=opened.settings.proxy, session=session), TaskQueue()
    work = DaemonContext(
        home=opened.home,
        settings=opened.settings,
        owner=opened.owner,
        review=opened.review,
        ledger=opened.ledger,
        sender=Sender(link, stop, queue),
        clock=SystemClock(),
        random=SystemRandom(),
        make_trainer=make_trainer
        or partial(
            torch_trainer,
            keys=NoiseKeys(opened.home.noise_keys, SystemRandom()),
            pace=FixedDuration(SystemClock().monotonic, stop.wait),
            runs=opened.home.runs,
        ),
        show_progress=show_progress,
    )
    role, settings = opened.identity.role, opened.settings

    def greet(identity: Identity, hello: Hello) -> Welcome:
        with Channel(identity, proxy=settings.proxy, session=session) as trial:
            return trial.handshake(hello)

    upkeep = Upkeep(
        opened.home.identity,
        opened.identity,
        link,
        greet=greet,
        clock=SystemClock(),
        random=SystemRandom(),
        changed=lambda identity: opened.review.has_authority(identity.authority_sha256, identity.followed),
    )
    return Runner(work, role, link=link, queue=queue, stop=stop, measure=measure or TorchMeasure(), upkeep=upkeep)


def torch_trainer(
    job: TrainingJob,
    *,
    keys: NoiseKeys | None = None,
    pace: FixedDuration | None = None,
    runs: Path | None = None,
    strict: bool = False,
) -> TorchTrainer:
    """Return the torch trainer of a run.

    Args:
        job: what is trained with what.
        keys: opens each round's stream of coins and noise; not needed where nothing is trained.
        pace: hides how long a round's training takes; likewise.
        runs: where unusable rows and failures of training are written down, in the run's directory; None: nowhere.
        strict: refuse rows that the plan cannot use, for the owner's own eyes.

    Raises:
        LocalError: ``E-EXTRA-MISSING``.
    """
    require_torch()
    from participant.training.data import task_columns
    from participant.training.measuring.trainer import MeasuringTrainer
    from participant.training.torch_trainer import Materials, TorchTrainer

    dataset, plan = job.dataset, job.verified.plan
    materials = Materials(
        plan=plan,
        me=job.me,
        model=Path(job.model.path),
        dataset=Path(dataset.path),
        columns=task_columns(
            plan.recipe.task,
            input_column=dataset.input_column,
            label_column=dataset.label_column,
            user_column=dataset.user_column,
            renamed=dataset.renamed,
        ),
        initial_adapter=job.initial_adapter,
        device=job.device,
        threads=job.threads,
        engine=job.engine,
        precision=job.precision,
        memory=job.memory,
        sha256="" if strict else dataset.sha256,  # `dry-run` compares by itself, and says so
        strict=strict,
    )
    record = None if runs is None else RunRecord(runs / plan.run_id)
    kind = TorchTrainer if plan.recipe.measured is None else MeasuringTrainer
    return kind(materials, SystemRandom(), keys, pace, record)


def choose_fusion(job: TrainingJob, adapter: NDArray[np.float32], kept: NDArray[np.float32]) -> Fusion:
    """Return how much of a released adapter and of its own an owner's rows want; nothing of it leaves.

    Args:
        job: what was trained with what.
        adapter: the released state.
        kept: what stays at home.

    Raises:
        LocalError: ``E-EXTRA-MISSING``, ``E-MODEL-*``, ``E-DATA-*`` or ``E-SELF-CHECK``.
    """
    trainer = torch_trainer(job)
    trainer.prepare()
    trainer.kept = kept
    return trainer.best_fusion(adapter)


class TorchMeasure:
    """Measures adapters; model and data of a run are loaded once."""

    def __init__(self) -> None:
        self._loaded: dict[bytes, Callable[[NDArray[np.float32]], Measured]] = {}

    def __call__(self, job: TrainingJob, adapter: NDArray[np.float32]) -> Measured:
        """Return the counts; errors as ``participant.training.evaluation`` has them."""
        key = job.verified.hash
        if key not in self._loaded:
            self._loaded = {key: _load_measure(job)}
        return self._loaded[key](adapter)


def _load_measure(job: TrainingJob) -> Callable[[NDArray[np.float32]], Measured]:
    require_torch()
    from participant.training.data import task_columns
    from participant.training.evaluation import AdapterEvaluator

    dataset, recipe = job.dataset, job.verified.plan.recipe
    evaluator = AdapterEvaluator.load(
        recipe,
        model=Path(job.model.path),
        dataset=Path(dataset.path),
        columns=task_columns(
            recipe.task,
            input_column=dataset.input_column,
            label_column=dataset.label_column,
            renamed=dataset.renamed,
        ),
        initial_adapter=job.initial_adapter,
        device=job.device,
        threads=job.threads,
        weights=job.memory.weights,
    )

    def measured(adapter: NDArray[np.float32]) -> Measured:
        result = evaluator.measure(adapter)
        return Measured(result.examples, result.metrics, result.data_sha256)

    return measured


def require_torch() -> None:
    """Raise ``E-EXTRA-MISSING`` where the participant extra is not installed."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise LocalError("E-EXTRA-MISSING", "training needs torch: pip install 'onlysum[participant]'")
