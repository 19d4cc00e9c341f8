"""Members, invitations, what members announce, and the security log: the part of the database that outlives runs.

Guarantees: a token is spent in the same transaction that enrols its member; a member's highest ledger head never goes
back; rows of the security log form a hash chain that :func:`verify_security_log` checks.
Leaves to others: certificates and tokens as documents (``coordinator.enrolment.authority``).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.database.tables import datasets, heads, members, security, tokens
from privacy.errors import OnlysumError, PeerError, Phase, VerificationError
from privacy.secagg.keys import framed, number
from protos.envelope import DatasetOffer, LedgerHead, Role

LABEL_SECURITY: Final = b"onlysum/1/coordinator-security-log"
NO_HASH: Final = bytes(32)
NO_HEAD: Final = LedgerHead(sequence=0, hash=NO_HASH)


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """An enrolled member; ``revoked_at`` is set when its key no longer counts."""

    name: str
    role: Role
    identity_key: bytes
    certificate: bytes
    labels: str
    software_version: str
    enrolled_at: int
    revoked_at: int | None
    last_seen: int | None = None
    renewed: bytes | None = None  # PEM: issued in place of the certificate, and not used yet

    @property
    def active(self) -> bool:
        """Whether it may call."""
        return self.revoked_at is None


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """An invitation as the coordinator keeps it: the secret's hash, never the secret."""

    token_id: str
    secret_hash: bytes
    name: str
    role: Role
    labels: str
    made_at: int
    expires_at: int
    used_at: int | None = None
    request_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class LedgerSeen:
    """How far a ledger went when it was last shown, and the identity that signs it."""

    identity_key: bytes
    sequence: int
    at: int


@dataclass(frozen=True, slots=True)
class SecurityRow:
    """A row of the security log."""

    sequence: int
    at: int
    kind: str
    subject: str
    detail: str
    previous: bytes
    hash: bytes


# --- invitations ---


def add_token(connection: Connection, token: TokenRecord) -> None:
    """Remember an invitation that was just made; earlier unused ones for the same name no longer count."""
    connection.execute(sa.delete(tokens).where(tokens.c.name == token.name, tokens.c.used_at.is_(None)))
    connection.execute(
        sa.insert(tokens).values(
            token_id=token.token_id,
            secret_hash=token.secret_hash,
            name=token.name,
            role=token.role.value,
            labels=token.labels,
            made_at=token.made_at,
            expires_at=token.expires_at,
        )
    )
    log_security(connection, token.made_at, "invited", token.name, f"as {token.role.value}, token {token.token_id}")


def list_tokens(connection: Connection) -> tuple[TokenRecord, ...]:
    """Return all invitations, oldest first."""
    return tuple(_token(row) for row in connection.execute(sa.select(tokens).order_by(tokens.c.made_at)))


def check_token(
    connection: Connection, *, token_id: str, secret_hash: bytes, name: str, request_hash: bytes, now: int
) -> TokenRecord:
    """Return the invitation that a newcomer presents, or say why it does not count.

    An invitation that the very same request has spent counts again: its answer was lost on the way.

    Raises:
        PeerError: ``E-TOKEN-UNKNOWN``, ``E-TOKEN-USED`` or ``E-TOKEN-EXPIRED``.
    """
    row = connection.execute(sa.select(tokens).where(tokens.c.token_id == token_id)).one_or_none()
    token = _token(row) if row is not None else None
    if token is None or not hmac.compare_digest(token.secret_hash, secret_hash) or token.name != name:
        raise PeerError.by_participant(
            name, "E-TOKEN-UNKNOWN", Phase.ENROLMENT, "the invitation is not one of this coordinator's for this name"
        )
    if token.used_at is not None and token.request_hash != request_hash:
        raise PeerError.by_participant(name, "E-TOKEN-USED", Phase.ENROLMENT, "the invitation was used with other keys")
    if token.used_at is None and now >= token.expires_at:
        raise PeerError.by_participant(name, "E-TOKEN-EXPIRED", Phase.ENROLMENT, "the invitation has expired")
    return token


