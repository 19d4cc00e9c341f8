"""Certificates, authorities and addresses change while daemons are connected, over gRPC with mutual TLS."""

from __future__ import annotations

import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coordinator.daemon.quotas import RENEWALS
from coordinator.database import member_rows
from coordinator.enrolment import renewals
from coordinator.enrolment.authority import issue_member
from coordinator.enrolment.succession import succeed
from coordinator.leadership.led_runs import TICK_SECONDS
from host import credentials
from host.certificates import expires_at, renewal_due
from host.locks import only_daemon
from host.system import SystemClock, SystemRandom
from participant.daemon import poller
from participant.daemon.doctor import first_words
from participant.daemon.renewing import renew_by_invitation, renew_over_connection
from participant.link.channel import Channel
from participant.link.identity import TLS_CERTIFICATE, Identity, OwnKeys, certificate_request, load_identity
from participant.link.renewal import accept_renewal, renewal_request
from participant.opened import open_home
from privacy.draft import Recipe
from privacy.errors import NetworkError, OnlysumError
from privacy.secret import SecretBytes
from protos.envelope import Hello, Role
from protos.renewal import RenewalRequest, renewal_bytes
from tests.worlds.daemons import HOST, Member, Service, enrol, until
from tests.worlds.plans import make_plan

DAY = 86_400


@pytest.fixture
def recipe() -> Recipe:
    return make_plan()[0].recipe


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "coordinator")
    yield running
    running.stop()


