"""How often a process looks for cycles of objects that nothing refers to any more."""

from __future__ import annotations

import gc
from typing import Final

OBJECTS: Final = 20_000  # made, and not let go of, before the search for cycles begins


def look_seldom() -> None:
    """Leave what the start has made, for good, out of the search for cycles, and search less often.

    A round makes many objects that stay until it ends, hardly any of them in cycles; by default the search for them
    took a tenth of a coordinator's time with hundreds of participants.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS, 20, 20)