def enrol_member(connection: Connection, member: MemberRecord, *, token_id: str, request_hash: bytes) -> None:
    """Spend the invitation and enrol its member, replacing a revoked one of the same name.

    Raises:
        PeerError: ``E-IDENTITY-KEY`` when another member has this identity key.
    """
    taken = connection.execute(
        sa.select(members.c.name).where(members.c.identity_key == member.identity_key, members.c.name != member.name)
    ).scalar()
    if taken is not None:
        raise PeerError.by_participant(member.name, "E-IDENTITY-KEY", Phase.ENROLMENT, "the key is another's")
    connection.execute(sa.delete(members).where(members.c.name == member.name))
    connection.execute(
        sa.insert(members).values(
            name=member.name,
            role=member.role.value,
            identity_key=member.identity_key,
            certificate=member.certificate,
            labels=member.labels,
            software_version=member.software_version,
            enrolled_at=member.enrolled_at,
        )
    )
    connection.execute(
        sa.update(tokens)
        .where(tokens.c.token_id == token_id)
        .values(used_at=member.enrolled_at, request_hash=request_hash)
    )
    fingerprint = hashlib.sha256(member.identity_key).hexdigest()
    log_security(connection, member.enrolled_at, "enrolled", member.name, f"identity {fingerprint}, token {token_id}")


def certify_again(
    connection: Connection, member: MemberRecord, *, token_id: str, request_hash: bytes, now: int
) -> None:
    """Spend the invitation of a member that is enrolled, and replace its certificate; all else stays.

    Raises:
        PeerError: ``E-IDENTITY-MISMATCH``, it was asked for with another identity key than the enrolled one.
    """
    known = active_member(connection, member.name)
    if known.identity_key != member.identity_key or known.role is not member.role:
        rule = "the invitation is for the identity and role that are enrolled; the operator revokes that first"
        raise PeerError.by_participant(member.name, "E-IDENTITY-MISMATCH", Phase.ENROLMENT, rule)
    changed = {"certificate": member.certificate, "renewed": None}
    connection.execute(sa.update(members).where(members.c.name == member.name).values(changed))
    connection.execute(
        sa.update(tokens).where(tokens.c.token_id == token_id).values(used_at=now, request_hash=request_hash)
    )
    log_security(connection, now, "enrolled-again", member.name, f"token {token_id}")


def _token(row: sa.Row[tuple[object, ...]]) -> TokenRecord:
    return TokenRecord(
        token_id=row.token_id,
        secret_hash=bytes(row.secret_hash),
        name=row.name,
        role=Role(row.role),
        labels=row.labels,
        made_at=row.made_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
        request_hash=bytes(row.request_hash) if row.request_hash is not None else None,
    )


# --- members ---


def list_members(connection: Connection) -> tuple[MemberRecord, ...]:
    """Return all members, revoked ones too, by name.

    Here and elsewhere names are put in order by Python: a server's own order is that of its locale.
    """
    known = (_member(row) for row in connection.execute(sa.select(members)))
    return tuple(sorted(known, key=lambda member: member.name))


def find_member(connection: Connection, name: str) -> MemberRecord | None:
    """Return a member by name."""
    row = connection.execute(sa.select(members).where(members.c.name == name)).one_or_none()
    return _member(row) if row is not None else None


def active_member(connection: Connection, name: str) -> MemberRecord:
    """Return a member that may call.

    Raises:
        PeerError: ``E-MEMBER-UNKNOWN`` or ``E-MEMBER-REVOKED``.
    """
    member = find_member(connection, name)
    if member is None:
        raise PeerError.by_participant(name, "E-MEMBER-UNKNOWN", Phase.HANDSHAKE, "no member has this name")
    if not member.active:
        raise PeerError.by_participant(name, "E-MEMBER-REVOKED", Phase.HANDSHAKE, "the operator revoked its key")
    return member


