"""Whether a loaded base runs: forward, on synthetic rows, with every id that its tokenizer can give.

Guarantees: what would fail at each owner fails where a plan is built or a base is registered, naming the cause.
Leaves to others: files (``files``), gradients and sensitivity (``selfcheck``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from participant.training.tasks.kinds import work_of
from privacy.errors import LocalError
from privacy.task_parts import Task

if TYPE_CHECKING:
    from participant.training.models import Base


def check_base(name: str, base: Base) -> None:
    """Refuse a base whose examples would depend on each other, or whose tokenizer gives what it cannot read.

    Raises:
        LocalError: ``E-MODEL-LOAD``.
    """
    for path, module in base.model.named_modules():
        if normalises_over_batch(module):
            raise _refusal(name, f"{path} normalises over the batch (BatchNorm); take a base with frozen statistics")
    if base.tokenizer is not None:
        _check_tokenizer(name, base.tokenizer, base.model)


def normalises_over_batch(module: torch.nn.Module) -> bool:
    """Return whether a layer couples the examples of a batch; statistics that are stored and frozen couple nobody."""
    is_norm = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    return is_norm and (module.training or getattr(module, "running_mean", None) is None)


def _check_tokenizer(name: str, tokenizer: Any, model: Any) -> None:
    ids = {int(number) for number in tokenizer.get_vocab().values()}
    if not ids - set(tokenizer.all_special_ids):
        raise _refusal(name, "its tokenizer knows no words: a file of its vocabulary is missing")
    rows = int(model.get_input_embeddings().weight.shape[0])
    if max(ids) >= rows:
        token = tokenizer.convert_ids_to_tokens(max(ids))
        detail = f"the tokenizer gives {token} id {max(ids)}, the embedding has {rows} rows; resize it and save both"
        raise _refusal(name, detail)
    pad, expected = tokenizer.pad_token_id, getattr(model.config.get_text_config(), "pad_token_id", None)
    if expected is not None and pad is not None and pad != expected:
        raise _refusal(name, f"the tokenizer pads with id {pad}, pad_token_id in config.json is {expected}")


def check_length(name: str, model: Any, length: int, prompt: int = 0) -> None:
    """Refuse a length beyond the positions that a base has.

    Args:
        name: of the base.
        model: the base.
        length: of a text in tokens.
        prompt: tokens that an adapter puts in front of it.

    Raises:
        LocalError: ``E-CONFIG-INVALID``.
    """
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0 or getattr(config, "position_biased_input", True) is False:
        return  # positions relative to each other have no end
    reserved = _reserved(model)
    positions -= reserved
    if length + prompt > positions:
        added = f" and adapter.tokens {prompt}" if prompt else ""
        fewer = f", as {reserved} are reserved" if reserved else ""
        detail = f"task.max_length {length}{added}: {name} has {positions} positions{fewer}"
        raise LocalError("E-CONFIG-INVALID", detail)


def check_room(name: str, tokenizer: Any, length: int) -> None:
    """Refuse a length that the tokenizer's special tokens fill: every text would be the same.

    Args:
        name: of the base.
        tokenizer: of the base.
        length: of a text in tokens.

    Raises:
        LocalError: ``E-CONFIG-INVALID``.
    """
    special = int(tokenizer.num_special_tokens_to_add())
    if length <= special:
        detail = f"task.max_length {length}: {name} adds {special} tokens to each text, so nothing of it would be read"
        raise LocalError("E-CONFIG-INVALID", detail)


def _reserved(model: Any) -> int:
    """Return how many rows of the embedding of positions no token gets: RoBERTa counts on from its padding."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and "position" in name and module.padding_idx is not None:
            return int(module.padding_idx) + 1
    return 0


def check_forward(
    name: str, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor], task: Task, base: Base
) -> None:
    """Run a model on synthetic inputs.

    Args:
        name: of the base.
        model: the base, with or without an adapter.
        inputs: synthetic.
        task: says what its answers are.
        base: as it was loaded.

    Raises:
        LocalError: ``E-MODEL-LOAD``, with the library's own words: the rows are nobody's.
    """
    shape, work = next(iter(inputs.values())).shape, work_of(task)
    try:
        with torch.no_grad():
            answers = work.answers(model, inputs)
    except LocalError:
        raise
    except Exception as error:  # noqa: BLE001  whatever a model raises
        hint = _hint(model, error)
        words = (str(error).splitlines() or [""])[0]
        detail = f"it does not run on synthetic rows of shape {tuple(shape)}: {type(error).__name__}: {words}{hint}"
        raise _refusal(name, detail) from None
    expected = work.shape(base)
    if tuple(answers.shape) != (shape[0], *expected) or not bool(torch.isfinite(answers).all()):
        numbers = " x ".join(str(size) for size in expected)
        raise _refusal(name, f"its answers to synthetic rows are no {numbers} numbers per row")


def _hint(model: Any, error: Exception) -> str:
    if "pad" in str(error).lower() and getattr(model.config, "pad_token_id", None) is None:
        return "; set pad_token_id in config.json to the tokenizer's"
    if "<eos>" in str(error):
        return "; it answers at the end of a text, which an empty row has not: take an encoder, or T5"
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "; this base takes no such prompt: take another method"
    if isinstance(error, IndexError):
        return "; the length is beyond its positions, some of which may be reserved"
    return ""


def _refusal(name: str, detail: str) -> LocalError:
    return LocalError("E-MODEL-LOAD", f"{name}: {detail}")
