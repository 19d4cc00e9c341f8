"""Three owners fine-tune a small language model on their own conversations, on this machine: ``make demo-text``.

The base has read the town's paper and its public page, where every desk answers alike. The library, the clinic and the
garden each have conversations with people of their own, in which they answer otherwise. The model learns how, and no
person's conversations show in it beyond the stated epsilon: the unit of privacy is a person, not a row.

Guarantees: everything happens through the commands that operators and owners use, in processes of their own; what is
printed is signed by the evaluator or from an owner's ledger; the text is written by transformers and PEFT alone.
Leaves to others: processes (``simulation``), the base (``examples.chat.base``), the words (``examples.town``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from examples.town import DESKS, Town, write_rows
from privacy.dp.events import format_epsilon_up
from privacy.errors import LocalError, OnlysumError
from simulation.federation import Federation
from simulation.processes import ONE_THREAD, Processes
from simulation.screen import Screen
from simulation.stage import EVALUATOR, Cast, Stage

RECIPE: Final = Path(__file__).parent / "recipe.toml"
PEOPLE: Final = 1500  # of each desk: the more there are, the less noise hides one of them
CHATS_EACH: Final = 2  # as the recipe's max_rows_per_user
HELD_OUT: Final = 20  # chats of each desk with nobody who takes part
SEED: Final = 100
POPULATION: Final = "townspeople"
SHOWN: Final = ("perplexity", "accuracy", "exact-match", "rouge-l")
WRITTEN: Final = 40  # tokens of an answer

POLICY: Final = """\
[approval]
mode = "by-policy"

[coordinator]
ca_fingerprint = "{authority}"

[coordinator.roster]
{roster}

[floors]
f = 1
min_survivors = 3

[population.{population}]
unit = "user"
lifetime_epsilon = 20
lifetime_delta = 1e-5
per_run_epsilon = 8
per_run_delta = 1e-5

[dataset.chats]
population = "{population}"
modes = ["distributed"]
bases = ["{base}"]
methods = ["ffa-lora"]
min_units = {people}
max_rounds = 100
"""


def policy(base: str, authority: str, roster: Mapping[str, str]) -> str:
    """Return an owner's policy.toml that lets exactly this plan through; arguments as of ``Cast.policy``."""
    pinned = "\n".join(f'{name} = "{fingerprint}"' for name, fingerprint in sorted(roster.items()))
    return POLICY.format(authority=authority, roster=pinned, population=POPULATION, base=base, people=PEOPLE)


CAST: Final = Cast(
    participants=DESKS,
    dataset="chats",
    held_out="public",
    base="town-writer",
    population=POPULATION,
    owner_options=("--user", "person"),
    evaluator_options=(),
    policy=policy,
)


