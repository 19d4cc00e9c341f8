"""Text that is safe to show: no character of it moves a cursor, hides itself, or turns around what stands beside it.

Plans, configuration files and messages of peers hold free text that ends on a terminal or a page on which an owner
decides. Control characters (C0, C1, escape sequences) and bidirectional marks could rewrite what is shown there.

Guarantees: the Unicode categories Cc (control), Cf (format, with all bidirectional marks and zero-width spaces), Cs
(surrogates), Co (private use), Cn (unassigned), Zl and Zp (line and paragraph separators) are not printable. Two
characters of Cf are, U+200C and U+200D: Persian, Hindi, Sinhala and other scripts need them to be spelt, and emoji
sequences are joined by them; they change the shape of their neighbours and not the order.
Leaves to others: whether a text may have line breaks (the caller says so), and markup (HTML and Markdown escape their
own). Which characters are unassigned depends on the Unicode version of Python: an older one refuses newer characters.
Source: Unicode Standard Annex 9 (bidirectional marks) and Technical Report 36, section 3.
"""

from __future__ import annotations

import unicodedata
from typing import Final

JOINERS: Final = frozenset("\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}")
UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # Unicode general categories


def first_unprintable(text: str, *, line_breaks: bool = False) -> str | None:
    """Return the first character that may not be shown, as its code point (``U+202E``), or ``None``.

    Line feeds may be shown only where line breaks are allowed.
    """
    if text.isascii() and text.isprintable():
        return None
    unprintable = next((character for character in text if not _shown(character, line_breaks)), None)
    return None if unprintable is None else f"U+{ord(unprintable):04X}"


def printable(text: str, *, line_breaks: bool = False) -> str:
    r"""Return the text with every character that may not be shown written as an escape, such as ``\x1b`` or ``\u202e``.

    A backslash stays as it is: the result is for reading, not for decoding.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _shown(character, line_breaks) else _escaped(character) for character in text)


def _shown(character: str, line_breaks: bool) -> bool:
    if character == "\n":
        return line_breaks
    return character in JOINERS or unicodedata.category(character) not in UNPRINTABLE


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
