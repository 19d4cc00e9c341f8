"""A participant's keys are made here, stay here, and are certified for nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coordinator.enrolment import authority as ca
from coordinator.enrolment.authority import Authority
from participant.link import identity
from participant.link.identity import OwnKeys
from privacy.errors import LocalError, OnlysumError, PeerError, VerificationError
from privacy.secagg import keys as secagg_keys
from protos.envelope import Membership, Role
from protos.invitation import Invitation, enrolment_bytes
from tests.worlds.loopback import FEDERATION, new_authority
from tests.worlds.seeded import SeededRandom

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority()


@pytest.fixture(scope="module")
def invitation(authority: Authority) -> Invitation:
    return ca.invite(
        authority,
        federation=FEDERATION,
        name="alice",
        role=Role.PARTICIPANT,
        enrolment_addresses=["127.0.0.1:8444"],
        addresses=["127.0.0.1:8443"],
        random=SeededRandom("invitation"),
        until=int(NOW),
    )


@pytest.fixture(scope="module")
def keys() -> OwnKeys:
    return identity.new_keys(SeededRandom("alice"))


def certified(authority: Authority, invitation: Invitation, keys: OwnKeys, *, name: str = "alice") -> Membership:
    request = identity.enrolment_request(invitation, keys).certificate_request
    pem = ca.issue_member(authority, request=request, name=name, random=SeededRandom("serial"), now=NOW)
    return Membership(FEDERATION, "alice", Role.PARTICIPANT, pem, authority.ca_certificate)


def test_a_request_vouches_for_the_tls_key_with_the_identity_key(invitation: Invitation, keys: OwnKeys) -> None:
    request = identity.enrolment_request(invitation, keys)
    tls = x509.load_der_x509_csr(request.certificate_request).public_key()
    signed = enrolment_bytes(
        federation=FEDERATION,
        token_id=invitation.token_id,
        name="alice",
        tls_key=tls.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    )
    assert secagg_keys.verify(keys.signing.public, request.identity_signature, signed)
    assert request.identity_key == keys.signing.public


def test_an_identity_survives_its_directory(
    authority: Authority, invitation: Invitation, keys: OwnKeys, tmp_path: Path
) -> None:
    made = identity.accept_membership(invitation, keys, certified(authority, invitation, keys))
    directory = tmp_path / "identity"
    identity.save_keys(directory, keys)
    identity.save_identity(directory, made)
    found = identity.load_identity(directory)
    assert replace(found, keys=keys) == replace(made, keys=keys)
    assert found.signing.public == keys.signing.public
    assert found.keys.tls.reveal() == keys.tls.reveal()
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_try_that_ended_between_the_two_keys_is_begun_again(keys: OwnKeys, tmp_path: Path) -> None:
    directory = tmp_path / "identity"
    identity.save_keys(directory, keys)
    (directory / identity.IDENTITY_KEY).unlink()
    assert not identity.has_keys(directory)
    identity.save_keys(directory, keys)
    assert identity.has_keys(directory)
    assert identity.load_keys(directory).tls.reveal() == keys.tls.reveal()


def test_keys_are_never_overwritten(keys: OwnKeys, tmp_path: Path) -> None:
    identity.save_keys(tmp_path / "identity", keys)
    with pytest.raises(LocalError) as caught:
        identity.save_keys(tmp_path / "identity", identity.new_keys(SeededRandom("other")))
    assert caught.value.code == "E-EXISTS"
    assert identity.load_keys(tmp_path / "identity").signing.public == keys.signing.public


def test_keys_wait_on_disk_for_a_membership_that_never_came(keys: OwnKeys, tmp_path: Path) -> None:
    identity.save_keys(tmp_path / "identity", keys)
    assert identity.load_keys(tmp_path / "identity").signing.public == keys.signing.public
    with pytest.raises(LocalError) as caught:
        identity.load_identity(tmp_path / "identity")
    assert caught.value.code == "E-CONFIG-MISSING"


def test_a_damaged_membership_is_refused(
    authority: Authority, invitation: Invitation, keys: OwnKeys, tmp_path: Path
) -> None:
    made = identity.accept_membership(invitation, keys, certified(authority, invitation, keys))
    identity.save_keys(tmp_path / "identity", keys)
    identity.save_identity(tmp_path / "identity", made)
    path = tmp_path / "identity" / "membership.json"
    path.write_bytes(path.read_bytes().replace(b"participant", b"operator"))
    with pytest.raises(VerificationError) as caught:
        identity.load_identity(tmp_path / "identity")
    assert caught.value.code == "E-STATE-DAMAGED"


Change = Callable[[Authority, Invitation, OwnKeys, Membership], Membership]
WRONG: dict[str, tuple[Change, str]] = {
    "it is in another name": (lambda a, i, k, m: replace(m, name="bob"), "not the one that the invitation promised"),
    "it gives another role": (lambda a, i, k, m: replace(m, role=Role.EVALUATOR), "not the one"),
    "it is of another federation": (lambda a, i, k, m: replace(m, federation="others"), "not the one"),
    "its certificate bears another name": (lambda a, i, k, m: certified(a, i, k, name="bob"), "another name"),
    "its certificate is for another key": (
        lambda a, i, k, m: certified(a, i, identity.new_keys(SeededRandom("other"))),
        "another TLS key",
    ),
    "its authority is another": (
        lambda a, i, k, m: certified(new_authority("other"), i, k),
        "not the one in the invitation",
    ),
    "its certificate is by another authority": (
        lambda a, i, k, m: replace(m, certificate=certified(new_authority("other"), i, k).certificate),
        "not the authority's",
    ),
    "its certificate is noise": (lambda a, i, k, m: replace(m, certificate=b"noise"), "does not parse"),
}


@pytest.mark.parametrize("sentence", sorted(WRONG))
def test_a_membership_is_refused_when(
    authority: Authority, invitation: Invitation, keys: OwnKeys, sentence: str
) -> None:
    change, word = WRONG[sentence]
    wrong = change(authority, invitation, keys, certified(authority, invitation, keys))
    with pytest.raises(PeerError, match=word) as caught:
        identity.accept_membership(invitation, keys, wrong)
    assert caught.value.code == "E-IDENTITY-MISMATCH"


def test_no_private_key_shows_in_a_repr(authority: Authority, invitation: Invitation, keys: OwnKeys) -> None:
    made = identity.accept_membership(invitation, keys, certified(authority, invitation, keys))
    for shown in (repr(keys), repr(made)):
        assert "PRIVATE" not in shown
        assert keys.identity.reveal().hex() not in shown
        assert repr(keys.identity.reveal()) not in shown


def test_an_invitations_authority_is_what_tls_pins(authority: Authority, invitation: Invitation) -> None:
    found = x509.load_pem_x509_certificate(identity.authority_pem(invitation))
    assert found == x509.load_pem_x509_certificate(authority.ca_certificate)


def test_errors_are_typed(tmp_path: Path) -> None:
    with pytest.raises(OnlysumError):
        identity.load_identity(tmp_path / "nowhere")
