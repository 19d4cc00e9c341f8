"""Certificates, authorities and addresses over the years, by a moved clock: who is on keeps being on."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.config import settings_template
from coordinator.database import member_rows
from coordinator.database.run_rows import RunState
from coordinator.enrolment.notices import move
from coordinator.enrolment.renewal import rotate
from host.certificates import expires_at
from host.state_format import write_format
from participant.views.identity import certificate_trouble
from privacy.errors import OnlysumError
from privacy.secagg.keys import SigningKey
from privacy.secret import SecretBytes
from tests.worlds.federation import SeededSource
from tests.worlds.years import DAY, Years

STEP = 10  # days between two looks at all daemons, which in truth shake hands every ten minutes
ANOTHER_RUN = "ff112233445566778899aabbccddeeff"


@pytest.fixture
def years(tmp_path: Path) -> Years:
    return Years(tmp_path)


def test_two_years_pass_with_a_run_before_and_one_after_and_a_new_authority_between(years: Years) -> None:
    world, begun = years.world, years.now()
    identities = {name: daemon.identity for name, daemon in years.daemons.items()}
    years.settle()
    assert world.state().state is RunState.COMPLETED
    seen = {name: {identity.certificate} for name, identity in identities.items()}
    servers, authorities = {world.runner.authority.current.server_certificate}, set[str]()
    for day in range(0, 730, STEP):
        if day == 360:
            rotate(years.home, world.settings, SeededSource("the second authority"), years.now(), overlap_days=90)
        years.pass_days(STEP)
        servers.add(world.runner.authority.current.server_certificate)
        for name, daemon in years.daemons.items():
            seen[name].add(daemon.identity.certificate)
            authorities.add(daemon.identity.authority_sha256)
            assert expires_at(daemon.identity.certificate) - years.now() > 19 * DAY
    assert years.now() - begun == 730 * DAY
    assert {len(certificates) for certificates in seen.values()} == {14}
    assert (len(servers), len(authorities)) == (4, 2)
    for name, daemon in years.daemons.items():
        now = daemon.identity
        assert now.signing.public == identities[name].signing.public
        assert now.followed == (identities[name].authority_sha256,)
        assert now.roots(years.now()) == world.runner.authority.current.ca_certificate, "the old one has ended"
    assert world.runner.authority.current.trusted(years.now()) == world.runner.authority.current.ca_certificate
    years.restart()
    world.another_run(ANOTHER_RUN)
    years.connect_members()
    years.settle()
    assert (world.state().run_id, world.state().state) == (ANOTHER_RUN, RunState.COMPLETED)


# --- who was off, and how it comes back ---


def test_a_member_that_was_off_for_as_long_as_its_certificate_is_told_the_next_step_and_is_invited_again(
    years: Years,
) -> None:
    alice = years.daemons["alice"]
    others = [name for name in years.daemons if name != "alice"]
    before = alice.identity
    for _ in range(10):
        years.pass_days(STEP, *others)
    with pytest.raises(OnlysumError) as caught:
        alice.poller.greet()
    assert caught.value.code == "E-NET-TLS"
    assert "onlysum coordinator invite alice --again" in certificate_trouble(before.certificate, "alice", years.now())
    years.invite_again("alice")
    alice.start()
    alice.poller.greet()
    assert alice.identity.signing.public == before.signing.public
    assert alice.identity.keys.tls.reveal() != before.keys.tls.reveal()
    years.settle()
    assert years.world.state().state is RunState.COMPLETED, "its run has waited for it"


def test_an_invitation_for_the_same_identity_is_of_no_use_to_another(years: Years) -> None:
    before = years.enrolled("alice")
    with pytest.raises(OnlysumError) as caught:
        years.invite_again("alice", identity=SecretBytes(b"m" * 32))
    assert (caught.value.code, "the identity and role that are enrolled" in caught.value.detail) == (
        "E-IDENTITY-MISMATCH",
        True,
    )
    assert years.enrolled("alice") == before


def test_a_member_that_missed_the_change_of_authority_comes_back_by_an_invitation_and_its_policy_must_say_so(
    years: Years,
) -> None:
    alice, others = years.daemons["alice"], [name for name in years.daemons if name != "alice"]
    before = alice.identity
    rotate(years.home, years.world.settings, SeededSource("the second authority"), years.now(), overlap_days=30)
    for _ in range(4):
        years.pass_days(STEP, *others)
    with pytest.raises(OnlysumError, match="E-NET-TLS"):
        alice.poller.greet()
    years.invite_again("alice")
    alice.start()
    alice.poller.greet()
    after = alice.identity
    assert after.authority == years.world.runner.authority.current.ca_certificate
    assert after.followed == (), "no authority that it trusted has named this one"
    assert after.origin_der == before.authority_der, "its ledger knows the federation by the first"


def test_a_member_whose_identity_is_lost_is_revoked_and_enrols_anew_under_its_name(years: Years) -> None:
    with years.world.store.begin() as connection:
        member_rows.revoke_member(connection, "alice", int(years.now()))
    years.world.runner.discover()
    with pytest.raises(OnlysumError, match="E-MEMBER-REVOKED"):
        years.daemons["alice"].poller.greet()
    years.invite_again("alice", identity=SecretBytes(b"n" * 32), anew=True)
    assert years.enrolled("alice").identity_key == SigningKey(SecretBytes(b"n" * 32)).public
    with years.world.store.read() as connection:
        kinds = [row.kind for row in member_rows.security_log(connection) if row.kind != "connection-refused"]
    assert kinds[-3:] == ["revoked", "invited", "enrolled"]
    with pytest.raises(OnlysumError, match="E-MEMBER-REVOKED"):
        years.daemons["alice"].poller.greet()


# --- addresses ---


def test_members_learn_another_address_from_the_operator_while_the_old_one_still_answers(years: Years) -> None:
    alice = years.daemons["alice"]
    write_format(years.home.directory)
    years.home.config.write_text(settings_text())
    moved = move(years.home, "sum.example.org:9443", years.world.authority.operator, now=int(years.now()))
    assert moved.participants.addresses == ("sum.example.org:9443", "127.0.0.1:9")
    years.restart()
    years.pass_days(1)
    assert alice.identity.addresses == ("sum.example.org:9443", "127.0.0.1:9")
    assert alice.link.identity.addresses == alice.identity.addresses
    assert alice.identity.said_at == int(years.now()) - DAY


def settings_text() -> str:
    return settings_template(
        federation="test-federation",
        operator="Test Operator",
        also=[],
        participants="127.0.0.1:9",
        enrolment="127.0.0.1:2",
    )
