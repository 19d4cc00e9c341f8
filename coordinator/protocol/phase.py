"""The phases of an attempt at the coordinator, and which may follow which.

Source: docs/protocol.md section 5, whose diagram is drawn from :data:`TRANSITIONS`.
"""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """What the coordinator collects now."""

    ADVERTISE_KEYS = "collects advertisements (U1)"
    SHARE_KEYS = "collects sealed shares (U2)"
    COLLECT_MASKED = "collects masked updates (S)"
    AGREE_SURVIVORS = "collects signatures over the survivors"
    UNMASK = "collects shares of the survivors' seeds and the dropouts' masking secrets"
    RESULT = "has the sum"


TRANSITIONS: dict[Phase, tuple[Phase, ...]] = {
    Phase.ADVERTISE_KEYS: (Phase.SHARE_KEYS,),
    Phase.SHARE_KEYS: (Phase.COLLECT_MASKED,),
    Phase.COLLECT_MASKED: (Phase.AGREE_SURVIVORS,),
    Phase.AGREE_SURVIVORS: (Phase.UNMASK,),
    Phase.UNMASK: (Phase.RESULT,),
    Phase.RESULT: (),
}
