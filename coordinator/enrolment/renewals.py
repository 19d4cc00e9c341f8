"""Members' certificates are renewed over the connection that the one in use has made.

Guarantees: whoever asks holds the present certificate's key and the identity key, and is not revoked; a new certificate
is for a new TLS key, and replaces the present one at the first call that is made with it, so that an answer which is
lost costs nothing; after that a copy of the old one is of no use. A request that is heard again gives what it gave
before, and after the replacement nothing.
Leaves to others: the connection (``coordinator.daemon.service``), rows (``coordinator.database.member_rows``).
Source: docs/adr/0048-certificates-are-short-and-renew-themselves.md.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from cryptography import x509

from coordinator.daemon.quotas import RenewalRate
from coordinator.database import member_rows
from coordinator.database.member_rows import MemberRecord
from coordinator.enrolment import authority as authorities
from coordinator.enrolment.authority import Authority
from coordinator.enrolment.renewal import AuthorityKeeper
from coordinator.runs.run import RunContext, in_thread
from host import credentials
from host.certificates import renewal_due
from host.fingerprints import fingerprint
from host.rendering import moment
from privacy.errors import PeerError, Phase
from privacy.interfaces import RandomSource
from privacy.secagg import keys
from protos.renewal import Renewal, RenewalRequest, Succession, renewal_bytes

KEPT_CERTIFICATES: Final = 2**14  # of members, in both forms: they are compared at each call
# For so long after its successor was first used a certificate still counts in this process: calls that were on their
# way over the connection that it made are heard.
OVERLAP_SECONDS: Final = 60.0
ANOTHER_IN_USE: Final = (
    "another certificate of this member is in use; if this is its only daemon, the operator invites it once more: "
    "`onlysum coordinator invite NAME --again`"
)


@lru_cache(maxsize=KEPT_CERTIFICATES)
def der(certificate: bytes) -> bytes:
    """Return the DER of a certificate in PEM."""
    return ssl.PEM_cert_to_DER_cert(certificate.decode())


class Renewals:
    """Issues certificates to members that have one, and takes them into use."""

    def __init__(
        self,
        desk: RunContext,
        keeper: AuthorityKeeper,
        random: RandomSource,
        *,
        keep: Callable[[MemberRecord], None],
    ) -> None:
        self._desk = desk
        self._keeper = keeper
        self._random = random
        self._keep = keep
        self._rate = RenewalRate(desk.clock)
        self._replaced: dict[str, tuple[bytes, float]] = {}  # the last one of each member, and until when it counts

    async def admit(self, member: MemberRecord, certificate: bytes) -> None:
        """Refuse a certificate (DER) of a member that is not its newest one; the first call with that replaces the old.

        Raises:
            PeerError: ``E-MEMBER-REVOKED``.
        """
        if der(member.certificate) == certificate:
            return
        if member.renewed is not None and der(member.renewed) == certificate:
            await self._take_into_use(member, member.renewed)
            return
        replaced, until = self._replaced.get(member.name, (b"", 0.0))
        if replaced == certificate and self._desk.clock.monotonic() < until:
            return
        current = await in_thread(self._current, member)  # another process may have issued or replaced one just now
        if current == member:
            raise _refused(member.name, "E-MEMBER-REVOKED", ANOTHER_IN_USE)
        self._keep(current)
        await self.admit(current, certificate)

    def changed(self, before: MemberRecord | None, after: MemberRecord) -> None:
        """Note a certificate that was replaced, here or by another process: calls with it may be on their way."""
        if before is not None and before.renewed is not None and before.renewed == after.certificate:
            self._replaced[after.name] = (der(before.certificate), self._desk.clock.monotonic() + OVERLAP_SECONDS)

    def _current(self, member: MemberRecord) -> MemberRecord:
        """Return a member as the database has it, if other processes write there."""
        if not self._desk.store.shared:
            return member
        with self._desk.store.read() as connection:
            return member_rows.active_member(connection, member.name)

    async def _take_into_use(self, member: MemberRecord, renewed: bytes) -> None:
        def write() -> bool:
            with self._desk.store.begin() as connection:
                return member_rows.use_renewed(connection, member.name, renewed, self._desk.now())

        if not await in_thread(write):  # another call did it, or the operator decided something meanwhile
            with self._desk.store.read() as connection:
                current = member_rows.active_member(connection, member.name)
            if current.certificate != renewed:
                raise _refused(member.name, "E-MEMBER-REVOKED", ANOTHER_IN_USE)
        used = replace(member, certificate=renewed, renewed=None)
        self.changed(member, used)
        self._keep(used)

    async def renew(self, member: MemberRecord, present: bytes, request: RenewalRequest) -> Renewal:
        """Return a certificate for a member's new TLS key.

        Args:
            member: who asks.
            present: the certificate (DER) with which it asks.
            request: the new key, vouched for by the identity key.

        Raises:
            NetworkError: ``E-NET-BUSY``, it asks too often.
            PeerError: ``E-MEMBER-REVOKED``, ``E-IDENTITY-MISMATCH`` or ``E-WIRE-MALFORMED``.
        """
        self._rate.spend(member.name)
        authority = self._keeper.current
        self._check(member, present, request)
        renewed = await in_thread(self._issue, authority, member.name, present, request)
        self._keep(renewed)
        assert renewed.renewed is not None
        handover = authority.overlapping(self._desk.clock.now())
        return Renewal(
            certificate=renewed.renewed,
            authority=authority.ca_certificate,
            succession=Succession(handover.named, handover.operator_signature) if handover else None,
        )

    def _check(self, member: MemberRecord, present: bytes, request: RenewalRequest) -> None:
        if der(member.certificate) != present:
            raise _refused(member.name, "E-MEMBER-REVOKED", ANOTHER_IN_USE)
        tls_key = credentials.spki(authorities.check_request(request.certificate_request, member.name))
        signed = renewal_bytes(
            federation=self._desk.settings.federation, name=member.name, present=present, tls_key=tls_key
        )
        if not keys.verify(member.identity_key, request.identity_signature, signed):
            rule = "the identity key did not sign this TLS key in place of the present certificate"
            raise _refused(member.name, "E-IDENTITY-MISMATCH", rule)
        if x509.load_der_x509_certificate(present).public_key() == _request_key(request):
            raise _refused(member.name, "E-WIRE-MALFORMED", "a renewal is for a new TLS key")

    def _issue(self, authority: Authority, name: str, present: bytes, request: RenewalRequest) -> MemberRecord:
        now = self._desk.now()
        with self._desk.store.begin() as connection:
            member = member_rows.active_member(connection, name)
            if der(member.certificate) != present:
                raise _refused(name, "E-MEMBER-REVOKED", ANOTHER_IN_USE)
            if member.renewed is not None and _still_answers(member.renewed, authority, request, now):
                return member
            certificate = authorities.issue_member(
                authority,
                request=request.certificate_request,
                name=name,
                random=self._random,
                now=now,
                days=self._desk.settings.certificates.member_days,
            )
            until = x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()
            detail = f"certificate until {moment(int(until))} UTC, authority {fingerprint(authority.ca_der)}"
            member_rows.keep_renewed(connection, name, certificate, now, detail)
        return replace(member, renewed=certificate)


def _still_answers(certificate: bytes, authority: Authority, request: RenewalRequest, now: int) -> bool:
    """Return whether a certificate that was issued before is what this request asks for: its answer was lost."""
    issued = x509.load_pem_x509_certificate(certificate)
    same_key = issued.public_key() == _request_key(request)
    by_now = issued.issuer == x509.load_pem_x509_certificate(authority.ca_certificate).subject
    return same_key and by_now and now < renewal_due(certificate)


def _request_key(request: RenewalRequest) -> object:
    return x509.load_der_x509_csr(request.certificate_request).public_key()


def _refused(name: str, code: str, rule: str) -> PeerError:
    return PeerError.by_participant(name, code, Phase.HANDSHAKE, rule)
