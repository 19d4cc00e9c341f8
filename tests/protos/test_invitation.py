"""An invitation survives being copied by people, and nothing else."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from privacy.errors import LocalError
from privacy.secret import SecretBytes
from protos.envelope import Role
from protos.invitation import (
    PREFIX,
    Invitation,
    decode_invitation,
    encode_invitation,
    enrolment_bytes,
    introduction,
    is_address,
    token_hash,
)
from tests.worlds import strategies as drawn
from tests.worlds.loopback import new_authority

INVITATION = Invitation(
    federation="hospitals",
    name="alice",
    role=Role.PARTICIPANT,
    token_id="ab" * 16,
    secret=SecretBytes(b"s" * 32),
    enrolment_addresses=("coordinator.example:8444", "[2001:db8::1]:8444"),
    addresses=("coordinator.example:8443",),
    authority=new_authority().ca_der,
    operator_key=b"o" * 32,
    expires_at=1_800_000_000,
)
LINE = encode_invitation(INVITATION)


SHOWN = introduction(
    federation=INVITATION.federation, authority=INVITATION.authority, operator_key=INVITATION.operator_key
)
LONGEST = "n" * 63  # of a name


def content(invitation: Invitation) -> list[object]:
    return [
        value.reveal() if isinstance(value, SecretBytes) else value
        for value in (getattr(invitation, field.name) for field in fields(invitation))
    ]


def read(line: str) -> Invitation:
    return decode_invitation(line).completed(SHOWN)


def rewritten(old: bytes, new: bytes) -> str:
    """Return the line with a piece of it replaced, under a right checksum."""
    body = LINE.removeprefix(PREFIX)
    document = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))[:-4]
    assert old in document
    data = document.replace(old, new)
    return PREFIX + base64.urlsafe_b64encode(data + hashlib.sha256(data).digest()[:4]).decode().rstrip("=")


def test_an_invitation_is_one_short_line_that_can_be_copied() -> None:
    assert LINE.isascii()
    assert len(LINE.split()) == 1
    assert len(LINE) < 300
    assert content(read(LINE)) == content(INVITATION)


def test_the_longest_name_at_a_long_address_still_makes_a_short_line() -> None:
    host = "coordinator.department.hospital-group.example.org"
    made = replace(INVITATION, name=LONGEST, enrolment_addresses=(f"{host}:8444",), addresses=(f"{host}:8443",))
    line = encode_invitation(made)
    assert len(line) < 300
    assert content(read(line)) == content(made)


@pytest.mark.parametrize("part", ["federation", "authority", "operator_key"])
def test_another_coordinator_than_the_one_that_invited_is_refused(part: str) -> None:
    own: dict[str, Any] = {
        "federation": INVITATION.federation,
        "authority": INVITATION.authority,
        "operator_key": INVITATION.operator_key,
    }
    another = introduction(**{**own, part: "another" if part == "federation" else b"x" * 32})
    with pytest.raises(ValueError, match="another coordinator"):
        decode_invitation(LINE).completed(another)


@given(
    name=drawn.names,
    role=drawn.roles,
    token_id=drawn.run_ids,
    secret=drawn.hashes,
    expires_at=st.integers(0, 2**48 - 1),
)
def test_every_invitation_is_read_as_it_was_written(
    name: str, role: Role, token_id: str, secret: bytes, expires_at: int
) -> None:
    made = replace(
        INVITATION,
        name=name,
        role=role,
        token_id=token_id,
        secret=SecretBytes(secret),
        expires_at=expires_at,
    )
    assert content(read(encode_invitation(made))) == content(made)


def test_line_feeds_of_a_mail_program_do_no_harm() -> None:
    broken = "\r\n ".join(LINE[start : start + 70] for start in range(0, len(LINE), 70))
    assert content(read(f" {broken}\n")) == content(INVITATION)


def refused(line: str) -> LocalError:
    with pytest.raises(LocalError) as caught:
        decode_invitation(line)
    assert caught.value.code == "E-TOKEN-INVALID"
    return caught.value


def test_one_invitation_has_one_line_also_where_a_last_letter_has_bits_to_spare() -> None:
    for address in ("a:1", "ab:1", "abc:1"):  # of each length modulo three
        line = encode_invitation(replace(INVITATION, addresses=(address,)))
        read(line)
        for letter in set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=") - {line[-1]}:
            refused(line[:-1] + letter)


@given(data=st.data())
def test_a_cut_or_changed_line_is_refused_without_showing_it(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(LINE) - 1))
    if data.draw(st.booleans()):
        changed = LINE[:at]
    else:
        other = data.draw(st.sampled_from("ABCxyz019-_=!ä"))
        changed = LINE[:at] + other + LINE[at + 1 :]
        assume(changed != LINE)
    assert changed[10:30] not in str(refused(changed)) or len(changed) < 30


@given(st.text(max_size=50))
def test_any_other_text_is_refused(text: str) -> None:
    refused(text)
    refused(PREFIX + text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x00\x00\x00k", b"\x02\x00\x00k"),  # a role that is none, before the time
        (b"alice\n", b"Alice\n"),
        (b"alice\n", b"alice\nadmin\n"),
        (b"coordinator.example:8444", b"coordinator.example"),
        (b"coordinator.example:8444", b"http://coordinator.example:8444"),
        (b"coordinator.example:8444", b"coordinator.example:70000"),
        (b"coordinator.example:8444", b"coordinator.\xc3\xa9xample:8444"),
        (b"alice", b""),
    ],
)
def test_a_line_with_a_bad_field_is_refused_even_under_a_right_checksum(old: bytes, new: bytes) -> None:
    refused(rewritten(old, new))


def test_neither_an_invitation_nor_an_error_shows_the_secret() -> None:
    assert "73737373" not in repr(INVITATION)
    assert "ssss" not in repr(INVITATION)


@pytest.mark.parametrize("address", ["localhost:1", "10.0.0.1:65535", "[::1]:8443", "a-b.example:8443"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    assert is_address(address)


@pytest.mark.parametrize("address", ["", "localhost", "localhost:0", "::1:8443", "a b:1", "dns:///x:1", "x:99999"])
def test_anything_else_is_no_address(address: str) -> None:
    assert not is_address(address)


def test_a_stored_hash_depends_on_id_and_secret() -> None:
    hashes = {token_hash(token, SecretBytes(secret)) for token in ("ab" * 16, "cd" * 16) for secret in (b"1", b"2")}
    assert len(hashes) == 4


def test_what_an_identity_key_signs_depends_on_every_part() -> None:
    parts: dict[str, Any] = {"federation": "f", "token_id": "t", "name": "n", "tls_key": b"k"}
    changed = [{**parts, part: b"other" if part == "tls_key" else "other"} for part in parts]
    assert len({enrolment_bytes(**each) for each in (parts, *changed)}) == 5