class Story:
    """The demo from its first line to its last.

    Args:
        stage: where everything lies.
        screen: shows it.
        processes: that run it.
        own: a public text that the base reads as well.
    """

    def __init__(self, stage: Stage, screen: Screen, processes: Processes, own: Path | None) -> None:
        self._stage, self._screen, self._processes, self._own = stage, screen, processes, own
        self._federation = Federation(stage, processes, CAST, screen.note)

    def tell(self) -> None:
        """Run everything and show what came out."""
        screen, federation = self._screen, self._federation
        screen.say(
            "A library, a clinic and a garden fine-tune a small Llama on conversations with people of their own.\n"
            "The base has read public text alone. Every process is real; all talk over TLS on this machine.\n"
        )
        with screen.step("Train the base on public text; start a coordinator; invite and enrol three owners"):
            self._processes.together(federation.create_coordinator, self._prepare)
        with screen.step("Each owner adds its conversations and writes its policy; the daemons start"):
            federation.equip()
        with screen.step("Build the plan, sign it, and have every owner's policy approve it"):
            federation.build()
            run = federation.propose()
        self._watch(run)
        with screen.step("Take out adapter and report, and verify the report"):
            federation.export(run)
            federation.verify(self._stage.report)
        self._conclude(run)

    def _prepare(self) -> None:
        from examples.chat import base

        for member in (*DESKS, EVALUATOR):
            self._stage.data(member).parent.mkdir(exist_ok=True)
        for place, desk in enumerate(DESKS):
            town = Town(SEED + place)
            rows = [
                {"person": f"{desk}-{number}", "messages": town.private_chat(desk)}
                for number in range(PEOPLE)
                for _ in range(CHATS_EACH)
            ]
            write_rows(self._stage.data(desk), rows)
        write_rows(self._stage.data(EVALUATOR), held_out())
        self._stage.recipe.write_bytes(RECIPE.read_bytes())
        base.build(self._stage.base, self._own, self._base_progress)

    def _base_progress(self, done: int, steps: int) -> None:
        if done % (steps // 2) == 0:
            self._screen.note(f"the base has trained {done} of {steps} steps on public text")

    def _watch(self, run: str) -> None:
        """Follow the run to its end.

        Raises:
            LocalError: ``E-DEMO``, it does not complete.
        """
        with self._screen.rounds(self._federation.rounds) as rounds:
            for happened in self._federation.events(run):
                match happened:
                    case {"event": "evaluation", "round": number, "metrics": metrics}:
                        rounds.say(
                            f"the evaluator measured perplexity {metrics['perplexity']:.2f} after round {number}"
                        )
                    case {"event": "round", "round": number, "survivors": survivors}:
                        shown = f"round {number}: the sum of {survivors}" if number % 5 == 0 else ""
                        rounds.completed(number, shown)
                    case {"event": "plan", "member": member, "approved": False}:
                        raise LocalError("E-DEMO", f"{member} refused the plan")
                    case {"event": "run", "state": "aborted" | "refused" as state, "code": code, "reason": reason}:
                        raise LocalError("E-DEMO", f"the run was {state}: {code} {reason}")

    def _conclude(self, run: str) -> None:
        stage, screen, federation = self._stage, self._screen, self._federation
        spent = federation.spent(run)
        figures = {name: federation.measured(run, name) for name in SHOWN}
        answers = written(stage)
        summary: dict[str, Any] = {
            **{
                f"{name}_{when}": pair[at]
                for name, pair in figures.items()
                for at, when in enumerate(("before", "after"))
            },
            "epsilon": spent.epsilon,
            "delta": spent.delta,
            "unit": "user",
            "rounds": federation.rounds,
            "seconds": round(screen.seconds, 1),
            "written": answers,
        }
        stage.summary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        screen.say("\nWhat came out, on conversations that nobody trained on; the evaluator signed both columns")
        screen.say(f"  {'':<14}{'base':>10}{'adapter':>10}")
        for name, (before, after) in figures.items():
            screen.say(f"  {name:<14}{before:>10.3f}{after:>10.3f}")
        if spent.epsilon is not None:
            words = "per person, the largest that any owner was charged; smaller is more private"
            screen.say(f"  {'epsilon':<14}{'':>10}{format_epsilon_up(spent.epsilon):>10}  {words}")
            screen.say(f"  {'delta':<14}{'':>10}{spent.delta:>10g}  the chance that is not covered by epsilon")
        for answer in answers:
            screen.say(f"\n  person   {answer['message']}\n  base     {answer['base']}\n  adapter  {answer['adapter']}")
        screen.say(f"\n{stage.out}: adapter/ base/ report.json summary.json logs/   {screen.seconds:.0f} s")


def held_out() -> list[dict[str, Any]]:
    """Return conversations with people who take no part."""
    towns = [(desk, Town(SEED + 50 + place)) for place, desk in enumerate(DESKS)]
    return [{"messages": town.private_chat(desk)} for desk, town in towns for _ in range(HELD_OUT)]


def written(stage: Stage) -> list[dict[str, str]]:
    """Return what base and adapter answer to a person at each desk, by transformers and PEFT alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    tokenizer: Any = AutoTokenizer.from_pretrained(stage.base)
    bare: Any = AutoModelForCausalLM.from_pretrained(stage.base)
    adapted: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(stage.base), str(stage.adapter))

    def answer(model: Any, message: str) -> str:
        chat = [{"role": "user", "content": message}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            whole = model.eval().generate(**inputs, max_new_tokens=WRITTEN, do_sample=False)
        return str(tokenizer.decode(whole[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    messages = [row["messages"][0]["content"] for row in held_out()[::HELD_OUT]]
    return [{"message": text, "base": answer(bare, text), "adapter": answer(adapted, text)} for text in messages]


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m examples.chat.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-text-out"), help="where the results go")
    parser.add_argument("--data", type=Path, help="a public text file that the base reads as well")
    given = parser.parse_args()
    os.environ.update(ONE_THREAD)  # before torch is imported
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries, about themselves
    stage, screen = Stage(given.out.resolve(), rows="chats.jsonl"), Screen()
    try:
        stage.clear()
        with Processes(stage.logs) as processes:
            try:
                Story(stage, screen, processes, given.data).tell()
            except OnlysumError:
                screen.show_logs(stage.logs)
                raise
    except OnlysumError as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
