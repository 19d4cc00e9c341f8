"""Where a model reads its answer: once an example, wherever the example ends.

T5's classifier reads it at the end-of-text token and demands as many of them in every row, which would tie the rows of
a batch to each other, and which an empty row has not.

Guarantees: the answers of transformers' own class wherever that gives any; a row without an end is read at its
beginning; each row's answer depends on that row alone.
Source: transformers 5 ``T5ForSequenceClassification.forward``.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import T5ForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput


class EachRowsEnd(T5ForSequenceClassification):
    """T5's classifier, row by row."""

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> Any:
        """Return the answers, shape (batch, labels), to token ids of shape (batch, length).

        Raises:
            NotImplementedError: vectors in place of tokens, or a mask that is longer.
        """
        if input_ids is None or (attention_mask is not None and attention_mask.shape != input_ids.shape):
            raise NotImplementedError("T5's classifier takes neither a soft prompt nor a prefix")
        read = self.transformer(
            input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=self._shift_right(input_ids),  # type: ignore[no-untyped-call]
            use_cache=False,
        )[0]
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        ends = ((input_ids == self.config.eos_token_id) * places).argmax(dim=1)
        rows = torch.arange(len(input_ids), device=input_ids.device)
        return SequenceClassifierOutput(logits=self.classification_head(read[rows, ends]))


def row_by_row(model: Any) -> Any:
    """Return the model, whose answer to a row no longer depends on the others' lengths."""
    if type(model) is T5ForSequenceClassification:
        model.__class__ = EachRowsEnd
    return model
