"""Losses of single examples: no company of a batch in any of them.

Guarantees: one number for each example; of an example with several answers it is the mean over its own, never over a
batch's, so that one example's gradient does not depend on how many answers another one has.
Source: docs/privacy-accounting.md section 3.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from participant.training.tasks.work import IGNORED


def class_losses(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each example; answers (batch, classes), labels (batch,)."""
    return functional.cross_entropy(answers.float(), labels, reduction="none")


def token_losses(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of each example over its own tokens that are asked for.

    Args:
        answers: shape (batch, places, classes).
        labels: shape (batch, places), ``IGNORED`` where nothing is asked for.
    """
    flat = functional.cross_entropy(
        answers.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return flat.view_as(labels).sum(dim=1) / (labels != IGNORED).sum(dim=1).clamp(min=1)


def squared_losses(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the squared error of each example; answers (batch, 1), labels (batch,)."""
    return (answers.float()[:, 0] - labels) ** 2


def several_losses(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy of each example over the plan's labels; both of shape (batch, labels)."""
    return functional.binary_cross_entropy_with_logits(answers.float(), labels, reduction="none").mean(dim=1)


def cosines(answers: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each example's two vectors, shape (batch,); answers (batch, 2, width)."""
    return functional.cosine_similarity(answers[:, 0].float(), answers[:, 1].float(), dim=1)


def cosine_losses(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return each pair's squared distance of its cosine from its similarity; answers (batch, 2, width).

    No other text of a batch counts as unlike: such a loss would couple the examples.
    """
    return (cosines(answers) - labels) ** 2
