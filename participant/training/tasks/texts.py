"""Texts become token ids of one fixed length.

Guarantees: longer texts are cut at the end and counted; nothing is packed: a row's tokens are its own.
Leaves to others: what is asked about a text (the kinds of tasks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from participant.training.tasks.work import TOKEN_MASK, TOKENS, Inputs, Reading, refused_row
from privacy.errors import LocalError

if TYPE_CHECKING:
    from participant.training.models import Base


def text_of(value: Any, where: str) -> str:
    """Return a cell's text.

    Raises:
        LocalError: ``E-DATA-MISMATCH``, it is none.
    """
    try:
        if isinstance(value, str):
            value.encode()  # half a surrogate pair is no text to a tokenizer
            return value
    except UnicodeEncodeError:
        pass
    raise refused_row(where, "its input is not text")


def read_texts(reading: Reading, base: Base, length: int, texts: Sequence[Any]) -> Inputs:
    """Return token ids and attention mask of texts, each of shape (count, length), int64."""
    read = reading.rows(lambda row, where: text_of(texts[row], where), otherwise="")
    return tokenised(base, read, length, reading)


def tokenised(base: Base, texts: Sequence[str], length: int, reading: Reading) -> Inputs:
    """Return token ids and attention mask, each of shape (count, length), int64; note which rows are cut."""
    tokenizer = tokenizer_of(base)
    whole = tokenizer(list(texts), return_attention_mask=False, return_token_type_ids=False)[TOKENS]
    reading.cut |= {row for row, ids in enumerate(whole) if len(ids) > length}
    found = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=length, return_token_type_ids=False
    )
    tokens, mask = (torch.tensor(found[name], dtype=torch.int64) for name in (TOKENS, TOKEN_MASK))
    mask[mask.sum(dim=1) == 0, 0] = 1  # as in ``mask_of``: where a tokenizer adds nothing, an empty text has no token
    return {TOKENS: tokens, TOKEN_MASK: mask}


def padded(rows: Sequence[Sequence[int]], length: int, fill: int) -> torch.Tensor:
    """Return rows of whole numbers, none longer than the length, filled up at the end; shape (count, length), int64."""
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], dtype=torch.int64).reshape(-1, length)


def mask_of(rows: Sequence[Sequence[int]], length: int) -> torch.Tensor:
    """Return the attention mask of padded rows; a row of nothing still attends to its first place."""
    return padded([[1] * max(1, len(row)) for row in rows], length, 0)


def tokenizer_of(base: Base) -> Any:
    """Return the tokenizer of a base that reads texts."""
    if base.tokenizer is None:
        raise LocalError("E-BUG", "a base of pictures came to a task of texts")
    return base.tokenizer