def revoke_member(connection: Connection, name: str, now: int, *, left: bool = False) -> None:
    """Revoke a member's key and its unused invitations; the daemon ends the runs that it takes part in.

    Args:
        connection: of the transaction.
        name: the member's.
        now: seconds since the Unix epoch.
        left: the member itself asked for it.

    Raises:
        OnlysumError: ``E-NOT-FOUND``.
    """
    member = find_member(connection, name)
    if member is None:
        raise OnlysumError("E-NOT-FOUND", f"no member {name}")
    connection.execute(sa.update(members).where(members.c.name == name).values(revoked_at=now))
    connection.execute(sa.delete(tokens).where(tokens.c.name == name, tokens.c.used_at.is_(None)))
    fingerprint = hashlib.sha256(member.identity_key).hexdigest()
    log_security(connection, now, "left" if left else "revoked", name, f"identity {fingerprint}")


def keep_renewed(connection: Connection, name: str, certificate: bytes, now: int, detail: str) -> None:
    """Remember a certificate that takes the place of a member's present one as soon as it is used."""
    connection.execute(sa.update(members).where(members.c.name == name).values(renewed=certificate))
    log_security(connection, now, "certificate-issued", name, detail)


def use_renewed(connection: Connection, name: str, certificate: bytes, now: int) -> bool:
    """Put a member's renewed certificate in the place of the present one; return whether it still was to be used."""
    result = connection.execute(
        sa.update(members)
        .where(members.c.name == name, members.c.renewed == certificate, members.c.revoked_at.is_(None))
        .values(certificate=certificate, renewed=None)
    )
    if result.rowcount != 1:
        return False
    log_security(connection, now, "certificate-replaced", name, "the renewed certificate is in use")
    return True


def announce(connection: Connection, name: str, *, version: str, offers: Sequence[DatasetOffer]) -> None:
    """Remember what a member says at its handshake: its software and its datasets' public sizes."""
    connection.execute(sa.update(members).where(members.c.name == name).values(software_version=version))
    connection.execute(sa.delete(datasets).where(datasets.c.member == name))
    rows = [{"member": name, "name": offer.name, "units": offer.units} for offer in offers]
    if rows:
        connection.execute(sa.insert(datasets), rows)


def announced(connection: Connection, name: str) -> tuple[DatasetOffer, ...]:
    """Return the datasets that a member announced last, by name."""
    rows = connection.execute(sa.select(datasets).where(datasets.c.member == name))
    offers = (DatasetOffer(name=row.name, units=row.units) for row in rows)
    return tuple(sorted(offers, key=lambda offer: offer.name))


def log_older_head(connection: Connection, name: str, head: LedgerHead, known: LedgerHead, now: int) -> None:
    """Log that a member has shown an older head than before, or another one at the same place.

    It learns of it from the answer and abstains.
    """
    log_security(connection, now, "ledger-rollback", name, f"showed head {head.sequence}, last seen {known.sequence}")


def keep_head(connection: Connection, head: LedgerHead, *, name: str, identity_key: bytes, now: int) -> LedgerHead:
    """Return the highest ledger head that a member's identity has shown before or now, and remember it.

    The security log says of an identity that is new under its name that nobody can tell whether its ledger is, too.
    """
    known = highest_head(connection, identity_key)
    if newer_head(known, head) is known:
        return known
    values = {"member": name, "sequence": head.sequence, "hash": head.hash, "signature": head.signature, "at": now}
    if known is NO_HEAD:
        _note_new_identity(connection, name, head, now)
        connection.execute(sa.insert(heads).values(identity_key=identity_key, **values))
    else:
        connection.execute(sa.update(heads).where(heads.c.identity_key == identity_key).values(**values))
    return head


def highest_head(connection: Connection, identity_key: bytes) -> LedgerHead:
    """Return the highest ledger head that an identity has shown; :data:`NO_HEAD` if none."""
    row = connection.execute(sa.select(heads).where(heads.c.identity_key == identity_key)).one_or_none()
    return LedgerHead(row.sequence, bytes(row.hash), bytes(row.signature)) if row is not None else NO_HEAD


def newer_head(known: LedgerHead, head: LedgerHead) -> LedgerHead:
    """Return the higher of two heads; the known one unless the other one is above it, or brings its signature."""
    unsigned = head.place == known.place and not known.signature
    return known if head.sequence <= known.sequence and not unsigned else head


