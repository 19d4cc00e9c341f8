"""The global adapter that a round starts from: downloaded, compared, and parsed from one buffer.

Guarantees: what is returned is what the offer names; in the first round it is what the owner approved with the plan.
Leaves to others: what the offer must follow from (``participant.protocol.checks``), repeating downloads (``delivery``).
Source: docs/protocol.md section 5.1.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from methods.vectors import joined
from participant.link.delivery import Sender
from privacy.errors import LocalError, PeerError, Phase
from privacy.plan import Plan
from privacy.secagg.hashes import adapter_hash
from privacy.secagg.messages import AttemptOffer
from protos.envelope import ContentRef

ADAPTER_FORMAT: Final = np.dtype("<f4")


def fetch_adapter(
    plan: Plan, initial: Path, *, sender: Sender, offer: AttemptOffer, content: ContentRef
) -> NDArray[np.float32]:
    """Download, hash and parse the global adapter from one buffer.

    Args:
        plan: of the run.
        initial: the file of the initial adapter that was approved with it.
        sender: downloads.
        offer: names the adapter by its hash.
        content: where the coordinator says that it lies.

    Raises:
        PeerError: it is not the adapter that the offer names, or not where the plan says that the first round starts.
        LocalError: ``E-ADAPTER-HASH``.
    """
    position, entries = offer.position, plan.recipe.state_entries
    if content.length != entries * ADAPTER_FORMAT.itemsize:
        raise PeerError.by_coordinator(
            "E-ROUND-CONTEXT",
            Phase.ADVERTISE_KEYS,
            f"the adapter is announced as {content.length} bytes for {entries} entries",
        )
    data = sender.download(content, of=(plan.run_id, position))
    if adapter_hash(data) != offer.adapter_hash:
        raise PeerError.by_coordinator(
            "E-ROUND-CONTEXT", Phase.ADVERTISE_KEYS, "the adapter is not the one that the offer names"
        )
    if position.round == 1 and data != _initial(plan, initial):
        raise PeerError.by_coordinator(
            "E-ROUND-CONTEXT", Phase.ADVERTISE_KEYS, "the first round does not start from the plan's initial adapter"
        )
    return np.frombuffer(data, dtype=ADAPTER_FORMAT).astype(np.float32)


def _initial(plan: Plan, path: Path) -> bytes:
    """Return the vector of the plan's initial adapter, whose hash the owner approved."""
    recipe, data = plan.recipe, path.read_bytes()
    if hashlib.sha256(data).hexdigest() != recipe.adapter.initial_hash:
        raise LocalError("E-ADAPTER-HASH", f"{path} is not the plan's initial adapter any more")
    try:
        return joined(recipe, load(data)).astype(ADAPTER_FORMAT).tobytes()
    except SafetensorError:
        raise PeerError.by_coordinator(
            "E-PLAN-RULE", Phase.ADVERTISE_KEYS, "the initial adapter is not what the plan's manifest describes"
        ) from None
