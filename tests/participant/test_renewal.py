"""What a member believes of a new certificate, authority or address, and what a crash leaves of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from coordinator.enrolment.authority import Authority, create_authority, issue_member
from coordinator.enrolment.succession import succeed
from host import credentials
from host.certificates import renewal_due
from participant.link import renewal
from participant.link.identity import NEXT_CERTIFICATE, NEXT_KEY, Identity, certificate_request, load_identity
from participant.link.upkeep import RETRY_SECONDS, Upkeep
from privacy.errors import NetworkError, OnlysumError, PeerError, Phase
from privacy.secagg.keys import SigningKey
from privacy.secret import SecretBytes
from protos.envelope import Hello, LedgerHead, Role, Welcome
from protos.renewal import AddressNotice, Renewal, RenewalRequest, Succession, addresses_bytes
from tests.worlds.enrolled import enrol
from tests.worlds.federation import VirtualClock
from tests.worlds.seeded import SeededRandom

FEDERATION = "test-federation"
BEGUN = 1_800_000_000.0
DAY = 86_400
HELLO = Hello(2, "0.1.0", "alice", Role.PARTICIPANT, LedgerHead(0, b""), ())


def authority(seed: str = "authority") -> Authority:
    return create_authority(federation=FEDERATION, hosts=["127.0.0.1"], random=SeededRandom(seed), now=BEGUN)


def after(before: Authority, seed: str = "the next", *, now: float = BEGUN) -> Authority:
    return succeed(
        before, federation=FEDERATION, hosts=["127.0.0.1"], overlap_days=30, random=SeededRandom(seed), now=now
    )


@dataclass
class Coordinator:
    """Issues what it is asked for, and refuses what it was told to refuse."""

    authority: Authority
    clock: VirtualClock
    used: list[Identity] = field(default_factory=list)
    greeted: list[Identity] = field(default_factory=list)
    requests: list[RenewalRequest] = field(default_factory=list)
    refusal: OnlysumError | None = None
    answer_lost: bool = False
    change: Callable[[Renewal], Renewal] = lambda answer: answer

    def use(self, identity: Identity) -> None:
        self.used.append(identity)

    def renew(self, request: RenewalRequest) -> Renewal:
        self.requests.append(request)
        certificate = issue_member(
            self.authority,
            request=request.certificate_request,
            name="alice",
            random=SeededRandom(len(self.requests)),
            now=self.clock.now(),
        )
        handover = self.authority.overlapping(self.clock.now())
        told = Succession(handover.named, handover.operator_signature) if handover else None
        if self.answer_lost:
            raise NetworkError("E-NET-LOST", "the answer was lost")
        return self.change(Renewal(certificate, self.authority.ca_certificate, told))

    def greet(self, identity: Identity, hello: Hello) -> Welcome:
        self.greeted.append(identity)
        if self.refusal is not None:
            raise self.refusal
        return Welcome(2, "0.1.0", FEDERATION, LedgerHead(0, b""), (), ())


@dataclass
class Alice:
    """A member's directory and its upkeep."""

    directory: Path
    coordinator: Coordinator
    welcome: Welcome = field(default_factory=lambda: Welcome(2, "0.1.0", FEDERATION, LedgerHead(0, b""), (), ()))

    def upkeep(self) -> Upkeep:
        return Upkeep(
            self.directory,
            load_identity(self.directory),
            self.coordinator,
            greet=self.coordinator.greet,
            clock=self.coordinator.clock,
            random=SeededRandom(f"keys {len(self.coordinator.requests)}"),
        )

    @property
    def identity(self) -> Identity:
        return load_identity(self.directory)


@pytest.fixture
def alice(tmp_path: Path) -> Alice:
    made, clock = authority(), VirtualClock()
    clock.seconds = BEGUN
    home = enrol(tmp_path / "alice", made, now=BEGUN)
    return Alice(home.identity, Coordinator(made, clock))


def in_sixty_days(alice: Alice) -> None:
    alice.coordinator.clock.seconds = float(renewal_due(alice.identity.certificate))


# --- when, and what if it fails ---


def test_nothing_is_asked_for_before_two_thirds_of_the_time_have_passed(alice: Alice) -> None:
    upkeep = alice.upkeep()
    alice.coordinator.clock.seconds = float(renewal_due(alice.identity.certificate)) - 1
    upkeep.after_handshake(HELLO, alice.welcome)
    assert alice.coordinator.requests == []
    alice.coordinator.clock.seconds += 1
    upkeep.after_handshake(HELLO, alice.welcome)
    assert len(alice.coordinator.requests) == 1
    assert alice.coordinator.used == [upkeep.identity]
    assert upkeep.identity.certificate == alice.identity.certificate


