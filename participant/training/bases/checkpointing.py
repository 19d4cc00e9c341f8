"""Blocks that are run a second time in the backward pass: their activations are not kept in between.

Guarantees: the same bits, at the cost of about one more forward pass; a block's inputs are kept, and what the engine
looks at (inputs and outputs of layers beside which adapters lie).
Leaves to others: whether an owner wants it (``participant.training.bases.memory``).
Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174; torch ``utils.checkpoint``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

import methods
from privacy.adapter_parts import Adapter
from privacy.errors import LocalError


def run_blocks_again(model: Any, adapter: Adapter) -> None:
    """Change a model so that its blocks are run again in the backward pass.

    Raises:
        LocalError: ``E-CONFIG-INVALID``: prefix tuning writes into a cache while blocks run, twice if they run twice;
            weights that move along directions and a second LoRA are put in for a forward pass, and gone in the second.
    """
    method = methods.get(adapter.method)
    if adapter.options.peft_type in {"PREFIX_TUNING", "SEEDS"} or method.home in {"beside", "alone", "mixed"}:
        detail = f"memory.checkpointing: {method.title} cannot run blocks again; set it to false"
        raise LocalError("E-CONFIG-INVALID", detail)
    model.config.use_cache = False  # of keys and values, which a second run would fill a second time
    for owner in model.modules():
        if isinstance(owner, nn.ModuleList):
            for block in owner:
                vars(block)["forward"] = partial(
                    checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
                )
