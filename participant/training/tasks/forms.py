"""From a row to one sequence of tokens, and which of them a language model is asked for.

Guarantees: one row is one example, never packed with another; a prompt, a question and a template's own words are read
and not asked for; a row with nothing to ask for is refused, saying what to change.
Leaves to others: padding and losses (``language``).
Source: chat templates of transformers, https://huggingface.co/docs/transformers/chat_templating.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from participant.training.rows.cells import composed
from participant.training.tasks.texts import text_of
from participant.training.tasks.work import TOKENS, refused_row
from privacy.task_parts import CausalLanguageModelling

ANSWERER: Final = "assistant"  # whose turns are asked for, as chat templates name it
MOST_TURNS: Final = 1000  # of a chat

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sequence:
    """A row's tokens.

    Attributes:
        ids: at most as many as the plan allows.
        asked: of each token, whether it is asked for; the first never is, as nothing stands before it.
        cut: whether it was longer.
    """

    ids: tuple[int, ...]
    asked: tuple[bool, ...]
    cut: bool = False

    def shortened(self, longest: int) -> Sequence:
        """Return its beginning."""
        return Sequence(self.ids[:longest], self.asked[:longest], len(self.ids) > longest)

    @property
    def answers(self) -> bool:
        """Whether any of its tokens is asked for."""
        return any(self.asked[1:])

    @property
    def prompt(self) -> tuple[int, ...]:
        """What stands before the first token that is asked for."""
        return self.ids[: self.asked.index(True)] if True in self.asked else self.ids


class Forms:
    """Reads the rows of a task.

    Args:
        task: of the plan.
        tokenizer: of the base.
    """

    def __init__(self, task: CausalLanguageModelling, tokenizer: Any) -> None:
        self._task, self._tokenizer = task, tokenizer
        readers: dict[str, Callable[[Any, Any, str], Sequence]] = {
            "text": self._text, "completion": self._completion, "chat": self._chat
        }  # fmt: skip
        self._read = readers[task.form]

    def sequence(self, value: Any, completion: Any, where: str) -> Sequence:
        """Return a row's tokens.

        Args:
            value: a text, a prompt, or messages.
            completion: of a prompt.
            where: names the row in a refusal.

        Raises:
            LocalError: ``E-DATA-MISMATCH``.
        """
        whole, longest = self._read(value, completion, where), self._task.max_length
        short = whole.shortened(longest)
        if not whole.answers:
            raise refused_row(where, "it is too short: nothing in it can be asked for; leave it out")
        if not short.answers:
            before, what = len(whole.prompt), "question" if self._task.form == "chat" else "prompt"
            detail = f"its {what} alone has {before} tokens of task.max_length {longest}; shorten it or leave it out"
            raise refused_row(where, detail)
        return short

    def _text(self, value: Any, _completion: Any, where: str) -> Sequence:
        text = text_of(value, where)
        if not text.strip():
            raise refused_row(where, "its text is empty; leave it out")
        ids = (*self._ids(text, special=True), *self._end())
        return Sequence(ids, (False, *[True] * (len(ids) - 1)))

    def _completion(self, value: Any, completion: Any, where: str) -> Sequence:
        prompt, answer = text_of(value, where), text_of(completion, where)
        if not prompt.strip() or not answer.strip():
            raise refused_row(where, f"its {'completion' if prompt.strip() else 'prompt'} is empty; leave it out")
        before = self._ids(prompt, special=True)
        after = (*self._ids(answer, special=False), *self._end())
        return Sequence((*before, *after), (*[False] * len(before), *[True] * len(after)))

    def _chat(self, value: Any, _completion: Any, where: str) -> Sequence:
        messages = messages_of(value, where)
        text, spans = self._rendered(messages, where)
        coded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        asked = tuple(
            any(start <= begin < end for start, end in spans) and begin < stop
            for begin, stop in coded["offset_mapping"]
        )
        return Sequence(tuple(coded[TOKENS]), asked)

    def _rendered(self, messages: list[Message], where: str) -> tuple[str, list[tuple[int, int]]]:
        """Return a chat as the template writes it, and from where to where each answer goes, its end mark included."""
        text, spans = self._template(messages, where), []
        for place, message in enumerate(messages):
            if message["role"] == ANSWERER and place:  # what it says first answers nobody
                before = self._template(messages[:place], where, answer_next=True)
                up_to = self._template(messages[: place + 1], where)
                if not (up_to.startswith(before) and text.startswith(up_to.rstrip())):
                    detail = "the base's chat template writes earlier turns otherwise once others follow"
                    raise refused_row(where, f"{detail}; give each answer a row of its own")
                spans.append((len(before), len(up_to)))
        return text, spans

    def _template(self, messages: list[Message], where: str, *, answer_next: bool = False) -> str:
        try:
            found = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_next)
        except Exception as error:  # noqa: BLE001  whatever a template raises; its words may be the chat's
            detail = f"the base's chat template refuses it ({type(error).__name__}): check roles and their order"
            raise refused_row(where, detail) from None
        return str(found)

    def _ids(self, text: str, *, special: bool) -> tuple[int, ...]:
        """Return a text's tokens; of the special ones those at the beginning alone."""
        ids = tuple(self._tokenizer(text, add_special_tokens=special)[TOKENS])
        return ids[: -len(self._end())] if special and self._end() and ids[-len(self._end()) :] == self._end() else ids

    def _end(self) -> tuple[int, ...]:
        """Return the token that ends a text, if there is one: a model learns to stop."""
        end = self._tokenizer.eos_token_id
        return () if end is None else (int(end),)


def messages_of(value: Any, where: str) -> list[Message]:
    """Return a chat's messages: a list of role and content, or the same as JSON.

    Raises:
        LocalError: ``E-DATA-MISMATCH``: it is no such list, nobody answers in it, or a message is empty.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if hasattr(value, "tolist"):  # an array of a columnar file
        value = value.tolist()
    if not isinstance(value, list) or not 0 < len(value) <= MOST_TURNS:
        raise refused_row(where, 'a chat is a list of 1 to 1000 messages {"role": ..., "content": ...}')
    messages = [_message(entry, where) for entry in value]
    if not any(message["role"] == ANSWERER for message in messages[1:]):
        raise refused_row(
            where, f"no message after the first has the role {ANSWERER}: nothing is answered; leave it out"
        )
    return messages


def _message(entry: Any, where: str) -> Message:
    role, content = (entry.get("role"), entry.get("content")) if isinstance(entry, Mapping) else (None, None)
    if not isinstance(role, str) or not isinstance(content, str):
        raise refused_row(where, "a message of its chat has no role or no content in text")
    if not text_of(content, where).strip():
        raise refused_row(where, "a message of its chat is empty; leave it out")
    return {"role": composed(role), "content": content}
