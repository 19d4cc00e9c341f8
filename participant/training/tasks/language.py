"""Language modelling: the next token of a text, of a completion or of a chat's answers; and tokens that were hidden.

An example's loss is the mean over its own tokens that are asked for: a long answer weighs as much as a short one, and
how long others are changes nothing.

Guarantees: padding is never asked for and never read; which tokens are hidden follows from a participant's own coins,
anew in each step.
Leaves to others: what is asked for (``forms``), what a model writes (``generation``).
Source: Devlin et al., NAACL 2019, arXiv:1810.04805; all chosen tokens are hidden, without the 80-10-10 rule: Wettig et
al., EACL 2023, arXiv:2202.08005.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray

from participant.training.tasks.forms import Forms, Sequence
from participant.training.tasks.generation import rouge
from participant.training.tasks.losses import token_losses
from participant.training.tasks.tallies import ClassTally
from participant.training.tasks.texts import mask_of, padded, text_of, tokenised, tokenizer_of
from participant.training.tasks.work import (
    IGNORED,
    TOKEN_MASK,
    TOKENS,
    Inputs,
    Reading,
    TaskWork,
    random_tokens,
    refused_row,
    spread_lengths,
)
from privacy.errors import LocalError
from privacy.task_parts import CausalLanguageModelling, MaskedLanguageModelling

if TYPE_CHECKING:
    from participant.training.examples import Examples
    from participant.training.models import Base
    from privacy.evaluation import Metric
    from privacy.interfaces import RandomSource

NOTHING: Final = Sequence((), ())  # of a row that the plan cannot use
LEAST_LENGTH: Final = 2  # a token, and one that is asked for
COIN_BYTES: Final = 4  # of which the order of a text's tokens is made
PUBLIC_SEED: Final = 20_240_301  # hides the tokens of public and synthetic texts, the same every time


class NextTokens(TaskWork):
    """Causal language modelling."""

    loader: str = "AutoModelForCausalLM"
    pads: ClassVar[bool] = False

    def __init__(self, task: CausalLanguageModelling) -> None:
        self.task = task

    def require_base(self, name: str, base: Base) -> None:
        """Refuse a base without a chat template, where chats are read."""
        if self.task.form == "chat":
            if getattr(base.tokenizer, "chat_template", None) is None:
                detail = "its tokenizer has no chat template; add chat_template.jinja to its folder"
                raise LocalError("E-MODEL-LOAD", f"{name}: {detail}")
            if not getattr(base.tokenizer, "is_fast", False):
                raise LocalError("E-MODEL-LOAD", f"{name}: chats need a fast tokenizer; save its tokenizer.json")

    def read(self, reading: Reading, base: Base) -> tuple[Inputs, torch.Tensor]:
        """Return token ids, their mask, and after each token the one that is asked for; all (count, length)."""
        forms, table, longest = Forms(self.task, tokenizer_of(base)), reading.table, self.task.max_length
        read = reading.rows(
            lambda row, where: forms.sequence(table.inputs[row], table.labels[row], where), otherwise=NOTHING
        )
        reading.cut |= {row for row, sequence in enumerate(read) if sequence.cut}
        ids = [sequence.ids for sequence in read]
        wanted = [
            [token if asked else IGNORED for token, asked in zip(one.ids[1:], one.asked[1:], strict=True)]
            for one in read
        ]
        inputs = {TOKENS: padded(ids, longest, base.pad), TOKEN_MASK: mask_of(ids, longest)}
        return inputs, padded(wanted, longest, IGNORED)

    def synthetic(self, base: Base, random: np.random.Generator, count: int) -> tuple[Inputs, torch.Tensor]:
        """Return texts of all lengths; of completions and answers the second half is asked for."""
        longest = self.task.max_length
        lengths = spread_lengths(longest, LEAST_LENGTH, count)
        inputs = random_tokens(base, random, lengths, longest)
        wanted = torch.full((count, longest), IGNORED)
        for row, length in enumerate(lengths):
            first = 0 if self.task.form == "text" else (length - 1) // 2
            wanted[row, first : length - 1] = inputs[TOKENS][row, first + 1 : length]
        return inputs, wanted

    def shape(self, base: Base) -> tuple[int, ...]:
        """Return one answer for each place and token."""
        return (self.task.max_length, vocabulary(base))

    def losses(self, answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return each example's mean cross-entropy over its own tokens that are asked for."""
        return token_losses(answers, labels)

    def tally(self) -> ClassTally:
        """Return counts of tokens, and of examples of which greedy writing gives every one."""
        return ClassTally(0, perplexity=True, whole=self.task.form != "text")

    def generated(self, model: Any, base: Base, examples: Examples) -> tuple[Metric, ...]:
        """Return ROUGE-L of what the model writes after prompts and questions; a plain text has none."""
        return () if self.task.form == "text" else rouge(model, base, examples)


