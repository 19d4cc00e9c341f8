"""What an attempt collects in each phase at the coordinator, and which phase may follow which.

Guarantees: :data:`TRANSITIONS` is the whole of it: an attempt goes on only where :func:`check_following`
lets it.
Leaves to others: when a phase ends, and what the next one begins with (``round``).
Source: docs/protocol.md section 5, whose diagram is drawn from :data:`TRANSITIONS`.
"""

from __future__ import annotations

from typing import Final

from privacy.errors import LocalError, Phase

COLLECTS: Final[dict[Phase, str]] = {
    Phase.ADVERTISE_KEYS: "collects advertisements (U1)",
    Phase.SHARE_KEYS: "collects sealed shares (U2)",
    Phase.COLLECT_MASKED: "collects masked updates (S)",
    Phase.AGREE_SURVIVORS: "collects signatures over the survivors",
    Phase.UNMASK: "collects shares of the survivors' seeds and the dropouts' masking secrets",
    Phase.RESULT: "has the sum",
}

TRANSITIONS: Final[dict[Phase, tuple[Phase, ...]]] = {
    Phase.ADVERTISE_KEYS: (Phase.SHARE_KEYS,),
    Phase.SHARE_KEYS: (Phase.COLLECT_MASKED,),
    Phase.COLLECT_MASKED: (Phase.AGREE_SURVIVORS,),
    Phase.AGREE_SURVIVORS: (Phase.UNMASK,),
    Phase.UNMASK: (Phase.RESULT,),
    Phase.RESULT: (),
}


def check_following(phase: Phase, following: Phase) -> None:
    """Refuse a step that the table does not have: a bug of this program."""
    if following not in TRANSITIONS[phase]:
        step = f"{phase.name} is followed by {following.name}"
        raise LocalError("E-BUG", f"{step}, which no row of the protocol's table says")
