"""Words that a recipe must not contain, with the reason: what would leave without clip and noise, or couple examples.

Guarantees: a key that people know from other trainers and that no accounting covers is refused by name and with its
reason, not as a typing error.
Leaves to others: what a model does by itself (``selfcheck``), methods and modes (``methods``).
Source: docs/privacy-accounting.md section 2, hypotheses 3 to 6.
"""

from __future__ import annotations

from typing import Final

_COUPLED: Final = "an example's gradient would depend on its company in the batch"
_UNPAID: Final = "it looks at private data, and what it finds would leave without noise"

REASONS: Final = {
    "packing": "rows of different people would share one sequence, and be clipped as one",
    "pack": "rows of different people would share one sequence, and be clipped as one",
    "stride": "overlapping windows of one row would count it several times, and be charged once",
    "overlap_windows": "overlapping windows of one row would count it several times, and be charged once",
    "contrastive": f"in-batch contrastive losses compare examples: {_COUPLED}",
    "in_batch_negatives": f"in-batch contrastive losses compare examples: {_COUPLED}",
    "router_aux_loss": f"a balance loss of experts is over the batch: {_COUPLED}",
    "router_aux_loss_coef": f"a balance loss of experts is over the batch: {_COUPLED}",
    "batch_norm": f"it normalises over the batch: {_COUPLED}",
    "mixup": "it mixes rows of different people, and each would be charged once",
    "cutmix": "it mixes rows of different people, and each would be charged once",
    "adaptive_clipping": f"a clip norm chosen from gradients: {_UNPAID}",
    "target_quantile": f"a clip norm chosen from gradients: {_UNPAID}",
    "init": f"an initialisation by activations or gradients (EVA, CorDA, LoRA-GA): {_UNPAID}",
    "init_lora_weights": f"an initialisation by activations or gradients (EVA, CorDA, LoRA-GA): {_UNPAID}",
    "early_stopping": f"rounds and steps are fixed beforehand; stopping by a private loss: {_UNPAID}",
    "patience": f"rounds and steps are fixed beforehand; stopping by a private loss: {_UNPAID}",
    "metrics": f"losses, accuracies and counts of private data: {_UNPAID}; take a recipe with [measure]",
    "log_loss": f"losses, accuracies and counts of private data: {_UNPAID}; take a recipe with [measure]",
    "max_batch": "dropping examples of a full batch makes one example's presence depend on the others",
    "batch_size": "batches are Poisson samples: privacy.sampling_rate says how large they are on average",
    "noise_seed": "a seed reproduces the noise, and whoever knows it subtracts it",
    "sampling_seed": "a seed reproduces the batches, and sampling then amplifies nothing",
    "noise_multiplier": "noise is calibrated in integers by `coordinator run create`, from epsilon and delta",
}
