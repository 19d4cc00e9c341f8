"""No text that somebody else wrote can rewrite the terminal or the page on which an owner decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import canonical, patterns
from privacy.draft import Draft
from privacy.errors import LocalError, PlanError
from privacy.plan import Plan
from privacy.printable import first_unprintable, printable
from tests.worlds.plans import make_plan, plan_document

HARMFUL = {
    "an escape sequence that clears the screen": ("ok\x1b[2Jepsilon 0.1", "U+001B"),
    "a C1 control sequence introducer": ("\x9b2J", "U+009B"),
    "a NUL": ("a\x00b", "U+0000"),
    "a carriage return that overwrites the line": ("epsilon 80\repsilon 1", "U+000D"),
    "a backspace": ("80\b\b1", "U+0008"),
    "a tab": ("a\tb", "U+0009"),
    "a delete": ("a\x7f", "U+007F"),
    "a right-to-left override": ("\u202e8 nolispe", "U+202E"),
    "a left-to-right embedding": ("\u202aa", "U+202A"),
    "an isolate": ("\u2066a", "U+2066"),
    "the end of an isolate": ("a\u2069", "U+2069"),
    "an Arabic letter mark": ("\u061c1", "U+061C"),
    "a zero-width space": ("po\u200blicy", "U+200B"),
    "a word joiner": ("po\u2060licy", "U+2060"),
    "a byte order mark": ("\ufeffa", "U+FEFF"),
    "a soft hyphen": ("po\u00adlicy", "U+00AD"),
    "a tag character": ("a\U000e0041", "U+E0041"),
    "a line separator": ("a\u2028b", "U+2028"),
    "a paragraph separator": ("a\u2029b", "U+2029"),
    "a private character": ("\ue000", "U+E000"),
    "a character that is not assigned": ("\uffff", "U+FFFF"),
    "a Hangul filler": ("pos\u3164", "U+3164"),
    "half a Hangul filler": ("\uffa0pos", "U+FFA0"),
    "the filler of a first letter": ("a\u115fb", "U+115F"),
    "the filler of a vowel": ("a\u1160b", "U+1160"),
    "an empty Braille cell": ("roster:\u2800verified", "U+2800"),
    "a grapheme joiner": ("pos\u034f", "U+034F"),
    "a Khmer vowel that nobody writes": ("\u1780\u17b4", "U+17B4"),
    "a notehead without ink": ("\U0001d159", "U+1D159"),
    "the place of an object": ("\ufffc", "U+FFFC"),
    "a Mongolian selector": ("\u1820\u180b", "U+180B"),
    "a variation selector after a letter": ("pos\ufe0f", "U+FE0F"),
    "a variation selector at the beginning": ("\ufe0fpos", "U+FE0F"),
    "two variation selectors": ("\u2764\ufe0f\ufe0f", "U+FE0F"),
    "a selector of ideographs": ("\u9089\U000e0100", "U+E0100"),
    "a joiner between Latin letters": ("po\u200ds", "U+200D"),
    "a joiner at the end": ("\u0645\u200c", "U+200C"),
    "a joiner at the beginning": ("\u200d\u0645", "U+200D"),
    "two joiners": ("\u0645\u200c\u200c\u06cc", "U+200C"),
    "a joiner after a selector of nothing": ("x\ufe0f\u200d\u0645", "U+FE0F"),
    "a joiner beside a filler": ("\u0645\u200d\u3164", "U+200D"),
}
SURROGATE = "\ud83d"  # half of a pair, as a command line with broken bytes gives it; no JSON document holds one
LEGITIMATE = {
    "accents, composed and combining": "Übersicht für Å und e\u0301",
    "Arabic": "تصنيف صور الأشعة في المستشفى",
    "Persian with its zero-width non-joiner": "می\u200cخواهم",
    "Hebrew": "סיווג תמונות",
    "Chinese with its wide space": "医学影像\u3000分类",
    "Hindi with joiners": "क्\u200dष",
    "an emoji": "🩻 X-ray ✅",
    "a family of emoji, joined": "👩\u200d👩\u200d👧",
    "a heart with its variation selector": "❤\ufe0f",
    "an eye in a bubble: joiner and selectors": "👁\ufe0f\u200d🗨\ufe0f",
    "Korean": "의료 영상 분류",
    "Braille with ink": "⠓⠊",
    "a no-break space and a dash": "8\u00a0MB – ok",
}
# Every free text of a plan. A document's own path to it, through names and indices.
FREE_TEXTS = {
    "operator": ("operator",),
    "operator's contact": ("operator_contact",),
    "who is responsible": ("recipe", "notice", "responsible"),
    "whom to call": ("recipe", "notice", "contact"),
    "which data": ("recipe", "notice", "data"),
    "how long kept": ("recipe", "notice", "retention"),
    "title": ("recipe", "title"),
    "purpose": ("recipe", "purpose"),
    "architecture": ("recipe", "base", "architecture"),
    "target module": ("recipe", "adapter", "options", "target_modules", 0),
    "head module": ("recipe", "adapter", "head_modules", 0),
    "tensor": ("recipe", "adapter", "tensors", 0, "key"),
    "label": ("recipe", "task", "labels", 3),
    "input column": ("recipe", "task", "input_column"),
    "label column": ("recipe", "task", "label_column"),
}


def with_text(path: tuple[str | int, ...], text: str) -> bytes:
    document: Any = canonical.decode(canonical.encode(plan_document()))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = text
    return canonical.encode(document)


def strings(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    match value:
        case str():
            return [path]
        case dict():
            return [found for key, inner in value.items() for found in strings(inner, (*path, key))]
        case list():
            return [found for place, inner in enumerate(value) for found in strings(inner, (*path, place))]
    return []


@pytest.mark.parametrize(("text", "character"), HARMFUL.values(), ids=HARMFUL.keys())
def test_a_text_is_not_printable_with(text: str, character: str) -> None:
    assert first_unprintable(text) == first_unprintable(text, line_breaks=True) == character
    assert first_unprintable(text) is not None
    shown = printable(text)
    assert first_unprintable(shown) is None
    assert shown.count("\\") >= 1
    assert shown != text


@pytest.mark.parametrize("text", LEGITIMATE.values(), ids=LEGITIMATE.keys())
def test_a_text_stays_as_it_is_in(text: str) -> None:
    assert first_unprintable(text) is None
    assert printable(text) == text
    assert Plan.from_bytes(with_text(FREE_TEXTS["title"], text)).recipe.title == text


def test_escapes_name_the_character() -> None:
    assert printable("a\x1b[2J\u202e\U000e0041\n") == r"a\x1b[2J\u202e\U000e0041\n"
    assert printable("one\ntwo\x00", line_breaks=True) == "one\ntwo\\x00"


@given(st.text())
def test_whatever_a_text_holds_its_printable_form_is_printable_and_found_again(text: str) -> None:
    shown = printable(text)
    assert first_unprintable(shown) is None
    assert printable(shown) == shown
    assert (shown == text) == (first_unprintable(text) is None)


def test_half_of_a_surrogate_pair_is_escaped_and_in_no_plan() -> None:
    assert first_unprintable(SURROGATE) == "U+D83D"
    assert printable(SURROGATE) == r"\ud83d"
    with pytest.raises(PlanError, match="E-PLAN-MALFORMED"):
        Plan.from_bytes(with_text(FREE_TEXTS["title"], "HERE").replace(b"HERE", rb"\ud83d"))


# --- plans and drafts ---


@pytest.mark.parametrize(("text", "character"), HARMFUL.values(), ids=HARMFUL.keys())
@pytest.mark.parametrize("path", FREE_TEXTS.values(), ids=FREE_TEXTS.keys())
def test_no_free_text_of_a_plan_may_have(path: tuple[str | int, ...], text: str, character: str) -> None:
    with pytest.raises(PlanError) as refused:
        Plan.from_bytes(with_text(path, text))
    assert refused.value.code == "E-PLAN-MALFORMED"
    assert refused.value.rule.endswith(f"has a character that cannot be shown, {character}")
    assert str(path[-1]) in refused.value.rule


def test_those_are_all_the_free_texts_that_a_plan_has() -> None:
    """Every other text of a plan is refused with a space in it: it has a pattern of its own."""
    document = canonical.decode(canonical.encode(plan_document()))
    free = set()
    for path in strings(document):
        try:
            Plan.from_bytes(with_text(path, "two words"))
        except PlanError as refused:
            patterned = (*patterns.WORDS.values(), "Input should be", "must be one of", "tensor")
            if any(words in refused.rule for words in patterned):
                continue
        free.add(tuple(step for step in path if isinstance(step, str)))
    assert free == {tuple(step for step in path if isinstance(step, str)) for path in FREE_TEXTS.values()}


def test_only_the_purpose_may_have_line_breaks() -> None:
    assert Plan.from_bytes(with_text(FREE_TEXTS["purpose"], "Digits.\nFor everybody.")).recipe.purpose.count("\n") == 1
    for name, path in FREE_TEXTS.items():
        if name != "purpose":
            with pytest.raises(PlanError, match=r"E-PLAN-MALFORMED.*U\+000A"):
                Plan.from_bytes(with_text(path, "one\ntwo"))


def draft_with(change: Callable[[dict[str, Any]], None]) -> bytes:
    plan, _ = make_plan()
    privacy = {
        **plan.privacy.model_dump(
            mode="json", exclude={"relation", "variance_exponent", "sensitivity", "honest_noise"}
        ),
        "update_bound": "8",
    }
    document: dict[str, Any] = {
        "draft_version": 2,
        "recipe": plan.recipe.model_dump(mode="json"),
        "privacy": privacy,
        "evaluation_data": "public",
        "evaluate_every": 1,
        "suite": 1,
        "max_attempts": 3,
    }
    change(document)
    return canonical.encode(document)


def test_a_draft_is_held_to_the_same() -> None:
    assert Draft.from_bytes(draft_with(lambda document: None)).recipe.title == "Digits"
    with pytest.raises(LocalError, match=r"E-PLAN-MALFORMED.*recipe\.title.*U\+202E"):
        Draft.from_bytes(draft_with(lambda document: document["recipe"].update(title="\u202estigid")))