def test_a_lost_answer_is_asked_for_again_with_the_same_key_after_a_while(alice: Alice) -> None:
    upkeep, coordinator, old = alice.upkeep(), alice.coordinator, alice.identity
    in_sixty_days(alice)
    coordinator.answer_lost = True
    with capture_logs() as logs:
        upkeep.after_handshake(HELLO, alice.welcome)
        upkeep.after_handshake(HELLO, alice.welcome)
    assert [line["event"] for line in logs] == ["not renewed"]
    assert (len(coordinator.requests), alice.identity.certificate) == (1, old.certificate)
    coordinator.answer_lost = False
    coordinator.clock.seconds += RETRY_SECONDS
    upkeep.after_handshake(HELLO, alice.welcome)
    first, second = (x509.load_der_x509_csr(asked.certificate_request) for asked in coordinator.requests)
    assert first.public_key() == second.public_key()
    assert alice.identity.certificate != old.certificate


@pytest.mark.parametrize("code", ["E-MEMBER-UNKNOWN", "E-MEMBER-REVOKED"])
def test_a_new_certificate_that_the_coordinator_does_not_take_is_dropped_and_the_present_one_stays(
    alice: Alice, code: str
) -> None:
    upkeep, old = alice.upkeep(), alice.identity
    in_sixty_days(alice)
    alice.coordinator.refusal = PeerError.by_participant("alice", code, Phase.WIRE, "")
    upkeep.after_handshake(HELLO, alice.welcome)
    assert (alice.identity.certificate, alice.coordinator.used) == (old.certificate, [])
    assert not (alice.directory / NEXT_CERTIFICATE).exists()
    assert not (alice.directory / NEXT_KEY).exists()


def test_a_new_certificate_outlives_a_failure_of_tls_on_the_way_since_it_may_have_been_taken_into_use(
    alice: Alice,
) -> None:
    upkeep, old = alice.upkeep(), alice.identity
    in_sixty_days(alice)
    alice.coordinator.refusal = NetworkError("E-NET-TLS", "somebody else's certificate was shown")
    upkeep.after_handshake(HELLO, alice.welcome)
    assert alice.identity.certificate == old.certificate
    assert (alice.directory / NEXT_CERTIFICATE).exists()
    assert (alice.directory / NEXT_KEY).exists()
    alice.coordinator.refusal = None
    upkeep.before_handshake(HELLO)
    assert alice.identity.certificate == alice.coordinator.greeted[1].certificate != old.certificate


def test_a_new_certificate_whose_trial_is_cut_is_tried_again_at_the_next_start_before_the_present_one(
    alice: Alice,
) -> None:
    upkeep, old = alice.upkeep(), alice.identity
    in_sixty_days(alice)
    alice.coordinator.refusal = NetworkError("E-NET-LOST", "cut")
    upkeep.after_handshake(HELLO, alice.welcome)
    assert alice.identity.certificate == old.certificate
    alice.coordinator.refusal = None
    again = alice.upkeep()
    again.before_handshake(HELLO)
    assert alice.coordinator.greeted[0].certificate == alice.coordinator.greeted[1].certificate
    assert alice.identity.certificate == alice.coordinator.greeted[1].certificate != old.certificate
    assert len(alice.coordinator.requests) == 1


def test_a_crash_between_the_two_renames_leaves_a_pair_that_belongs_together(alice: Alice) -> None:
    in_sixty_days(alice)
    alice.coordinator.refusal = NetworkError("E-NET-LOST", "cut")
    alice.upkeep().after_handshake(HELLO, alice.welcome)
    (alice.directory / NEXT_KEY).replace(alice.directory / "tls.key")  # and here it was killed
    new = alice.coordinator.greeted[0]
    assert alice.identity.certificate == new.certificate
    assert alice.identity.keys.tls.reveal() == new.keys.tls.reveal()
    alice.upkeep()
    assert not (alice.directory / NEXT_CERTIFICATE).exists()
    assert alice.identity.certificate == new.certificate


# --- what is not believed ---


BAD_ANSWERS: dict[str, Callable[[Alice, Renewal], Renewal]] = {
    "another name": lambda alice, answer: replace(answer, certificate=_issued(alice, name="bob")),
    "another key": lambda alice, answer: replace(answer, certificate=_issued(alice, key="another")),
    "not yet valid": lambda alice, answer: replace(answer, certificate=_issued(alice, apart=30 * DAY)),
    "no certificate": lambda alice, answer: replace(answer, certificate=b"nothing"),
    "another authority": lambda alice, answer: replace(answer, authority=authority("mallory").ca_certificate),
    "no authority": lambda alice, answer: replace(answer, authority=b"nothing"),
}