@pytest.fixture
def alice(tmp_path: Path, service: Service, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Iterator[Member]:
    monkeypatch.setattr(poller, "LISTING_SECONDS", 0.3)
    monkeypatch.setattr(poller, "POLL_SECONDS", 0.1)
    member = enrol(service, tmp_path / "alice", "alice", Role.PARTICIPANT, recipe)
    yield member
    if member.thread is not None:
        member.end()


def identity_of(member: Member) -> Identity:
    return load_identity(member.directory / "identity")


def aged(service: Service, member: Member, days: int) -> None:
    """Let a member have a certificate that is so many days old, as if it had enrolled then."""
    identity, now = identity_of(member), time.time() - days * DAY
    request = certificate_request(identity.name, identity.keys.tls)
    issuer = service.runner.authority.current
    old = issue_member(issuer, request=request, name=identity.name, random=SystemRandom(), now=now)
    (member.directory / "identity" / TLS_CERTIFICATE).write_bytes(old)
    with service.store.begin() as connection:
        member_rows.keep_renewed(connection, identity.name, old, int(now), "made for a test")
        assert member_rows.use_renewed(connection, identity.name, old, int(now))
    time.sleep(2 * TICK_SECONDS)  # the daemon looks for changes


def enrolled(service: Service) -> tuple[bytes, bytes | None]:
    """Return the certificate that counts, and the one that is to replace it."""
    with service.store.read() as connection:
        found = member_rows.active_member(connection, "alice")
    return found.certificate, found.renewed


def hello(member: Member) -> Hello:
    return first_words(open_home(member.directory))


def refused(identity: Identity, words: Hello) -> OnlysumError:
    with Channel(identity) as channel, pytest.raises(OnlysumError) as caught:
        channel.handshake(words)
    return caught.value


def test_a_daemon_renews_its_certificate_and_goes_over_to_it_without_a_restart(
    service: Service, alice: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "OVERLAP_SECONDS", 0.0)
    aged(service, alice, 61)
    old, words = identity_of(alice), hello(alice)
    assert renewal_due(old.certificate) < time.time()
    alice.start()
    until(lambda: identity_of(alice).certificate != old.certificate, "the certificate is renewed")
    new = identity_of(alice)
    assert expires_at(new.certificate) > time.time() + 89 * DAY
    assert new.keys.tls.reveal() != old.keys.tls.reveal()
    assert new.signing.public == old.signing.public
    until(lambda: service.runner.liveness.live("alice"), "the daemon polls over the new connection")
    assert enrolled(service) == (new.certificate, None)
    error = refused(old, words)
    assert (error.code, "invite NAME --again" in error.detail) == ("E-MEMBER-REVOKED", True)
    with Channel(new) as channel:
        assert channel.handshake(words)


def test_a_running_daemon_follows_a_new_authority_and_forgets_the_old_one_when_that_ends(
    service: Service, alice: Member
) -> None:
    old, keeper = identity_of(alice), service.runner.authority
    alice.start()
    until(lambda: service.runner.liveness.live("alice"), "the daemon polls")
    after = succeed(
        keeper.current,
        federation="test-federation",
        hosts=[HOST],
        overlap_days=30,
        random=SystemRandom(),
        now=time.time(),
    )
    keeper.current = after
    with Channel(old) as channel:
        assert channel.handshake(hello(alice)), "who pinned the old authority accepts what the new one certified"
    until(lambda: identity_of(alice).certificate != old.certificate, "the daemon follows")
    new = identity_of(alice)
    assert new.authority == after.ca_certificate
    assert new.roots(time.time()) == after.ca_certificate + old.authority
    assert new.roots(time.time() + 31 * DAY) == after.ca_certificate
    assert new.followed == (old.authority_sha256,)
    assert new.origin_der == old.authority_der
    until(lambda: enrolled(service) == (new.certificate, None), "it is in use")
    keeper.current = replace(after, handover=None)  # the overlap is over
    with Channel(replace(new, before=())) as channel:
        assert channel.handshake(hello(alice))
    late = refused(old, hello(alice))
    assert late.code == "E-NET-TLS"


# --- by command ---


def test_a_command_renews_at_once_where_no_daemon_runs(service: Service, alice: Member) -> None:
    old = identity_of(alice)
    renew_over_connection(open_home(alice.directory), clock=SystemClock(), random=SystemRandom())
    new = identity_of(alice)
    assert new.certificate != old.certificate
    assert enrolled(service) == (new.certificate, None)
    alice.start()
    until(lambda: service.runner.liveness.live("alice"), "the daemon polls with it")


def test_a_command_leaves_a_running_daemon_alone(service: Service, alice: Member) -> None:
    with only_daemon(alice.directory, "participant"):
        line, opened = service.invite("alice", Role.PARTICIPANT), open_home(alice.directory)
        for renewing in (
            partial(renew_over_connection, opened, clock=SystemClock(), random=SystemRandom()),
            partial(renew_by_invitation, line, alice.directory, random=SystemRandom()),
        ):
            assert refusal(renewing).code == "E-RUNNING"


def test_a_member_whose_certificate_has_ended_comes_back_with_an_invitation_for_the_same_identity(
    service: Service, alice: Member
) -> None:
    aged(service, alice, 91)
    old = identity_of(alice)
    error = refused(old, hello(alice))
    assert (error.code, "certificate expired at" in error.detail) == ("E-NET-TLS", True)
    line = service.invite("alice", Role.PARTICIPANT)
    new = renew_by_invitation(line, alice.directory, random=SystemRandom())
    assert (identity_of(alice).certificate, new.signing.public) == (new.certificate, old.signing.public)
    with Channel(identity_of(alice)) as channel:
        assert channel.handshake(hello(alice))
    assert refusal(lambda: renew_by_invitation(line, alice.directory, random=SystemRandom())).code == "E-TOKEN-USED"
    kinds = [row.kind for row in security(service)]
    assert "enrolled-again" in kinds
    assert "revoked" not in kinds


def test_malicious_invitation_of_another_name_or_operator_changes_nothing(
    tmp_path: Path, service: Service, alice: Member
) -> None:
    before = identity_of(alice)
    other = Service(tmp_path / "another")
    try:
        lines = service.invite("bob", Role.PARTICIPANT), other.invite("alice", Role.PARTICIPANT)
        for line in lines:
            renewing = partial(renew_by_invitation, line, alice.directory, random=SystemRandom())
            assert refusal(renewing).code == "E-IDENTITY-MISMATCH"
    finally:
        other.stop()
    assert identity_of(alice).certificate == before.certificate


# --- attacks ---


def test_malicious_thousand_requests_get_four_certificates_and_the_operator_hears_of_it(
    service: Service, alice: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.daemon.service.BUSY_SECONDS", 0.0)
    identity, answers = identity_of(alice), Counter[str]()
    with Channel(identity) as channel:
        for _ in range(1000):
            tls = credentials.tls_key_pem(credentials.new_tls_key(SystemRandom()))
            try:
                channel.renew(renewal_request(identity, tls))
                answers["issued"] += 1
            except NetworkError as error:
                answers[error.code] += 1
        assert channel.handshake(hello(alice)), "the present certificate counts until another one is used"
    assert answers == {"issued": RENEWALS, "E-NET-BUSY": 1000 - RENEWALS}
    assert [row.kind for row in security(service)].count("certificate-issued") == RENEWALS
    until(lambda: "over-quota" in [row.kind for row in security(service)], "the operator hears of it")


def security(service: Service) -> tuple[member_rows.SecurityRow, ...]:
    with service.store.read() as connection:
        return member_rows.security_log(connection)


def test_a_request_that_is_repeated_gives_the_same_certificate_until_that_is_used(
    service: Service, alice: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "OVERLAP_SECONDS", 0.0)
    old = identity_of(alice)
    tls = credentials.tls_key_pem(credentials.new_tls_key(SystemRandom()))
    request = renewal_request(old, tls)
    with Channel(old) as channel:
        first, second = channel.renew(request), channel.renew(request)
        assert first == second
        new = accept_renewal(old, tls, first, now=time.time())
        with Channel(new) as trial:
            assert trial.handshake(hello(alice))
            replayed = refusal(lambda: trial.renew(request))
        assert (replayed.code, "did not sign" in replayed.detail) == ("E-IDENTITY-MISMATCH", True)
        assert refusal(lambda: channel.renew(request)).code == "E-MEMBER-REVOKED"
    assert enrolled(service) == (new.certificate, None)


def refusal(call: Callable[[], object]) -> OnlysumError:
    with pytest.raises(OnlysumError) as caught:
        call()
    return caught.value


def forged(identity: Identity, **changes: Any) -> RenewalRequest:
    """Return a request for a new key that the identity key vouches for in other words than it should."""
    tls = credentials.tls_key_pem(credentials.new_tls_key(SystemRandom()))
    fields = {
        "federation": identity.federation,
        "name": identity.name,
        "present": ssl.PEM_cert_to_DER_cert(identity.certificate.decode()),
        "tls_key": credentials.spki(credentials.load_tls_key(tls).public_key()),
        **changes,
    }
    return RenewalRequest(certificate_request(identity.name, tls), identity.signing.sign(renewal_bytes(**fields)))


@pytest.mark.parametrize(
    "changes",
    [{"name": "bob"}, {"federation": "another"}, {"present": b"an older one"}, {"tls_key": b"another key"}],
    ids=lambda changes: next(iter(changes)),
)
def test_malicious_request_that_the_identity_key_did_not_sign_for_this_gets_nothing(
    service: Service, alice: Member, changes: dict[str, Any]
) -> None:
    identity = identity_of(alice)
    with Channel(identity) as channel:
        assert refusal(lambda: channel.renew(forged(identity, **changes))).code == "E-IDENTITY-MISMATCH"
        assert channel.renew(forged(identity))
    assert "renewal-refused" in [row.kind for row in security(service)]


def test_malicious_thief_of_a_tls_key_renews_nothing_and_a_renewal_keeps_no_key(
    service: Service, alice: Member
) -> None:
    identity = identity_of(alice)
    thief = replace(identity, keys=OwnKeys(SecretBytes(b"x" * 32), identity.keys.tls))
    with Channel(thief) as channel:
        tls = credentials.tls_key_pem(credentials.new_tls_key(SystemRandom()))
        assert refusal(lambda: channel.renew(renewal_request(thief, tls))).code == "E-IDENTITY-MISMATCH"
        same = refusal(lambda: channel.renew(renewal_request(identity, identity.keys.tls)))
        assert (same.code, "a new TLS key" in same.detail) == ("E-WIRE-MALFORMED", True)


def test_a_revoked_member_gets_nothing_not_even_with_a_certificate_that_is_on_its_way(
    service: Service, alice: Member
) -> None:
    identity = identity_of(alice)
    tls = credentials.tls_key_pem(credentials.new_tls_key(SystemRandom()))
    with Channel(identity) as channel:
        new = accept_renewal(identity, tls, channel.renew(renewal_request(identity, tls)), now=time.time())
        with service.store.begin() as connection:
            member_rows.revoke_member(connection, "alice", int(time.time()))
        time.sleep(2 * TICK_SECONDS)
        assert refusal(lambda: channel.renew(renewal_request(identity, tls))).code == "E-MEMBER-REVOKED"
    assert refused(new, hello(alice)).code == "E-MEMBER-REVOKED"


def test_malicious_request_of_another_members_name_certifies_the_callers_own(service: Service, alice: Member) -> None:
    identity = identity_of(alice)
    tls = credentials.tls_key_pem(credentials.new_tls_key(SystemRandom()))
    request = replace(renewal_request(identity, tls), certificate_request=certificate_request("bob", tls))
    with Channel(identity) as channel:
        issued = channel.renew(request)
    assert accept_renewal(identity, tls, issued, now=time.time()), "its name is the caller's, not the request's"
