"""``onlysum demo``: five participants fine-tune together on this machine, and one of them is killed in the middle.

Guarantees: everything happens through the commands that operators, data owners and auditors use, in processes of their
own; what is printed comes from signed or recorded figures; every process is ended, whatever happens.
Leaves to others: files (``simulation.stage``), enrolment (``simulation.federation``), figures (``simulation.outcome``).
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from privacy.errors import OnlysumError
from simulation.beside import Beside
from simulation.dropout import Monitor
from simulation.federation import Federation
from simulation.outcome import Summary, change_one_byte, show, write_held_out
from simulation.picture import lines, panels, write_svg
from simulation.processes import ONE_THREAD, Processes
from simulation.screen import Screen
from simulation.stage import PARTICIPANTS, Stage, digits_cast, write_data, write_recipe
from simulation.witness import Witness

WATCHED: Final = PARTICIPANTS[0]  # whose upload is shown
BASE_NOTES: Final = 2  # lines about the base's training
SEED: Final = 1  # of the split and the base; keys, masks, batches and noise come from the operating system
VERIFICATION_FAILED: Final = 6  # exit code of ``audit verify`` for a report that was changed

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class Privacy(StrEnum):
    """The modes that the demo runs."""

    LOCAL = "local"
    DISTRIBUTED = "distributed"
    NONE = "none"


_SHARED: Final = Privacy.DISTRIBUTED


@app.command()
def demo(
    privacy: Annotated[Privacy, typer.Option("--privacy", help="Who adds how much noise.")] = Privacy.DISTRIBUTED,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where the results go.")] = Path("demo-out"),
    suite: Annotated[int, typer.Option("--suite", min=1, max=2, help="2 adds ML-KEM-768 to X25519.")] = 1,
    prepare: Annotated[bool, typer.Option("--prepare", help="Write base, data and recipe, and stop.")] = False,
) -> None:
    """Fine-tune among five participants on this machine, kill one, go on.

    Example: onlysum demo --privacy distributed --out demo-out
    """
    os.environ.update(ONE_THREAD)  # before torch is imported
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries, about themselves
    stage, screen = Stage(out.resolve()), Screen()
    stage.clear()
    with _terminated_as_interrupted(), Processes(stage.logs) as processes:
        story = Story(stage, screen, processes, privacy, suite)
        try:
            story.prepare() if prepare else story.tell()
        except OnlysumError:
            screen.show_logs(stage.logs)
            raise


class Story:
    """The demo from its first line to its last."""

    def __init__(self, stage: Stage, screen: Screen, processes: Processes, privacy: Privacy, suite: int) -> None:
        self._stage = stage
        self._screen = screen
        self._processes = processes
        self._privacy = privacy
        self._federation = Federation(stage, processes, digits_cast(privacy.value), screen.note)
        self._suite = suite

    def prepare(self) -> None:
        """Write what a federation needs before it starts."""
        with self._screen.step("Split the digits and train the base model on the public ones"):
            self._make_base()
        self._screen.say(f"Wrote base, data and recipe below {self._stage.out}")

    def tell(self) -> None:
        """Run everything and show what came out."""
        screen, federation = self._screen, self._federation
        self._introduce()
        with screen.step("Train the base; start a coordinator; invite and enrol five participants and an evaluator"):
            self._processes.together(federation.create_coordinator, self._make_base)
        with screen.step("Each participant adds its data and writes its policy; the daemons start"):
            federation.equip()
        with screen.step("Build the plan, sign it, and have every owner's policy approve it"):
            federation.build()
            run = federation.propose()
        witness = Witness(self._stage.coordinator, run, WATCHED)
        with witness.looking():
            monitor, beside = self._watch(run)
        self._show_masks(witness, monitor)
        self._conclude(run, monitor.dropouts, beside)

    def _introduce(self) -> None:
        self._screen.say(
            "Five participants fine-tune a small vision transformer on scanned digits, each on images of its own.\n"
            "The base model has seen 104 images by one writer, and never an 8 or a 9. 334 images are held out:\n"
            "nobody trains on them. Every process is real; all of them talk over TLS on this machine's loopback.\n"
        )

    def _make_base(self) -> None:
        from simulation import base

        parts = write_data(self._stage, SEED)
        base.save(base.train(parts.public, SEED, progress=self._base_progress), self._stage.base)
        write_held_out(self._stage.held_out, parts.held_out)
        write_recipe(self._stage, self._privacy.value, self._suite)

    def _base_progress(self, done: int, steps: int) -> None:
        if done % (steps // BASE_NOTES) == 0:
            self._screen.note(f"the base has trained {done} of {steps} steps on public images")

    def _watch(self, run: str) -> tuple[Monitor, Beside | None]:
        """Follow the run to its end; return what was noted of it, and what trained beside it.

        Local noise begins after the first round: before, each daemon rehearses how long its training takes.
        """
        beside = None
        with self._screen.rounds(self._federation.rounds) as rounds:
            monitor = Monitor(self._federation, rounds)
            for happened in self._federation.events(run):
                monitor.take(happened)
                if beside is None and monitor.gone and self._privacy is _SHARED:
                    beside = Beside.start(self._processes, stage=self._stage, seed=SEED)
        return monitor, beside

    def _show_masks(self, witness: Witness, monitor: Monitor) -> None:
        """Show what came from one participant beside the sum of its round, on the screen and as a file."""
        seen = witness.seen
        gone = monitor.gone.get(seen.round) if seen is not None else None
        if seen is None or gone is None or WATCHED in gone:
            self._screen.say(f"(no upload of {WATCHED} was caught on the coordinator's disk: there is no picture)")
            return
        survivors = tuple(name for name in PARTICIPANTS if name not in gone)
        halves = panels(
            seen.masked,
            seen.total,
            member=WATCHED,
            bits=seen.plan.encoding.bits,
            survivors=len(survivors),
            noised=seen.plan.privacy.noised,
        )
        write_svg(self._stage.picture, halves, title=f"What the coordinator had in round {seen.round}")
        self._screen.say(f"\nWhat the coordinator had in round {seen.round}, counted by size, from its own disk:")
        for line in lines(halves, blocks=self._screen.blocks):
            self._screen.say(f"  {line}")
        self._screen.say("")

    def _local_noise(self, beside: Beside) -> float | None:
        """Return the accuracy with local noise; it trained beside the rounds and may need a moment more."""
        with self._screen.step("Measure the same data with local noise, trained beside the rounds in one process"):
            accuracy = beside.accuracy()
        if accuracy is None:
            self._screen.note(f"it {beside.trouble}; `onlysum demo-compare --participants 5` measures it by itself")
        return accuracy

    def _conclude(self, run: str, dropouts: int, beside: Beside | None) -> None:
        from simulation.base import recheck

        stage, screen, federation = self._stage, self._screen, self._federation
        with screen.step("Take out adapter and report; verify the report, and a copy with one byte changed"):
            federation.export(run)
            changed = stage.federation / "changed-report.json"
            offset = change_one_byte(stage.report, changed)
            self._processes.together(
                partial(federation.render, stage.report),
                partial(federation.verify, stage.report),
                partial(federation.verify, changed, accept=VERIFICATION_FAILED),
            )
        screen.say(f"The report verifies. The copy, in which byte {offset} was changed, does not.")
        local = self._local_noise(beside) if beside else None
        before, after = federation.measured(run, "accuracy")
        spent, rechecked = federation.spent(run), recheck(stage.out)
        summary = Summary(
            mode=self._privacy.value,
            accuracy_base=before,
            accuracy_final=after,
            accuracy_local_noise=local,
            epsilon=spent.epsilon,
            delta=spent.delta,
            participants=len(PARTICIPANTS),
            rounds=federation.rounds,
            dropouts=dropouts,
            bytes_sent=federation.bytes_sent(len(PARTICIPANTS) * federation.rounds - dropouts),
            seconds=round(screen.seconds, 1),
        )
        summary.write(stage.summary)
        screen.say("")
        show(screen.console, summary, rechecked=rechecked)
        screen.say(f"\n{stage.out}: adapter/ base/ heldout/ masks.svg report.html report.json summary.json logs/")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that every process is ended in either case."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
