"""Certificates say who a member is and nothing more; an enrolment proves that both keys are one newcomer's."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.config import MEMBER_DAYS, parse_settings, settings_template
from coordinator.enrolment import authority as ca
from coordinator.enrolment.authority import Authority
from coordinator.enrolment.renewal import with_valid_server
from coordinator.home import Home
from host import credentials
from host.certificates import expires_at, invalid_now
from participant.link import identity
from privacy.errors import LocalError, OnlysumError, PeerError, VerificationError
from protos.envelope import Enrolment, Role
from protos.invitation import Invitation
from tests.worlds.loopback import FEDERATION, new_authority
from tests.worlds.seeded import SeededRandom

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority(hosts=("coordinator.example", "10.0.0.1", "[2001:db8::1]"))


@pytest.fixture
def invitation(authority: Authority) -> Invitation:
    return invited(authority)


def invited(authority: Authority) -> Invitation:
    return ca.invite(
        authority,
        federation=FEDERATION,
        name="alice",
        role=Role.PARTICIPANT,
        enrolment_addresses=["coordinator.example:8444"],
        addresses=["coordinator.example:8443"],
        random=SeededRandom("invitation"),
        until=int(NOW),
    )


@pytest.fixture
def request_of_alice(invitation: Invitation) -> Enrolment:
    return identity.enrolment_request(invitation, identity.new_keys(SeededRandom("alice")))


def issued(authority: Authority, request: Enrolment, name: str = "alice") -> x509.Certificate:
    pem = ca.issue_member(
        authority, request=request.certificate_request, name=name, random=SeededRandom("serial"), now=NOW
    )
    return x509.load_pem_x509_certificate(pem)


def refused(code: str, request: Enrolment) -> OnlysumError:
    with pytest.raises(PeerError) as caught:
        ca.check_enrolment(request, federation=FEDERATION)
    assert caught.value.code == code
    assert caught.value.participant == request.name
    return caught.value


# --- certificates ---


def test_a_members_certificate_bears_one_name_and_is_a_clients_only(
    authority: Authority, request_of_alice: Enrolment
) -> None:
    found = issued(authority, request_of_alice)
    extensions = found.extensions
    assert list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [x509.DNSName("alice")]
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert purposes.critical
    assert list(purposes.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.ca_certificate))


def test_a_members_certificate_is_valid_now_and_for_three_months(
    authority: Authority, request_of_alice: Enrolment
) -> None:
    found = issued(authority, request_of_alice)
    assert found.not_valid_before_utc.timestamp() < NOW
    assert (found.not_valid_after_utc.timestamp() - NOW) / 86_400 == MEMBER_DAYS == 90


def test_a_requests_own_wishes_are_not_granted(authority: Authority) -> None:
    key = credentials.new_tls_key(SeededRandom(1))
    wish = x509.SubjectAlternativeName([x509.DNSName("coordinator.example")])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator.example")]))
        .add_extension(wish, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
        .public_bytes(Encoding.DER)
    )
    pem = ca.issue_member(authority, request=request, name="alice", random=SeededRandom(2), now=NOW)
    found = x509.load_pem_x509_certificate(pem)
    assert found.subject.rfc4514_string() == "CN=alice"
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("alice")]


def test_the_servers_certificate_names_its_hosts_and_addresses(authority: Authority) -> None:
    found = x509.load_pem_x509_certificate(authority.server_certificate)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [
        x509.DNSName("coordinator.example"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
    ]
    assert list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]


def test_the_servers_certificate_is_renewed_for_the_same_key(authority: Authority) -> None:
    later = time.time() + 86_400 * 1000
    pem = ca.renew_server(authority, hosts=["new.example"], random=SeededRandom("renewed"), now=later)
    before = x509.load_pem_x509_certificate(authority.server_certificate)
    after = x509.load_pem_x509_certificate(pem)
    assert after.public_key() == before.public_key()
    assert expires_at(pem) > expires_at(authority.server_certificate)


def test_a_long_federation_name_still_makes_an_authority() -> None:
    ca.create_authority(federation="f" * 63, hosts=["h" * 63 + ".example"], random=SeededRandom(1), now=NOW)


def test_the_same_randomness_makes_the_same_keys_and_other_randomness_others() -> None:
    assert new_authority("a").server_key.reveal() == new_authority("a").server_key.reveal()
    assert new_authority("a").operator.public != new_authority("b").operator.public


# --- files ---


def test_an_authority_survives_its_files(authority: Authority, tmp_path: Path) -> None:
    ca.save_authority(tmp_path / "authority", authority)
    found = ca.load_authority(tmp_path / "authority")
    assert found.operator.public == authority.operator.public
    assert found.fingerprint == authority.fingerprint
    assert found.ca_key.reveal() == authority.ca_key.reveal()
    assert found.server_certificate == authority.server_certificate


def test_an_authority_is_never_overwritten(authority: Authority, tmp_path: Path) -> None:
    ca.save_authority(tmp_path / "authority", authority)
    with pytest.raises(LocalError) as caught:
        ca.save_authority(tmp_path / "authority", new_authority("another"))
    assert caught.value.code == "E-EXISTS"
    assert ca.load_authority(tmp_path / "authority").fingerprint == authority.fingerprint


def test_an_authority_whose_certificate_is_anothers_is_damaged(authority: Authority, tmp_path: Path) -> None:
    mixed = replace(authority, server_certificate=new_authority("another").server_certificate)
    ca.save_authority(tmp_path / "authority", mixed)
    with pytest.raises(VerificationError) as caught:
        ca.load_authority(tmp_path / "authority")
    assert caught.value.code == "E-STATE-DAMAGED"


def test_no_private_key_shows_in_a_repr(authority: Authority) -> None:
    assert "PRIVATE" not in repr(authority)
    assert authority.operator_key.reveal().hex() not in repr(authority)


# --- enrolment ---


def test_an_honest_enrolment_passes(request_of_alice: Enrolment) -> None:
    ca.check_enrolment(request_of_alice, federation=FEDERATION)


@pytest.mark.parametrize("change", ["name", "token_id", "federation", "tls key", "identity key"])
def test_an_identity_signature_over_something_else_is_refused(
    authority: Authority, request_of_alice: Enrolment, change: str
) -> None:
    other = identity.enrolment_request(invited(authority), identity.new_keys(SeededRandom("other")))
    changed = {
        "name": replace(request_of_alice, name="bob"),
        "token_id": replace(request_of_alice, token_id="00" * 16),
        "tls key": replace(request_of_alice, certificate_request=other.certificate_request),
        "identity key": replace(request_of_alice, identity_key=other.identity_key),
    }
    if change == "federation":
        with pytest.raises(PeerError) as caught:
            ca.check_enrolment(request_of_alice, federation="another-federation")
        assert caught.value.code == "E-IDENTITY-MISMATCH"
    else:
        refused("E-IDENTITY-MISMATCH", changed[change])


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_a_small_order_identity_key_is_refused(request_of_alice: Enrolment, key: bytes) -> None:
    refused("E-IDENTITY-KEY", replace(request_of_alice, identity_key=key))


def test_a_request_that_its_key_did_not_sign_is_refused(request_of_alice: Enrolment) -> None:
    damaged = bytearray(request_of_alice.certificate_request)
    damaged[-1] ^= 1
    refused("E-WIRE-MALFORMED", replace(request_of_alice, certificate_request=bytes(damaged)))


def test_a_request_that_is_none_is_refused(request_of_alice: Enrolment) -> None:
    refused("E-WIRE-MALFORMED", replace(request_of_alice, certificate_request=b"no request"))


def test_a_key_of_another_curve_is_refused(request_of_alice: Enrolment) -> None:
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(ec.derive_private_key(7, ec.SECP384R1()), SHA256())
        .public_bytes(Encoding.DER)
    )
    error = refused("E-WIRE-MALFORMED", replace(request_of_alice, certificate_request=request))
    assert "P-256" in error.detail


DAY = 86_400
RENEWED: dict[str, tuple[Callable[[float], float], str, bool]] = {
    "it holds and names the hosts": (lambda now: now, "old.example", False),
    "it has expired": (lambda now: now - 1827 * DAY, "old.example", True),
    "it expires in a month": (lambda now: now - 1796 * DAY, "old.example", True),
    "it begins tomorrow": (lambda now: now + DAY, "old.example", True),
    "the coordinator was renamed": (lambda now: now, "new.example", True),
}


@pytest.mark.parametrize("sentence", RENEWED)
def test_a_start_renews_the_server_certificate_and_only_where_members_would_not_accept_it(
    tmp_path: Path, sentence: str
) -> None:
    made_at, host, renewed = RENEWED[sentence]
    now = time.time()
    authority = new_authority(hosts=("old.example",), now=now - 2000 * DAY)
    old = ca.renew_server(authority, hosts=["old.example"], random=SeededRandom("old"), now=made_at(now))
    authority = replace(authority, server_certificate=old)
    home = Home(tmp_path)
    ca.save_authority(home.authority, authority)
    text = settings_template(federation="f", operator="o", also=[], participants=f"{host}:1", enrolment=f"{host}:2")
    begun = with_valid_server(home, parse_settings(text), authority, SeededRandom("new"), now)
    assert (begun.server_certificate != old) is renewed
    assert ca.load_authority(home.authority).server_certificate == begun.server_certificate
    assert ca.covers(begun.server_certificate, host)
    assert invalid_now(begun.server_certificate, now) == ""
    assert begun.ca_certificate == authority.ca_certificate


@pytest.mark.parametrize("apart", [-DAY, 3654 * DAY], ids=["the clock is behind", "the authority has expired"])
def test_a_coordinator_whose_authority_is_not_valid_now_does_not_start(tmp_path: Path, apart: int) -> None:
    authority = new_authority(hosts=("h",))
    text = settings_template(federation="f", operator="o", also=[], participants="h:1", enrolment="h:2")
    with pytest.raises(LocalError, match=r"E-CERTIFICATE: the authority's certificate .*this machine's clock says"):
        with_valid_server(Home(tmp_path), parse_settings(text), authority, SeededRandom("new"), time.time() + apart)