def _note_new_identity(connection: Connection, name: str, head: LedgerHead, now: int) -> None:
    """Log that another identity shows a ledger under a name: a newcomer may go on with the old one, or have another."""
    for before in ledgers_seen(connection, name):
        older = hashlib.sha256(before.identity_key).hexdigest()
        detail = f"shows record {head.sequence}; identity {older} was last seen at record {before.sequence}"
        log_security(connection, now, "ledger-identity", name, detail)


def ledgers_seen(connection: Connection, name: str) -> tuple[LedgerSeen, ...]:
    """Return the ledgers that were shown under a name, one per identity, oldest sighting first."""
    rows = connection.execute(sa.select(heads).where(heads.c.member == name).order_by(heads.c.at, heads.c.identity_key))
    return tuple(LedgerSeen(bytes(row.identity_key), row.sequence, row.at) for row in rows)


def _member(row: sa.Row[tuple[object, ...]]) -> MemberRecord:
    return MemberRecord(
        name=row.name,
        role=Role(row.role),
        identity_key=bytes(row.identity_key),
        certificate=bytes(row.certificate),
        labels=row.labels,
        software_version=row.software_version,
        enrolled_at=row.enrolled_at,
        revoked_at=row.revoked_at,
        last_seen=row.last_seen,
        renewed=bytes(row.renewed) if row.renewed is not None else None,
    )


def saw_members(connection: Connection, names: Collection[str], now: int) -> None:
    """Remember that members are, or were just now, connected."""
    connection.execute(sa.update(members).where(members.c.name.in_(names)).values(last_seen=now))


# --- the security log ---


def log_security(connection: Connection, at: int, kind: str, subject: str, detail: str) -> None:
    """Append a row to the hash-chained security log; ids, counts and fingerprints only."""
    last = connection.execute(sa.select(security).order_by(security.c.sequence.desc()).limit(1)).one_or_none()
    sequence, previous = (last.sequence + 1, bytes(last.hash)) if last is not None else (1, NO_HASH)
    values = {"sequence": sequence, "at": at, "kind": kind, "subject": subject, "detail": detail, "previous": previous}
    connection.execute(
        sa.insert(security).values(**values, hash=_security_hash(sequence, at, kind, subject, detail, previous))
    )


def newest_row(connection: Connection) -> int:
    """Return the number of the newest row of the security log; 0 if there is none."""
    return connection.execute(sa.select(sa.func.max(security.c.sequence))).scalar() or 0


def security_log(connection: Connection) -> tuple[SecurityRow, ...]:
    """Return the security log, oldest first."""
    rows = connection.execute(sa.select(security).order_by(security.c.sequence))
    return tuple(_security_row(row) for row in rows)


def _security_row(row: sa.Row[tuple[object, ...]]) -> SecurityRow:
    return SecurityRow(row.sequence, row.at, row.kind, row.subject, row.detail, bytes(row.previous), bytes(row.hash))


def newest_security(connection: Connection, kinds: Collection[str], *, after: int = 0) -> tuple[SecurityRow, ...]:
    """Return the newest rows of some kinds for each subject, of those written after a time."""
    here = (security.c.kind.in_(kinds), security.c.at > after)
    newest = sa.select(sa.func.max(security.c.sequence)).where(*here).group_by(security.c.subject)
    query = sa.select(security).where(security.c.sequence.in_(newest)).order_by(security.c.sequence)
    return tuple(_security_row(row) for row in connection.execute(query))


def verify_security_log(rows: Sequence[SecurityRow]) -> None:
    """Check the chain.

    Raises:
        VerificationError: ``E-STATE-DAMAGED``, naming the first row that does not follow.
    """
    previous = NO_HASH
    for place, row in enumerate(rows, start=1):
        expected = _security_hash(row.sequence, row.at, row.kind, row.subject, row.detail, previous)
        if row.sequence != place or row.previous != previous or row.hash != expected:
            raise VerificationError("E-STATE-DAMAGED", f"row {place} of the security log does not follow from the last")
        previous = row.hash


def _security_hash(sequence: int, at: int, kind: str, subject: str, detail: str, previous: bytes) -> bytes:
    fields = (number(sequence), number(at), kind.encode(), subject.encode(), detail.encode(), previous)
    return hashlib.sha256(framed(LABEL_SECURITY, *fields)).digest()
