"""Write the generated parts of ``docs/protocol.md``: the phase diagram from the transition tables, the worked example.

Usage: ``python -m docs.build_protocol [--check]``. With ``--check`` nothing is written; the exit status is 1 if the
text is not what this script makes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from inspect import getdoc
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coordinator.protocol import transitions as coordinator_table
from coordinator.protocol.round import CoordinatorRound
from docs import generated_parts
from participant.protocol.states import Idle, Masked, State
from participant.protocol.step import Message
from participant.protocol.transitions import TRANSITIONS, Told
from privacy.errors import Phase
from privacy.secagg.messages import Advertisement, MaskedUpload, ShareBundle
from tests.worlds.federation import Federation

TEXT = Path(__file__).with_name("protocol.md")
EXAMPLE_SEED = 12


def diagram() -> Iterator[str]:
    """Yield a Mermaid state diagram of both transition tables."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield "    state Coordinator {"
    for phase, following in coordinator_table.TRANSITIONS.items():
        yield f"        C_{phase.name}: {phase.name}\\n{coordinator_table.COLLECTS[phase]}"
        for later in following:
            yield f"        C_{phase.name} --> C_{later.name}"
    yield "    }"
    yield "    state Participant {"
    for state in _states():
        yield f"        P_{state.__name__}: {state.__name__}\\n{_caption(state)}"
    everywhere = dict(_everywhere())
    for (state, told), following_states in TRANSITIONS.items():
        for after in following_states:
            if told not in everywhere or (state is Idle and after is not Idle):
                yield f"        P_{state.__name__} --> P_{after.__name__}: {told.__name__}"
    yield "    }"
    yield "```"
    yield ""
    yield "Not drawn, as they may come in every state of an attempt:"
    yield ""
    for told, after in everywhere.items():
        refused = [state.__name__ for state in _states() if TRANSITIONS.get((state, told)) == ()]
        yield f"- `{told.__name__}` leads to {after.__name__}" + (
            f"; {_listed(refused)} refuses it." if refused else "."
        )


def _everywhere() -> Iterator[tuple[type[Told], type[State]]]:
    """Yield what leads to one and the same state from all states but, perhaps, the idle one."""
    in_attempt = [state for state in _states() if state is not Idle]
    for told in dict.fromkeys(told for _, told in TRANSITIONS):
        rows = [TRANSITIONS.get((state, told)) for state in in_attempt]
        following = {row for row in rows if row != ()}
        if None not in following and len(following) == 1:
            ((after,),) = (row for row in following if row)
            yield told, after


def _listed(names: list[str]) -> str:
    return " or ".join(names)


def _states() -> Iterator[type[State]]:
    """Yield the states of a participant in the order in which the table first has them."""
    yield from dict.fromkeys(state for state, _ in TRANSITIONS)


def _caption(state: type[State]) -> str:
    text = getdoc(state)
    assert text is not None
    first = text.splitlines()[0].removesuffix(".")
    return first[0].lower() + first[1:]


class Example:
    """A round of three, driven step by step."""

    def __init__(self) -> None:
        self.federation = Federation(3, 0, seed=EXAMPLE_SEED)
        self.attempt = CoordinatorRound(self.federation.plan, self.federation.offer(1, 1))
        self.participants = sorted(self.federation.participants.items())
        for number, (_, participant) in enumerate(self.participants, start=1):
            participant.train = _training(self.federation.plan.plan.recipe.entries, number)

    def answers(self) -> Iterator[tuple[str, Message]]:
        """Yield everybody's answer in this phase, once the coordinator has it; then close the phase."""
        for name, participant in self.participants:
            (answer,) = participant.hear(self.attempt.outbox(name))
            self.attempt.receive(answer)
            yield name, answer
        self.attempt.close()

    def lines(self) -> Iterator[str]:
        """Yield what is drawn and said, in hexadecimal."""
        offer = self.attempt.offer
        yield "```text"
        yield f"plan hash            {self.federation.plan.hash.hex()}"
        yield f"transcript_0         {offer.previous_transcript.hex()}"
        yield f"adapter hash         {offer.adapter_hash.hex()}"
        yield f"adv_ctx              {offer.context.hex()}"
        while self.attempt.phase is not Phase.RESULT:
            for name, answer in self.answers():
                yield from self._answer(name, answer)
        certificate = self.attempt.result.certificate
        yield f"sum                  {self.attempt.result.total().tolist()}"
        yield f"H(sum)               {certificate.sum_hash.hex()}"
        yield f"transcript_1         {certificate.transcript(offer.previous_transcript).hex()}"
        yield "```"

    def _answer(self, name: str, answer: Message) -> Iterator[str]:
        match answer:
            case Advertisement():
                yield f"{name:<6} masking key   {answer.masking_key.hex()}"
                yield f"{name:<6} channel key   {answer.channel_key.hex()}"
                yield f"{name:<6} signature     {answer.signature.hex()[:64]}..."
            case ShareBundle():
                yield f"{name:<6} share root    {answer.root.hex()}"
            case MaskedUpload(receipt, masked):
                state = self.federation.participants[name].state
                assert isinstance(state, Masked)
                number = [each for each, _ in self.participants].index(name) + 1
                if number == 1:
                    yield f"round_ctx            {state.record.round_ctx.hex()}"
                    yield f"H(U2)                {receipt.u2_hash.hex()}"
                yield f"{name:<6} update        {number} in each entry"
                yield f"{name:<6} masked        {masked.hex()}"


def _training(entries: int, value: int) -> Callable[[int], NDArray[np.int64]]:
    return lambda _: np.full(entries, value, dtype=np.int64)


def rebuilt(text: str) -> str:
    """Return the text with its generated parts made anew."""
    parts = {"diagram": diagram(), "example": Example().lines()}
    return generated_parts.rebuilt(text, parts, "build_protocol.py")


def main() -> int:
    """Write the file, or with ``--check`` return whether it is current."""
    return generated_parts.write_or_check(TEXT, rebuilt(TEXT.read_text()))


if __name__ == "__main__":
    sys.exit(main())