class HiddenTokens(TaskWork):
    """Masked language modelling."""

    loader: str = "AutoModelForMaskedLM"
    cacheable: ClassVar[bool] = False

    def __init__(self, task: MaskedLanguageModelling) -> None:
        self.task = task

    def require_base(self, name: str, base: Base) -> None:
        """Refuse a tokenizer that has nothing to hide tokens behind."""
        if getattr(base.tokenizer, "mask_token_id", None) is None:
            raise LocalError(
                "E-MODEL-LOAD", f"{name}: its tokenizer has no mask token; take a base that was trained so"
            )

    def read(self, reading: Reading, base: Base) -> tuple[Inputs, torch.Tensor]:
        """Return token ids, some hidden behind public coins, their mask, and the hidden ones; all (count, length)."""
        texts = reading.table.inputs
        read = reading.rows(lambda row, where: self._text(texts[row], base, where), otherwise="")
        inputs = tokenised(base, read, self.task.max_length, reading)
        return self._hidden_publicly(inputs, base)

    def synthetic(self, base: Base, random: np.random.Generator, count: int) -> tuple[Inputs, torch.Tensor]:
        """Return texts of all lengths, some tokens hidden."""
        longest = self.task.max_length
        return self._hidden_publicly(random_tokens(base, random, spread_lengths(longest, 1, count), longest), base)

    def shape(self, base: Base) -> tuple[int, ...]:
        """Return one answer for each place and token."""
        return (self.task.max_length, vocabulary(base))

    def losses(self, answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return each example's mean cross-entropy over its own hidden tokens."""
        return token_losses(answers, labels)

    def tally(self) -> ClassTally:
        """Return counts of hidden tokens."""
        return ClassTally(0, perplexity=True)

    def in_step(self, examples: Examples, rows: NDArray[np.int64], base: Base, random: RandomSource) -> Examples:
        """Return the examples, other tokens of a batch's rows hidden behind the participant's own coins."""
        chosen = np.unique(rows)
        if not chosen.size:
            return examples
        ids, labels = examples.inputs[TOKENS].clone(), examples.labels.clone()
        place = torch.from_numpy(chosen).to(ids.device)
        whole = torch.where(labels[place] == IGNORED, ids[place], labels[place]).cpu()
        coins = np.frombuffer(random.token_bytes(COIN_BYTES * whole.numel()), dtype="<u4").reshape(whole.shape)
        hidden, wanted = self._hide(whole, examples.inputs[TOKEN_MASK][place].cpu(), base, coins)
        ids[place], labels[place] = hidden.to(ids.device), wanted.to(ids.device)
        return replace(examples, inputs={**examples.inputs, TOKENS: ids}, labels=labels)

    def _text(self, value: Any, base: Base, where: str) -> str:
        text, tokenizer = text_of(value, where), tokenizer_of(base)
        if not text.strip():
            raise refused_row(where, "its text is empty; leave it out")
        ids = tokenizer(text, truncation=True, max_length=self.task.max_length)[TOKENS]
        if not set(ids) - set(tokenizer.all_special_ids):
            raise refused_row(
                where, "it has no token that the base knows, so nothing of it can be hidden; leave it out"
            )
        return text

    def _hidden_publicly(self, inputs: Inputs, base: Base) -> tuple[Inputs, torch.Tensor]:
        ids = inputs[TOKENS]
        coins = np.random.default_rng(PUBLIC_SEED).integers(2**32, size=ids.shape, dtype=np.uint64)
        hidden, labels = self._hide(ids, inputs[TOKEN_MASK], base, coins)
        return {**inputs, TOKENS: hidden}, labels

    def _hide(
        self, ids: torch.Tensor, mask: torch.Tensor, base: Base, coins: NDArray[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hide the tokens with the least coins: the plan's part of those that are words, and one at least."""
        tokenizer = tokenizer_of(base)
        may = (mask == 1) & ~torch.isin(ids, torch.tensor(sorted(tokenizer.all_special_ids)))
        order = np.where(may.numpy(), coins.astype(np.float64), np.inf).argsort(axis=1, kind="stable")
        allowed = may.sum(dim=1).numpy()
        count = np.minimum(allowed, np.maximum(1, np.rint(float(self.task.mask_rate) * allowed))).astype(np.int64)
        hidden = np.zeros(ids.shape, dtype=bool)
        np.put_along_axis(hidden, order, np.arange(ids.shape[1]) < count[:, None], axis=1)
        chosen = torch.from_numpy(hidden)
        return torch.where(chosen, int(tokenizer.mask_token_id), ids), torch.where(chosen, ids, IGNORED)


def vocabulary(base: Base) -> int:
    """Return the number of tokens that a base has answers for."""
    return int(base.model.config.get_text_config().vocab_size)
