"""Who is enrolled, and coming and going: enrolment, certificates, handshakes, leaving.

Guarantees: a token is spent in the transaction that enrols its member; a call is admitted only with the member's newest
certificate, and while one daemon of it runs; who leaves is told so when it is durable, and its runs end.
Leaves to others: what members do in runs (``runner``, ``coordinator.runs.submissions``), the authority's documents
(``coordinator.enrolment.authority``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from types import MappingProxyType
from typing import Final

from coordinator.daemon.quotas import HandshakeRate
from coordinator.daemon.refusals import RefusalLog, noting_refusals
from coordinator.daemon.sessions import Sessions
from coordinator.daemon.troubles import Trouble
from coordinator.database import attempt_rows, member_rows, run_rows
from coordinator.database.member_rows import MemberRecord, TokenRecord
from coordinator.enrolment import authority as authorities
from coordinator.enrolment.notices import read_notice
from coordinator.enrolment.renewal import AuthorityKeeper
from coordinator.enrolment.renewals import Renewals
from coordinator.runs.attempt import HEADS
from coordinator.runs.run import Run, RunContext, in_thread
from host import credentials
from host.logs import get_logger
from privacy.errors import NetworkError, PeerError, Phase
from privacy.interfaces import RandomSource
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg import keys
from privacy.secagg.keys import framed
from protos import codec
from protos.envelope import Enrolment, HeadsShown, Hello, MemberEntry, MemberLeft, Membership, PlanRefused, Welcome
from protos.invitation import leaving_bytes, token_hash
from protos.renewal import Renewal, RenewalRequest

TWICE: Final = "neither of its two daemons is served until one has been stopped"


class Members:
    """The members of a federation, as its coordinator deals with them."""

    def __init__(self, desk: RunContext, keeper: AuthorityKeeper, random: RandomSource, refusals: RefusalLog) -> None:
        self._desk = desk
        self._keeper = keeper
        self._notice = read_notice(desk.home)
        self._random = random
        self.refusals = refusals
        self._handshakes = HandshakeRate(desk.clock)
        self._sessions = Sessions(desk.clock)
        self._log = get_logger("coordinator")
        self._newest = -1  # row of the security log at which the members were read
        self._known: Mapping[str, MemberRecord] = {}
        self._renewals = Renewals(desk, keeper, random, keep=self._keep)

    def known(self) -> Mapping[str, MemberRecord]:
        """Return all members, revoked ones too, by name: another object after each change."""
        return self._known

    def refresh(self) -> None:
        """Read the members again if anything has changed: the security log has a row of each change."""
        with self._desk.store.read() as connection:
            newest = member_rows.newest_row(connection)
            if newest != self._newest:
                self._keep(*member_rows.list_members(connection))
                self._newest = newest

    def active(self, member: str) -> MemberRecord:
        """Return a member that may call, or raise ``E-MEMBER-UNKNOWN`` or ``E-MEMBER-REVOKED``."""
        known = self._known.get(member)
        if known is not None and known.active:
            return known
        with self._desk.store.read() as connection:
            return member_rows.active_member(connection, member)

    def _keep(self, *members: MemberRecord) -> None:
        for member in members:
            self._renewals.changed(self._known.get(member.name), member)
        self._known = MappingProxyType({**self._known, **{member.name: member for member in members}})
        self._newest = -1  # what was kept may be older than a revocation that was read meanwhile: it is read again

    @noting_refusals("enrolment-refused", lambda request: str(request.name))
    async def enrol(self, request: Enrolment) -> Membership:
        """Spend a token and issue a certificate, in one transaction."""
        _check_version(request.name, request.protocol_version)
        authorities.check_enrolment(request, federation=self._desk.settings.federation)
        member = await in_thread(self._enrol, request)
        if member is None or not member.active:
            raise PeerError.by_participant(
                request.name, "E-MEMBER-REVOKED", Phase.ENROLMENT, "the operator revoked its key"
            )
        self._keep(member)
        self._log.info("enrolled", member=member.name, role=member.role.value)
        ca = self._keeper.current.ca_certificate
        return Membership(self._desk.settings.federation, member.name, member.role, member.certificate, ca)

    def _enrol(self, request: Enrolment) -> MemberRecord | None:
        now = self._desk.now()
        tls_key = credentials.spki(authorities.check_request(request.certificate_request, request.name))
        request_hash = hashlib.sha256(framed(tls_key, request.identity_key)).digest()
        try:
            with self._desk.store.begin() as connection:
                token = member_rows.check_token(
                    connection,
                    token_id=request.token_id,
                    secret_hash=token_hash(request.token_id, request.token_secret),
                    name=request.name,
                    request_hash=request_hash,
                    now=now,
                )
                known = member_rows.find_member(connection, request.name)
                if token.used_at is not None:
                    return known
                member, spent = self._new_member(request, token, now), (token.token_id, request_hash)
                if known is not None and known.active:
                    member_rows.certify_again(connection, member, token_id=spent[0], request_hash=spent[1], now=now)
                    member = replace(known, certificate=member.certificate, renewed=None)
                else:
                    member_rows.enrol_member(connection, member, token_id=spent[0], request_hash=spent[1])
        except PeerError as refused:
            if refused.code == "E-TOKEN-USED":  # whoever comes here knew the secret: somebody should hear of it
                with self._desk.store.begin() as connection:
                    member_rows.log_security(connection, now, "token-reused", request.name, request.token_id)
            raise
        return member

    def _new_member(self, request: Enrolment, token: TokenRecord, now: int) -> MemberRecord:
        certificate = authorities.issue_member(
            self._keeper.current,
            request=request.certificate_request,
            name=request.name,
            random=self._random,
            now=now,
            days=self._desk.settings.certificates.member_days,
        )
        return MemberRecord(
            name=request.name,
            role=token.role,
            identity_key=request.identity_key,
            certificate=certificate,
            labels=token.labels,
            software_version="",
            enrolled_at=now,
            revoked_at=None,
        )

    @noting_refusals("handshake-refused")
    async def handshake(self, member: str, hello: Hello, runs: Sequence[Run]) -> Welcome:
        """Match versions, note what the member announces, tell it what was last seen of it."""
        self._handshakes.spend(member)
        _check_version(member, hello.protocol_version)
        known, desk = self.active(member), self._desk
        if hello.member != member or hello.role is not known.role:
            raise PeerError.by_participant(
                member, "E-IDENTITY-MISMATCH", Phase.HANDSHAKE, f"it is enrolled as {known.role.value} {member}"
            )
        for run in runs:
            if not run.record.state.ended:
                run.latecomers.heard_of(member)  # it may be a new process, which knows nothing of what hung
        software, offers = hello.software_version, hello.datasets
        desk.writer.also(
            None, lambda connection: member_rows.announce(connection, member, version=software, offers=offers)
        )
        head = await desk.heads.see(known, hello.ledger_head, desk.now())
        with desk.store.read() as connection:
            last = attempt_rows.last_events_of(connection, member, HEADS.values(), most=codec.MAX_LAST_HEADS)
        shown = (codec.decode_submission(event.body, sender=member) for event in last)
        self._log.info("handshake", member=member, version=hello.software_version)
        return Welcome(
            protocol_version=PROTOCOL_VERSION,
            software_version=version("onlysum"),
            federation=desk.settings.federation,
            ledger_head=head,
            last_heads=tuple(heads for heads in shown if isinstance(heads, HeadsShown)),
            members=tuple(MemberEntry(m.name, m.role, m.identity_key) for m in self._known.values() if m.active),
            clock=desk.now(),
            authority=hashlib.sha256(self._keeper.current.ca_der).digest(),
            addresses=self._notice,
        )

    @noting_refusals("renewal-refused")
    async def renew(self, member: str, present: bytes, request: RenewalRequest) -> Renewal:
        """Return a certificate for a member's new TLS key; ``present`` is the one (DER) with which it asks."""
        renewal = await self._renewals.renew(self.active(member), present, request)
        self._log.info("certificate issued", member=member)
        return renewal

    @noting_refusals("connection-refused")
    async def admit(self, member: str, certificate: bytes, session: bytes) -> None:
        """Refuse a member that is unknown, revoked or there twice, or whose certificate (DER) is not its newest."""
        await self._renewals.admit(self.active(member), certificate)
        was_twice = self._sessions.twice(member)
        if session:
            self._sessions.hear(member, session)
        if self._sessions.twice(member):
            if not was_twice:
                with self._desk.store.begin() as connection:
                    member_rows.log_security(connection, self._desk.now(), "identity-twice", member, "")
            raise NetworkError("E-NET-TWICE", f"{member}: {TWICE}")

    def twice(self) -> tuple[Trouble, ...]:
        """Return whose identity two daemons have."""
        return tuple(Trouble("E-NET-TWICE", f"{member}: {TWICE}") for member in self._sessions.all_twice())

    async def leave(self, name: str, left: MemberLeft, runs: Sequence[Run]) -> None:
        """End a membership that its own key ends; runs that need the member end with that reason."""
        member, desk, now = self.active(name), self._desk, self._desk.now()
        signed = leaving_bytes(federation=desk.settings.federation, name=name)
        if not keys.verify(member.identity_key, left.signature, signed):
            raise PeerError.by_participant(
                name, "E-ROUND-SIGNATURE", Phase.HANDSHAKE, "the leaving is not signed by its identity key"
            )
        ending = [run for run in runs if not run.record.state.ended]
        for run in ending:
            answer = PlanRefused(run.run_id, run.plan.hash, "E-MEMBER-LEFT", "it has left the federation")
            run.also(_approval(name, answer, now), run.distrust_memory)
        desk.writer.also(None, lambda connection: member_rows.revoke_member(connection, name, now, left=True))
        await desk.writer.written()
        self._keep(replace(member, revoked_at=now))
        self._log.warning("member-left", member=name)
        for run in ending:
            async with run.lock:
                run.distrust_answers()
                run.reload_and_notify("member-left", member=name)


def _approval(name: str, answer: PlanRefused, now: int) -> Callable[..., None]:
    return lambda connection: run_rows.add_approval(connection, name, answer, now)


def _check_version(who: str, spoken: int) -> None:
    if spoken != PROTOCOL_VERSION:
        rule = f"it speaks protocol {spoken}, this coordinator speaks protocol {PROTOCOL_VERSION}"
        raise PeerError.by_participant(who, "E-VERSION", Phase.HANDSHAKE, rule)
