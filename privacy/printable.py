"""Text that is safe to show: no character of it moves a cursor, hides itself, or turns around what stands beside it.

Plans, configuration files and messages of peers hold free text that ends on a terminal or a page on which an owner
decides. Control characters (C0, C1, escape sequences) and bidirectional marks could rewrite what is shown there.

Guarantees: the Unicode categories Cc (control), Cf (format, with all bidirectional marks and zero-width spaces), Cs
(surrogates), Co (private use), Cn (unassigned), Zl and Zp (line and paragraph separators) are not printable, nor are
letters and symbols that look like nothing (fillers of Hangul and Khitan, the empty Braille cell) and marks that Unicode
lets every renderer ignore. Of these some are printable where they have an effect, and nowhere else: U+200C and U+200D
between characters of a script that joins (Persian, Hindi, Sinhala and others need them to be spelt) or in a sequence of
emoji, and U+FE0E and U+FE0F after a symbol.
Leaves to others: whether a text may have line breaks (the caller says so), and markup (HTML and Markdown escape their
own). Which characters are unassigned depends on the Unicode version of Python: an older one refuses newer characters.
Source: Unicode Standard Annex 9 (bidirectional marks), Annex 44 (Default_Ignorable_Code_Point) and Technical Report 36.
"""

from __future__ import annotations

import unicodedata
from typing import Final

JOINERS: Final = frozenset("\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}")
SELECTORS: Final = frozenset("\ufe0e\ufe0f")  # a symbol as text, or in colour
FIRST_OF_JOINING_SCRIPTS: Final = "\u0600"  # Latin, Greek, Cyrillic, Armenian and Hebrew stand below, and join nothing
# What no category tells: default-ignorable marks and letters, and symbols without ink.
BLANK: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffc\U00016fe4\U0001d159"
    "\u180b\u180c\u180d\u180f" + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # Unicode general categories


def first_unprintable(text: str, *, line_breaks: bool = False) -> str | None:
    """Return the first character that may not be shown, as its code point (``U+202E``), or ``None``.

    Line feeds may be shown only where line breaks are allowed.
    """
    if text.isascii() and text.isprintable():
        return None
    unprintable = next((place for place in range(len(text)) if not _shown(text, place, line_breaks)), None)
    return None if unprintable is None else f"U+{ord(text[unprintable]):04X}"


def printable(text: str, *, line_breaks: bool = False) -> str:
    r"""Return the text with every character that may not be shown written as an escape, such as ``\x1b`` or ``\u202e``.

    A backslash stays as it is: the result is for reading, not for decoding.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = (_shown(text, place, line_breaks) for place in range(len(text)))
    return "".join(character if fine else _escaped(character) for character, fine in zip(text, shown, strict=True))


def _shown(text: str, place: int, line_breaks: bool) -> bool:
    character, before = text[place], text[max(0, place - 1) : place]
    if character == "\n":
        return line_breaks
    if character in JOINERS:
        return _joins(text, place - 1) and _joins(text, place + 1)
    if character in SELECTORS:
        return bool(before) and unicodedata.category(before) in {"So", "Sm"} and before not in BLANK
    return character not in BLANK and unicodedata.category(character) not in UNPRINTABLE


def _joins(text: str, place: int) -> bool:
    """Return whether a character is one that a joiner beside it can change: of a joining script, or an emoji."""
    if not 0 <= place < len(text) or text[place] < FIRST_OF_JOINING_SCRIPTS:
        return False
    if text[place] in SELECTORS:
        return _shown(text, place, line_breaks=False)
    return text[place] not in BLANK and unicodedata.category(text[place])[0] in "LMS"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
