"""Words for the patterns that texts in plans and settings must match: nobody should have to read one.

Leaves to others: where the patterns are used (``privacy.plan_parts``, ``participant.config``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
HEX_128: Final = r"^[0-9a-f]{32}$"
HEX_256: Final = r"^[0-9a-f]{64}$"
DECIMAL: Final = r"^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?$"
SIGNED_DECIMAL: Final = r"^-?(0|[1-9][0-9]{0,12})(\.[0-9]{1,6})?$"
DEVICE: Final = r"^(auto|cpu|mps|cuda(:[0-9]+)?)$"
_PORT: Final = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
PROXY: Final = rf"^(http://([^\s/?#@]+@)?([^\s/?#@:\[\]]+|\[[0-9a-fA-F:.]+\]):{_PORT})?$"

BASE64: Final = r"^[A-Za-z0-9+/]{1,8192}={0,2}$"
HEX_512: Final = r"^[0-9a-f]{128}$"
FILE_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
NAME_RULE: Final = "a name has 1 to 63 of a-z, 0-9, dot, dash and underscore and begins with a letter or digit"
WORDS: Final = {
    NAME: NAME_RULE,
    HEX_128: "it must be 32 characters of 0-9 and a-f",
    HEX_256: "it must be 64 characters of 0-9 and a-f",
    DECIMAL: "it must be a finite number, not negative, with at most 18 digits before and after the point",
    SIGNED_DECIMAL: "it must be a finite number with at most 13 digits before and 6 after the point",
    DEVICE: "it must be auto, cpu, mps, cuda or cuda:NUMBER; a base lies on one device",
    PROXY: "it must be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT; what goes through it is encrypted to the"
    " coordinator all the same",
    r"^[0-9a-f]{32,64}$": "it must be 32 to 64 characters of 0-9 and a-f",
    r"^\d\d:\d\d-\d\d:\d\d$": "it must be two times of day, such as 22:00-06:00",
    BASE64: "it must be base64",
    HEX_512: "it must be 128 characters of 0-9 and a-f",
    FILE_NAME: "it must be the name of a file: up to 128 of A-Z, a-z, 0-9, dot, dash and underscore",
}


def in_words(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a field, as people write it.

    Args:
        problem: one of pydantic's errors.
    """
    if problem["type"] == "string_pattern_mismatch":
        return WORDS.get(problem["ctx"]["pattern"], "it has another form than it must have")
    return str(problem["msg"])
