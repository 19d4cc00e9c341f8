"""participant.toml, policy.toml and the directory: what is refused, with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.settings import parse
from host.state_format import write_format
from participant.config import FORMAT, Settings, load_settings, settings_template
from participant.home import Home
from participant.owner.policy import parse_policy, policy_template
from privacy.errors import LocalError


def test_the_written_settings_parse_to_the_defaults() -> None:
    assert parse(settings_template("alice"), Settings, file="participant.toml") == Settings(name="alice")


def test_the_written_policy_allows_nothing() -> None:
    policy = parse_policy(policy_template("ab" * 16))
    assert not policy.dataset
    assert not policy.population
    assert policy.approval.mode == "by-hand"


def test_the_commented_examples_of_the_policy_are_valid_once_uncommented() -> None:
    text = policy_template("ab" * 16).replace("HASH", "cd" * 32)
    lines = [
        line[2:] if line.startswith("# ") and ("=" in line or line.startswith("# [")) else line
        for line in text.splitlines()
    ]
    kept = [line for line in lines if not line.startswith("unverified_roster")]
    policy = parse_policy("\n".join(kept))
    assert policy.dataset["wards"].methods["ffa-lora"].max_rank == 16
    assert policy.coordinator.roster["clinic-b"].startswith("0123")


UNKNOWN = {
    "a misspelt key at the top": ('name = "a"\ndevcie = "cpu"\n', "line 2", "device"),
    "a key after a comment": ('# settings\nname = "a"\n\nthread = 2\n', "line 4", "threads"),
}


@pytest.mark.parametrize(("text", "line", "meant"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_an_unknown_setting_is_refused_with_its_line_and_a_suggestion(text: str, line: str, meant: str) -> None:
    with pytest.raises(LocalError) as refused:
        parse(text, Settings, file="participant.toml")
    assert refused.value.code == "E-CONFIG-UNKNOWN-KEY"
    assert line in refused.value.detail
    assert f"did you mean {meant}?" in refused.value.detail


OUT_OF_RANGE = {
    "an engine that there is not": 'engine = "ghost"',
    "a precision that would reach what trains": 'precision = "float16"',
    "a device that nobody has": 'device = "tpu"',
    "no thread at all": "threads = 0",
    "a proxy that is dialled with TLS, which gRPC would go past": 'proxy = "https://proxy.example:3128"',
}


@pytest.mark.parametrize("line", OUT_OF_RANGE.values(), ids=OUT_OF_RANGE.keys())
def test_a_setting_out_of_its_range_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(LocalError) as refused:
        parse(f'name = "alice"\n{line}\n', Settings, file="participant.toml")
    assert refused.value.code == "E-CONFIG-INVALID"
    assert "line 2" in refused.value.detail


PROXIES = {
    "a port that gRPC and we would guess differently": ("http://proxy.example", False),
    "a port beyond the last": ("http://proxy.example:65536", False),
    "no host": ("http://:3128", False),
    "a path": ("http://proxy.example:3128/x", False),
    "an at sign within a password, which is written %40": ("http://anna:p@ss@proxy.example:3128", False),
    "two ports": ("http://proxy.example:3128:3128", False),
    "a login": ("http://anna:p%40ss@proxy.example:3128", True),
    "an IPv6 address": ("http://[::1]:65535", True),
    "none": ("", True),
}


@pytest.mark.parametrize("sentence", PROXIES)
def test_a_proxy_is_one_that_can_be_dialled(sentence: str) -> None:
    proxy, taken = PROXIES[sentence]
    text = f'name = "alice"\nproxy = "{proxy}"\n'
    if taken:
        assert parse(text, Settings, file="participant.toml").proxy == proxy
        return
    with pytest.raises(LocalError, match="line 2: proxy: it must be http://HOST:PORT"):
        parse(text, Settings, file="participant.toml")


def test_a_byte_order_mark_is_no_part_of_a_setting(tmp_path: Path) -> None:
    write_format(tmp_path, FORMAT)
    (tmp_path / "participant.toml").write_bytes(b"\xef\xbb\xbf" + settings_template("alice").encode())
    assert load_settings(Home(tmp_path)) == Settings(name="alice")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('name = "Alice"', "a name has 1 to 63 of a-z"),
        ('name = "alice"\ndevice = "tpu"', "it must be auto, cpu, mps, cuda or cuda:NUMBER"),
        ('name = "alice"\ndevice = "cuda:0,cuda:1"', "a base lies on one device"),
        ('name = "alice"\nproxy = "proxy:3128"', "it must be http://HOST:PORT"),
    ],
)
def test_what_a_setting_must_be_is_told_in_words(line: str, words: str) -> None:
    with pytest.raises(LocalError) as refused:
        parse(f"{line}\n", Settings, file="participant.toml")
    assert words in refused.value.detail
    assert "^" not in refused.value.detail


POPULATION = """
[population.patients]
unit = "example"
lifetime_epsilon = 10
lifetime_delta = 1e-6
per_run_epsilon = 8
per_run_delta = 1e-5
"""
BAD_POLICY = {
    "a misspelt floor": ("[floors]\nmin_survivor = 3\n", "E-CONFIG-UNKNOWN-KEY", "line 2", "min_survivors"),
    "a misspelt section": ("[floor]\nf = 1\n", "E-CONFIG-UNKNOWN-KEY", "line 1", "floors"),
    "a misspelt key of a population": (
        POPULATION + "lifetime_epsilom = 3\n", "E-CONFIG-UNKNOWN-KEY", "line 8", "lifetime_epsilon"
    ),
    "a misspelt bound of a method": (
        POPULATION + '[dataset.wards]\npopulation = "patients"\n[dataset.wards.methods.ffa-lora]\nmax_ranks = 3\n',
        "E-CONFIG-UNKNOWN-KEY", "line 11", "max_rank",
    ),
    "a negative budget": (POPULATION.replace("10", "-1"), "E-CONFIG-INVALID", "line 4", "greater than 0"),
    "a dataset of no known population": (
        '[dataset.wards]\npopulation = "others"\n', "E-CONFIG-INVALID", "", "which has no section"
    ),
    "an impossible hour": (
        POPULATION + '[dataset.wards]\npopulation = "patients"\nhours = "25:00-07:00"\n', "E-CONFIG-INVALID", "", "hour"
    ),
    "a fingerprint that is too short": (
        '[coordinator.roster]\nbob = "abcd"\n', "E-CONFIG-INVALID", "line 2", "it must be 32 to 64 characters"
    ),
    "no TOML at all": ("floors = [}\n", "E-CONFIG-INVALID", "line 1", ""),
}  # fmt: skip


@pytest.mark.parametrize(("text", "code", "line", "says"), BAD_POLICY.values(), ids=BAD_POLICY.keys())
def test_a_policy_is_refused_with_its_line(text: str, code: str, line: str, says: str) -> None:
    with pytest.raises(LocalError) as refused:
        parse_policy(text)
    assert refused.value.code == code
    assert line in refused.value.detail
    assert says in refused.value.detail


HIDDEN = {
    "a program's argument": ('notify = ["tell", "a\\u001b[2J"]', "notify.1", "U+001B"),
    "a path": ('ledger = "a\u202eb"', "ledger", "U+202E"),
    "a key": ('"led\\u200bger" = "a"', r"led\u200bger", "U+200B"),
    "a text of several lines": ('ledger = """a\nb\\u0000"""', "ledger", "U+0000"),
}


@pytest.mark.parametrize(("line", "key", "character"), HIDDEN.values(), ids=HIDDEN.keys())
def test_a_setting_with_a_character_that_cannot_be_shown_is_refused_by_its_key(
    line: str, key: str, character: str
) -> None:
    with pytest.raises(LocalError) as refused:
        parse(f'name = "alice"\n{line}\n', Settings, file="participant.toml")
    assert refused.value.code == "E-CONFIG-INVALID"
    assert key in refused.value.detail
    assert refused.value.detail.endswith(character)


def test_a_policys_free_texts_are_held_to_the_same() -> None:
    with pytest.raises(LocalError, match=r"line 2: approval\.approvers\.0: .*U\+202E"):
        parse_policy('[approval]\napprovers = ["\\u202eA"]\n')


def test_a_window_of_hours_may_pass_midnight() -> None:
    from datetime import time

    text = POPULATION + '[dataset.wards]\npopulation = "patients"\nhours = "19:00-07:00"\n'
    wards = parse_policy(text).dataset["wards"]
    assert wards.allows_time(time(23, 0))
    assert wards.allows_time(time(6, 59))
    assert not wards.allows_time(time(12, 0))


def test_a_directory_that_others_can_read_is_refused_with_the_chmod(tmp_path: Path) -> None:
    home = Home(tmp_path / "alice")
    home.make()
    home.identity.mkdir(mode=0o700)
    home.config.write_text(settings_template("alice"))
    key = home.identity / "identity.key"
    key.write_bytes(b"secret")
    key.chmod(0o644)
    with pytest.raises(LocalError) as refused:
        home.check()
    assert refused.value.code == "E-PERMISSIONS"
    assert f"chmod 0600 {key}" in refused.value.detail
    key.chmod(0o600)
    home.check()


def test_a_missing_directory_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as refused:
        Home(tmp_path).check()
    assert refused.value.code == "E-CONFIG-MISSING"
    with pytest.raises(LocalError) as refused:
        load_settings(Home(tmp_path))
    assert refused.value.code == "E-CONFIG-MISSING"