def _issued(alice: Alice, *, name: str = "alice", key: str = "", apart: int = 0) -> bytes:
    tls = renewal.next_key(alice.directory, SeededRandom("unused"))
    if key:
        tls = credentials.tls_key_pem(credentials.new_tls_key(SeededRandom(key)))
    request, now = certificate_request(name, tls), alice.coordinator.clock.now() + apart
    return issue_member(alice.coordinator.authority, request=request, name=name, random=SeededRandom(1), now=now)


@pytest.mark.parametrize("lie", sorted(BAD_ANSWERS))
def test_malicious_answer_changes_nothing_when_it_has(alice: Alice, lie: str) -> None:
    upkeep, old = alice.upkeep(), alice.identity
    in_sixty_days(alice)
    alice.coordinator.change = lambda answer: BAD_ANSWERS[lie](alice, answer)
    with capture_logs() as logs:
        upkeep.after_handshake(HELLO, alice.welcome)
    assert [line["code"] for line in logs] == ["E-IDENTITY-MISMATCH"]
    assert (alice.identity.certificate, alice.coordinator.greeted) == (old.certificate, [])


def told(made: Authority) -> Succession:
    assert made.handover is not None
    return Succession(made.handover.named, made.handover.operator_signature)


def test_a_successor_is_followed_if_the_trusted_authority_names_it_and_the_operator_says_so(alice: Alice) -> None:
    made = after(alice.coordinator.authority)
    new = renewal.follow(alice.identity, made.ca_certificate, told(made), now=BEGUN)
    assert new.authority == made.ca_certificate
    assert new.roots(BEGUN + 30 * DAY - 1) == made.ca_certificate + alice.identity.authority
    assert new.roots(BEGUN + 30 * DAY) == made.ca_certificate


def test_malicious_successor_statement_is_refused_when_it_is_forged(alice: Alice) -> None:
    before, identity = alice.coordinator.authority, alice.identity
    made, other, mallory = after(before), after(before, "a second one"), authority("mallory")
    stolen_key = replace(before, operator_key=SecretBytes(b"m" * 32))  # the authority's key without the operator's
    self_named = after(replace(mallory, operator_key=before.operator_key))  # and the operator's without the authority's
    lies = {
        "the operator's key did not sign it": (after(stolen_key).ca_certificate, told(after(stolen_key))),
        "another authority named it": (self_named.ca_certificate, told(self_named)),
        "it names another one": (other.ca_certificate, told(made)),
        "its signature is of another": (made.ca_certificate, replace(told(made), operator_signature=b"s" * 64)),
        "it parses not": (made.ca_certificate, replace(told(made), certificate=b"nothing")),
        "a member's certificate": (identity.certificate, told(made)),
    }
    for lie, (certificate, succession) in lies.items():
        with pytest.raises(PeerError) as caught:
            renewal.follow(identity, certificate, succession, now=BEGUN)
        assert caught.value.code == "E-IDENTITY-MISMATCH", lie
    with pytest.raises(PeerError, match="expired"):
        renewal.follow(identity, made.ca_certificate, told(made), now=BEGUN + 31 * DAY)


def notice(*addresses: str, said_at: int, key: SigningKey, federation: str = FEDERATION) -> AddressNotice:
    signed = addresses_bytes(federation=federation, said_at=said_at, addresses=addresses)
    return AddressNotice(addresses, said_at, key.sign(signed))


def test_malicious_notice_of_addresses_is_refused_and_an_older_one_is_not_news(alice: Alice) -> None:
    operator, identity = alice.coordinator.authority.operator, alice.identity
    good = notice("sum.example.org:1", said_at=7, key=operator)
    moved = renewal.accept_notice(identity, good)
    assert moved is not None
    assert (moved.addresses, moved.said_at) == (("sum.example.org:1",), 7)
    for lie in (
        notice("evil.example.org:1", said_at=8, key=SigningKey(SecretBytes(b"m" * 32))),
        replace(good, addresses=("evil.example.org:1",), said_at=8),
        replace(good, said_at=8),
        notice("sum.example.org:1", said_at=8, key=operator, federation="another"),
    ):
        with pytest.raises(PeerError, match="the operator did not say these addresses"):
            renewal.accept_notice(moved, lie)
    assert renewal.accept_notice(moved, notice("old.example.org:1", said_at=6, key=operator)) is None
    assert renewal.accept_notice(moved, good) is None


def test_a_notice_is_kept_on_disk_and_used_for_the_next_connection(alice: Alice) -> None:
    said = notice("sum.example.org:1", "127.0.0.1:9", said_at=7, key=alice.coordinator.authority.operator)
    upkeep = alice.upkeep()
    for _ in range(2):
        upkeep.after_handshake(HELLO, replace(alice.welcome, addresses=said))
    assert alice.identity.addresses == said.addresses
    assert [identity.addresses for identity in alice.coordinator.used] == [said.addresses]
