"""A recipe says what it means, and a slip in it is found where it was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from authoring.recipe import read_recipe
from privacy.errors import LocalError
from tests.worlds.recipes import RECIPE


def write(path: Path, *changes: tuple[str, str]) -> Path:
    text = RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (path / "recipe.toml").write_text(text)
    return path / "recipe.toml"


def test_numbers_keep_their_decimal_form(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path))
    assert (recipe.privacy.delta, recipe.privacy.epsilon, recipe.training.learning_rate) == ("0.00001", "8", "0.1")


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path))
    assert recipe.privacy.unit_of_privacy == "example"
    assert recipe.optimizer is None
    assert recipe.training.head_learning_rate is None
    assert recipe.evaluation.every == 1


def test_bands_are_a_number_or_left_to_the_expected_error(tmp_path: Path) -> None:
    for words, expected in (("2", 2), ('"auto"', "auto"), ("1", 1)):
        assert read_recipe(write(tmp_path, ("delta", f"bands = {words}\ndelta"))).privacy.bands == expected


SLIPS: dict[str, tuple[tuple[str, str], str, str]] = {
    "a misspelt key": (("sampling_rate", "sample_rate"), "E-CONFIG-UNKNOWN-KEY", "did you mean sampling_rate"),
    "a missing section": (('[base]\nname = "digits-vit"\npath = "base"\n', ""), "E-CONFIG-INVALID", "base"),
    "no TOML": (("[base]", "[base"), "E-CONFIG-INVALID", "recipe.toml"),
    "a mode that there is not": (('"distributed"', '"central"'), "E-CONFIG-INVALID", "privacy.mode"),
    "a noised mode without epsilon": (("epsilon = 8\n", ""), "E-CONFIG-INVALID", "needs an epsilon"),
    "a delta of 1": (("delta = 1e-5", "delta = 1"), "E-CONFIG-INVALID", "a delta between 0 and 1"),
    "two steps in mode distributed": (("delta", "local_steps = 2\ndelta"), "E-CONFIG-INVALID", "one step per round"),
    "a rate above 1": (("rate = 0.5", "rate = 1.5"), "E-CONFIG-INVALID", "at most 1"),
    "a rate of 0": (("rate = 0.5", "rate = 0"), "E-CONFIG-INVALID", "above 0"),
    "a negative number": (("= 0.1", "= -0.1"), "E-CONFIG-INVALID", "training.learning_rate"),
    "more bands than bins can fill": (("delta", "bands = 3\ndelta"), "E-CONFIG-INVALID", "at most 1"),
    "more bands than rounds": (
        ("sampling_rate = 0.5", "sampling_rate = 0.001\nbands = 200"), "E-CONFIG-INVALID", "more of them than rounds"
    ),
    "bands by another word": (("delta", 'bands = "best"\ndelta'), "E-CONFIG-INVALID", "privacy.bands"),
    "bands in another mode": (
        ('mode = "distributed"', 'mode = "local"\nbands = "auto"'), "E-CONFIG-INVALID", "belong to mode distributed"
    ),
    "a unit of another mode": (("delta", 'unit = "participant"\ndelta'), "E-CONFIG-INVALID", "example or user"),
    "users without a bound on rows": (("delta", 'unit = "user"\ndelta'), "E-CONFIG-INVALID", "max_rows_per_user"),
    "a division by zero": (("image_mean", "image_std"), "E-CONFIG-INVALID", "image_std") ,
    "momentum that never fades": (
        ("[evaluation]", "[optimizer]\nmomentum = 1\n[evaluation]"), "E-CONFIG-INVALID", "below 1"
    ),
    "a second momentum that never fades": (
        ("[evaluation]", "[optimizer]\nsecond_momentum = 1.5\n[evaluation]"), "E-CONFIG-INVALID", "below 1"
    ),
    "an average that stays where it is": (
        ("[evaluation]", "[optimizer]\naverage = 1\n[evaluation]"), "E-CONFIG-INVALID", "below 1"
    ),
    "an optimizer that divides by zero": (
        ("[evaluation]", '[optimizer]\nname = "yogi"\nepsilon = 0\n[evaluation]'), "E-CONFIG-INVALID", "divide by it"
    ),
    "a title that turns around what follows": (
        ('"Digits"', '"Dig\\u202eits"'), "E-CONFIG-INVALID", r"line 1: title: .*U\+202E"
    ),
    "a title of two lines": (('"Digits"', '"Dig\\nits"'), "E-CONFIG-INVALID", r"title: .*U\+000A"),
    "a label that clears the screen": (('"0", ', '"\\u001b[2J", '), "E-CONFIG-INVALID", r"task\.labels\.0: .*U\+001B"),
    "a learning rate of 0": (("= 0.1", "= 0"), "E-CONFIG-INVALID", "learning_rate: a rate of 0 trains nothing"),
    "an optimizer that stands still": (
        ("[evaluation]", "[optimizer]\nhead_learning_rate = 0.0\n[evaluation]"), "E-CONFIG-INVALID",
        r"optimizer\.head_learning_rate: a rate of 0",
    ),
    "a stream that stands still": (
        ("[evaluation]", "[training.stream_rates]\nadapter = 0\n[evaluation]"), "E-CONFIG-INVALID",
        r"training\.stream_rates\.adapter: a rate of 0",
    ),
    "a tiny epsilon": (("epsilon = 8", "epsilon = 1e-9"), "E-CONFIG-INVALID", r"privacy\.epsilon: it must be 0\.001"),
    "an epsilon that protects nobody": (("epsilon = 8", "epsilon = 1e9"), "E-CONFIG-INVALID", "more protects nobody"),
    "an infinite epsilon": (("epsilon = 8", "epsilon = inf"), "E-CONFIG-INVALID", "epsilon: it must be a finite"),
    "a rate that is no number": (("= 0.1", "= nan"), "E-CONFIG-INVALID", "learning_rate: it must be a finite number"),
    "one label": (('"0", ', ""), "E-CONFIG-INVALID", "task.labels"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_recipe_is_refused_for(slip: str, tmp_path: Path) -> None:
    change, code, words = SLIPS[slip]
    changes = [change, ("image_std = 0.5", "image_std = 0")] if slip == "a division by zero" else [change]
    with pytest.raises(LocalError, match=words) as info:
        read_recipe(write(tmp_path, *changes))
    assert info.value.code == code


def test_a_purpose_may_have_lines_and_any_script(tmp_path: Path) -> None:
    purpose = "Recognise digits\n识别数字 می\u200cخواهم"
    assert read_recipe(write(tmp_path, ('"Recognise digits"', f'"""{purpose}"""'))).purpose == purpose


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"recipe\.toml") as info:
        read_recipe(tmp_path / "recipe.toml")
    assert info.value.code == "E-NOT-FOUND"
