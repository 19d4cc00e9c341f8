"""coordinator.toml: what is read, what is refused and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.config import Durations, load_settings, parse_settings, settings_template
from coordinator.home import Home
from privacy.errors import LocalError

GOOD = settings_template(
    federation="clinics",
    operator='The "Example" Institute',
    also=["a"],
    participants="sum.example.org:8443",
    enrolment="sum.example.org:8444",
)


def test_what_init_writes_is_read_back() -> None:
    settings = parse_settings(GOOD)
    assert settings.federation == "clinics"
    assert settings.operator == 'The "Example" Institute'
    assert settings.also_a_participant == ("a",)
    assert settings.durations == Durations()


def test_every_commented_duration_can_be_switched_on() -> None:
    assert (
        parse_settings(GOOD.replace("# ph", "ph").replace("# up", "up").replace("# st", "st")).durations == Durations()
    )


def test_there_are_at_most_six_durations() -> None:
    assert len(Durations.model_fields) <= 6


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("[durations]\nphase_secnds = 3", "E-CONFIG-UNKNOWN-KEY", ("line 6", "phase_seconds")),
        ("[durations]\nphase_seconds = 0", "E-CONFIG-INVALID", ("line 6", "phase_seconds")),
        ("[durations]\nphase_seconds = inf", "E-CONFIG-INVALID", ("line 6",)),
        ("[log]\nfile = 3", "E-CONFIG-INVALID", ("line 6", "log.file")),
        ("max_message_length = 4", "E-CONFIG-UNKNOWN-KEY", ("line 5",)),
        ("log = = 3", "E-CONFIG-INVALID", ("line 5",)),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",
)
def test_a_wrong_line_is_named_with_what_was_probably_meant(line: str, code: str, words: tuple[str, ...]) -> None:
    head = (
        'federation = "clinics"\noperator = "I"\nparticipants = { address = "h:1" }\nenrolment = { address = "h:2" }\n'
    )
    with pytest.raises(LocalError) as refused:
        parse_settings(head + line)
    assert refused.value.code == code
    assert all(word in refused.value.detail for word in words), refused.value.detail


@pytest.mark.parametrize("character", ["\\u001b", "\\u202e", "\\u0000", "\u202e", "\u200b", "\\n"])
def test_an_operators_name_that_would_rewrite_every_owners_screen_is_refused(character: str) -> None:
    with pytest.raises(LocalError, match="line 4: operator: has a character that cannot be shown, U") as refused:
        parse_settings(GOOD.replace('The \\"Example\\" Institute', f"The {character} Institute"))
    assert refused.value.code == "E-CONFIG-INVALID"


def test_an_operators_name_is_in_any_script() -> None:
    name = "研究所 می\u200cخواهم é"
    assert parse_settings(GOOD.replace('The \\"Example\\" Institute', name)).operator == name


@pytest.mark.parametrize("address", ["host", "host:0", "host:70000", "http://host:1", ""])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(LocalError, match="E-CONFIG-INVALID"):
        parse_settings(GOOD.replace("sum.example.org:8443", address))


def test_both_listeners_cannot_share_a_port() -> None:
    with pytest.raises(LocalError, match="listeners of their own"):
        parse_settings(GOOD.replace(":8444", ":8443"))


@pytest.mark.parametrize(
    ("address", "bind"),
    [
        ("127.0.0.1:8443", "127.0.0.1:8443"),
        ("localhost:8443", "localhost:8443"),
        ("[::1]:8443", "[::1]:8443"),
        ("sum.example.org:9000", "0.0.0.0:9000"),
    ],
)
def test_a_dns_name_is_dialled_and_all_interfaces_are_bound(address: str, bind: str) -> None:
    assert parse_settings(GOOD.replace("sum.example.org:8443", address)).participants.bind == bind


@pytest.mark.parametrize(
    "host", ["0", "0x0", "00.0.0.0", "0.0.0.0.", "127.1", "[::0]", "[::ffff:0.0.0.0]", "224.0.0.1", "255.255.255.255"]
)
def test_no_form_of_nobodys_or_everybodys_address_is_announced(host: str) -> None:
    with pytest.raises(LocalError, match="members cannot dial"):
        parse_settings(GOOD.replace("sum.example.org:8443", f"{host}:8443"))


@pytest.mark.parametrize("address", ["0.0.0.0:8443", "[::]:8443"])
def test_an_address_that_nobody_can_dial_is_for_listening_alone(address: str) -> None:
    with pytest.raises(LocalError, match="members cannot dial"):
        parse_settings(GOOD.replace("sum.example.org:8443", address))
    text = GOOD.replace("# listen =", "listen =").replace("0.0.0.0:8443", address)
    assert parse_settings(text).participants.bind == address


def test_listen_overrides_where_to_bind() -> None:
    text = GOOD.replace("# listen =", "listen =").replace("0.0.0.0:8443", "10.0.0.1:1")
    assert parse_settings(text).participants.bind == "10.0.0.1:1"


def test_a_missing_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="E-CONFIG-MISSING"):
        load_settings(Home(tmp_path))


def test_a_relative_database_lies_in_the_directory(tmp_path: Path) -> None:
    home, settings = Home(tmp_path), parse_settings(GOOD)
    assert settings.database_url(home) == f"sqlite:///{tmp_path}/coordinator.db"
    elsewhere = settings.model_copy(update={"database": "postgresql+psycopg://u@h/n"})
    assert elsewhere.database_url(home) == "postgresql+psycopg://u@h/n"
