"""The coordinator's certificate, authority and address change by command, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.config import Settings, load_settings, parse_settings, settings_template
from coordinator.enrolment import authority as ca
from coordinator.enrolment import renewal
from coordinator.enrolment.create import create_coordinator
from coordinator.enrolment.notices import move, read_notice, tell_of_replicas
from coordinator.enrolment.succession import succeed
from coordinator.home import Home
from host.certificates import expires_at
from privacy.errors import LocalError
from privacy.secagg import keys
from protos.renewal import addresses_bytes, succession_bytes
from tests.worlds.federation import VirtualClock
from tests.worlds.seeded import SeededRandom

NOW = 1_800_000_000.0
DAY = 86_400


@pytest.fixture
def home(tmp_path: Path) -> Home:
    text = settings_template(
        federation="clinics",
        operator="Institute",
        also=[],
        participants="sum.example.org:8443",
        enrolment="sum.example.org:8444",
    )
    made = Home(tmp_path / "clinic")
    create_coordinator(made, text, now=int(NOW), random=SeededRandom("clinic"))
    return made


def rotated(home: Home, *, now: float = NOW, days: int = 90, seed: str = "next") -> ca.Authority:
    return renewal.rotate(home, load_settings(home), SeededRandom(seed), now, overlap_days=days)


def keeper(home: Home, clock: VirtualClock) -> renewal.AuthorityKeeper:
    made = ca.load_authority(home.authority)
    return renewal.AuthorityKeeper(home, load_settings(home), made, clock=clock, random=SeededRandom("keeper"))


# --- the authority ---


def test_an_authority_is_followed_by_another_that_it_names_until_the_overlap_ends(home: Home) -> None:
    before, after = ca.load_authority(home.authority), rotated(home)
    assert ca.load_authority(home.authority).fingerprint == after.fingerprint != before.fingerprint
    assert after.operator.public == before.operator.public
    assert after.handover is not None
    assert after.handover.ends == int(NOW) + 90 * DAY
    for now, still in ((NOW, True), (NOW + 90 * DAY - 1, True), (NOW + 90 * DAY, False)):
        assert (before.ca_certificate in after.trusted(now)) is still
        assert (after.handover.named in after.chain(now)) is still
    named = x509.load_pem_x509_certificate(after.handover.named)
    named.verify_directly_issued_by(x509.load_pem_x509_certificate(before.ca_certificate))
    signed = succession_bytes(
        federation="clinics", before=before.ca_der, named=named.public_bytes(Encoding.DER), after=after.ca_der
    )
    assert keys.verify(before.operator.public, after.handover.operator_signature, signed)
    on_disk = b"".join(path.read_bytes() for path in home.authority.rglob("*") if path.is_file())
    assert before.ca_key.reveal() not in on_disk, "the key of the authority before is gone"
    assert before.server_key.reveal() not in on_disk


@pytest.mark.parametrize("moved", range(len(ca.REPLACED) + 1))
def test_a_rotation_that_a_crash_cut_off_is_finished_by_whoever_reads_the_keys(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    before = ca.load_authority(home.authority)
    monkeypatch.setattr(ca, "_finish_replacement", lambda directory: None)  # killed when all files were written
    after = rotated(home)
    monkeypatch.undo()
    for name in ca.REPLACED[:moved]:  # or after so many were moved
        (home.authority / ca.NEXT / name).replace(home.authority / name)
    found = ca.load_authority(home.authority)
    assert found.fingerprint == after.fingerprint != before.fingerprint
    assert found.handover == after.handover
    assert not (home.authority / ca.NEXT).exists()


def test_a_rotation_that_a_crash_cut_off_before_all_was_written_leaves_the_authority_as_it_was(home: Home) -> None:
    before, copy = ca.load_authority(home.authority), home.directory / "copy"
    shutil.copytree(home.authority, copy)
    after = succeed(
        before, federation="clinics", hosts=["sum.example.org"], overlap_days=9, random=SeededRandom(3), now=NOW
    )
    ca.replace_authority(copy, after)
    (home.authority / ca.NEXT).mkdir(mode=0o700)
    shutil.copy(copy / ca.CA_KEY, home.authority / ca.NEXT / ca.CA_KEY)
    assert ca.load_authority(home.authority).fingerprint == before.fingerprint
    assert rotated(home).fingerprint != before.fingerprint


def test_a_second_rotation_waits_for_the_end_of_the_first_overlap(home: Home) -> None:
    rotated(home)
    with pytest.raises(LocalError, match="members still follow from the authority before"):
        rotated(home, now=NOW + DAY, seed="third")
    assert rotated(home, now=NOW + 91 * DAY, seed="third").handover is not None


@pytest.mark.parametrize("days", [0, 731])
def test_an_overlap_has_bounds(home: Home, days: int) -> None:
    with pytest.raises(LocalError, match="an overlap has 1 to 730 days"):
        rotated(home, days=days)


def test_an_authority_that_has_ended_names_nobody(home: Home) -> None:
    with pytest.raises(LocalError, match="E-CERTIFICATE"):
        rotated(home, now=NOW + 3660 * DAY)


# --- the daemon takes up what a command has written ---


def test_a_running_daemon_takes_up_what_commands_renew_and_renews_by_itself_when_it_is_time(home: Home) -> None:
    clock = VirtualClock()
    clock.seconds = NOW
    running = keeper(home, clock)
    first = running.current.server_certificate
    running.look()
    assert running.current.server_certificate == first
    command = renewal.renew_now(home, load_settings(home), SeededRandom("command"), NOW)
    running.look()
    assert running.current.server_certificate == command.server_certificate != first
    after = rotated(home)
    running.look()
    assert running.current.fingerprint == after.fingerprint
    clock.seconds += 320 * DAY
    running.look()
    assert expires_at(running.current.server_certificate) == int(NOW) + (320 + 366) * DAY
    assert ca.load_authority(home.authority).server_certificate == running.current.server_certificate


def test_keys_that_cannot_be_read_leave_the_daemon_with_those_that_it_has(home: Home) -> None:
    clock = VirtualClock()
    clock.seconds = NOW
    running = keeper(home, clock)
    before = running.current
    (home.authority / ca.CA_CERTIFICATE).write_bytes(b"nothing")
    running.look()
    assert running.current == before


# --- the address ---


def test_another_address_is_written_where_the_old_one_was_and_nothing_else_changes(home: Home) -> None:
    before, operator = load_settings(home), ca.load_authority(home.authority).operator
    text = home.config.read_text()
    move(home, "new.example.org:9443", operator, now=int(NOW))
    found = load_settings(home)
    assert found.participants.addresses == ("new.example.org:9443", "sum.example.org:8443")
    assert found.participants.binds == ("0.0.0.0:9443", "0.0.0.0:8443")
    assert found.hosts == ("new.example.org", "sum.example.org")
    assert found.model_copy(update={"participants": before.participants}) == before
    changed = set(home.config.read_text().splitlines()) - set(text.splitlines())
    assert {line.split(" = ")[0] for line in changed} == {"address", "former"}
    notice = read_notice(home)
    assert notice is not None
    signed = addresses_bytes(federation="clinics", said_at=int(NOW), addresses=notice.addresses)
    assert keys.verify(operator.public, notice.signature, signed)
    move(home, "sum.example.org:8443", operator, now=int(NOW) - 5)  # back, and the clock too
    again = read_notice(home)
    assert again is not None
    assert (again.addresses, again.said_at) == (("sum.example.org:8443", "new.example.org:9443"), int(NOW) + 1)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("sum.example.org:8443", "members dial sum.example.org:8443 already"),
        ("0.0.0.0:1", "members cannot dial"),
        ("nothing", "an address is host:port"),
        ('a"\nb:1', "an address is host:port|E-CONFIG"),
    ],
)
def test_an_address_that_cannot_be_is_refused_and_nothing_changes(home: Home, address: str, words: str) -> None:
    text = home.config.read_text()
    with pytest.raises(LocalError, match=words):
        move(home, address, ca.load_authority(home.authority).operator, now=int(NOW))
    assert (home.config.read_text(), read_notice(home)) == (text, None)


def test_newcomers_have_no_former_addresses(home: Home) -> None:
    text = home.config.read_text().replace(
        'address = "sum.example.org:8444"', 'address = "sum.example.org:8444"\nformer = ["a:1"]'
    )
    with pytest.raises(LocalError, match="only participants have former addresses"):
        parse_settings(text)


@pytest.mark.parametrize("days", [6, 367])
def test_members_certificates_have_bounds(home: Home, days: int) -> None:
    with pytest.raises(LocalError, match=r"certificates\.member_days"):
        parse_settings(home.config.read_text().replace("# member_days = 90", f"member_days = {days}"))


def test_members_of_before_and_after_a_rotation_are_told_apart_by_the_authoritys_name(home: Home) -> None:
    before, after = ca.load_authority(home.authority), rotated(home)
    names = [x509.load_pem_x509_certificate(made.ca_certificate).subject for made in (before, after)]
    assert names[0] != names[1]
    assert json.loads((home.authority / ca.HANDOVER).read_bytes())["before"] == before.ca_certificate.decode()


# --- several coordinators ---


def with_others(home: Home, *addresses: str) -> Settings:
    """Let coordinator.toml name other coordinators."""
    listed = ", ".join(f'"{address}"' for address in addresses)
    others = f'directory = "/srv"\naddresses = [{listed}]\nenrolment_addresses = ["b.example.org:8444"]\n'
    text = home.config.read_text().partition("\n[replicas]\n")[0].replace("# database = ", "database = ")
    text = text.replace('"sqlite:///coordinator.db"', '"postgresql://db/clinics"')
    home.config.write_text(f"{text}\n[replicas]\n{others}")
    return load_settings(home)


def test_members_are_told_of_all_coordinators_once_and_again_when_these_change(home: Home) -> None:
    operator = ca.load_authority(home.authority).operator

    def told(settings: Settings, now: float) -> tuple[tuple[str, ...], int] | None:
        tell_of_replicas(home, settings, operator, now=int(now))
        notice = read_notice(home)
        if notice is None:
            return None
        signed = addresses_bytes(federation="clinics", said_at=notice.said_at, addresses=notice.addresses)
        assert keys.verify(operator.public, notice.signature, signed)
        return notice.addresses, notice.said_at - int(NOW)

    own = "sum.example.org:8443"
    assert told(load_settings(home), NOW) is None
    two = with_others(home, "b.example.org:8443")
    assert told(two, NOW) == ((own, "b.example.org:8443"), 0)
    assert told(two, NOW + DAY) == ((own, "b.example.org:8443"), 0)
    three = with_others(home, "b.example.org:8443", "c.example.org:8443")
    assert told(three, NOW) == ((own, "b.example.org:8443", "c.example.org:8443"), 1)  # newer although no time passed


def test_a_coordinator_that_moves_tells_of_the_others_too(home: Home) -> None:
    with_others(home, "b.example.org:8443")
    moved = move(home, "new.example.org:9443", ca.load_authority(home.authority).operator, now=int(NOW))
    notice = read_notice(home)
    assert notice is not None
    assert notice.addresses == moved.addresses
    assert moved.addresses == ("new.example.org:9443", "sum.example.org:8443", "b.example.org:8443")
    assert moved.enrolment_addresses == ("sum.example.org:8444", "b.example.org:8444")
    assert moved.hosts == ("b.example.org", "new.example.org", "sum.example.org")


def test_members_know_at_most_eight_addresses(home: Home) -> None:
    others = [f"b{number}.example.org:8443" for number in range(7)]
    assert len(with_others(home, *others).addresses) == 8
    with pytest.raises(LocalError, match="E-CONFIG-INVALID"):
        move(home, "new.example.org:9443", ca.load_authority(home.authority).operator, now=int(NOW))
    assert read_notice(home) is None
