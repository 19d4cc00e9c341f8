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


def content(invitation: Invitation) -> list[object]:
    return [
        value.reveal() if isinstance(value, SecretBytes) else value
        for value in (getattr(invitation, field.name) for field in fields(invitation))
    ]


def rewritten(**changes: str) -> str:
    """Return the line with pieces of its JSON replaced, under a right checksum."""
    body = LINE.removeprefix(PREFIX)
    document = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))[:-4].decode()
    for old, new in changes.items():
        assert old in document
        document = document.replace(old, new)
    data = document.encode()
    return PREFIX + base64.urlsafe_b64encode(data + hashlib.sha256(data).digest()[:4]).decode().rstrip("=")


def test_an_invitation_is_one_line_that_can_be_copied() -> None:
    assert LINE.isascii()
    assert len(LINE.split()) == 1
    assert len(LINE) < 2000
    assert content(decode_invitation(LINE)) == content(INVITATION)


@given(
    name=drawn.names,
    role=drawn.roles,
    token_id=drawn.run_ids,
    secret=drawn.hashes,
    authority=st.binary(min_size=1, max_size=100),
    expires_at=drawn.from_zero,
)
def test_every_invitation_is_read_as_it_was_written(
    name: str, role: Role, token_id: str, secret: bytes, authority: bytes, expires_at: int
) -> None:
    made = replace(
        INVITATION,
        name=name,
        role=role,
        token_id=token_id,
        secret=SecretBytes(secret),
        authority=authority,
        expires_at=expires_at,
    )
    assert content(decode_invitation(encode_invitation(made))) == content(made)


def test_line_feeds_of_a_mail_program_do_no_harm() -> None:
    broken = "\r\n ".join(LINE[start : start + 70] for start in range(0, len(LINE), 70))
    assert content(decode_invitation(f" {broken}\n")) == content(INVITATION)


def refused(line: str) -> LocalError:
    with pytest.raises(LocalError) as caught:
        decode_invitation(line)
    assert caught.value.code == "E-TOKEN-INVALID"
    return caught.value


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
        ('"role":"participant"', '"role":"operator"'),
        ('"name":"alice"', '"name":"Alice"'),
        ('"name":"alice"', '"name":"alice","admin":true'),
        ("coordinator.example:8443", "coordinator.example"),
        ("coordinator.example:8443", "http://coordinator.example:8443"),
        ("coordinator.example:8443", "coordinator.example:70000"),
        ('"expires_at":1800000000', '"expires_at":-1'),
        ('"expires_at":1800000000', '"expires_at": 1800000000'),
        ("ab" * 16, "ab" * 15),
        ("73" * 32, "73" * 31),
    ],
)
def test_a_line_with_a_bad_field_is_refused_even_under_a_right_checksum(old: str, new: str) -> None:
    refused(rewritten(**{old: new}))


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
