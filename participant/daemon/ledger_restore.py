"""Taking over a member's ledger from a backup where this machine's ledgers lie.

Guarantees: of two copies of one ledger the longer one stays; a ledger of another key, or one that went on apart, is
never replaced; what cannot be read is kept under another name, which is said; a ledger that comes from a backup is not
charged to before its member has compared it with what it showed.
Leaves to others: archives (``participant.daemon.backup``), records that neither copy has (the handshake finds them).
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from host import durable
from host.credentials import read_private, write_private
from participant.home import Home
from participant.owner.ledger import Ledger
from participant.owner.ledger_directory import LedgerDirectory, LedgerMember, set_aside
from privacy.errors import LocalError, VerificationError
from privacy.secagg.keys import SigningKey


def restore_member(
    archive: LedgerDirectory, to: LedgerDirectory, *, identity: bytes, home: Home, at: int
) -> tuple[Path, ...]:
    """Take over one member's entry and ledger.

    Args:
        archive: where the backup was extracted.
        to: where this machine's ledgers lie; may be the same.
        identity: of the member.
        home: its directory, once it is whole.
        at: seconds since the Unix epoch, in the names of files that are set aside.

    Returns:
        The files that could not be read and have another name now.

    Raises:
        LocalError: ``E-EXISTS``, another ledger, another member of its federation or the member's own directory stands
            in its place; ``E-DISK-*`` or ``E-PERMISSIONS``.
        RefusedError: ``E-LEDGER-ROLLBACK``, the copies went on apart.
        VerificationError: ``E-STATE-DAMAGED``, the archive's own, or another member's entry.
    """
    to.make()
    member = archive.member(identity, home)
    archive.open(member).close()
    with to.locked():
        entry = to.path / "members" / f"{member.identity}.json"
        aside = [] if _parses(entry) else [_renamed(entry, at)]
        for other in () if to is archive else to.members():
            _require_room(member, other, to, home)
        aside += _take_over(archive, to, member, at)
        to.write(member.model_copy(update={"home": str(home.directory)}))
    return tuple(path for path in aside if path is not None)


def _require_room(member: LedgerMember, other: LedgerMember, to: LedgerDirectory, home: Home) -> None:
    same = other.identity == member.identity
    if same and other.is_here and other.home != str(home.directory):
        raise LocalError("E-EXISTS", f"{member.name} lies in {other.home} already; to try a backup, name --ledgers DIR")
    if not same and other.takes_part and (other.authority, other.ledger) == (member.authority, member.ledger):
        detail = f"another member of {member.federation} charges to the ledger in {to.path}; name --ledgers DIR"
        raise LocalError("E-EXISTS", detail)


def _take_over(archive: LedgerDirectory, to: LedgerDirectory, member: LedgerMember, at: int) -> list[Path | None]:
    """Put the archive's ledger where none is, or add what it has beyond the one that is there."""
    file, key_file = to.file(member.ledger), to.key_file(member.ledger)
    theirs, aside = archive.key(member.ledger), list[Path | None]()
    try:
        ours = to.key(member.ledger).public
    except VerificationError:
        aside.append(_renamed(key_file, at))
        ours = theirs.public
    if ours != theirs.public:
        raise LocalError("E-EXISTS", f"another ledger lies in {to.path}; name --ledgers DIR")
    if file.exists() and not _opens(file, theirs):
        aside.append(set_aside(file, at))
    restored = not file.exists()
    if restored:
        durable.write(file, archive.file(member.ledger).read_bytes())
    if not key_file.exists():
        write_private(key_file, read_private(archive.key_file(member.ledger)))
    with closing(to.open(member)) as here, closing(archive.open(member)) as copy:
        here.catch_up(copy)
        if restored:
            here.losses.note_restored()
    return aside


def _opens(file: Path, key: SigningKey) -> bool:
    try:
        Ledger.open(file, key=key, member=b"").close()
    except VerificationError:
        return False
    return True


def _parses(entry: Path) -> bool:
    if not entry.exists():
        return True
    try:
        LedgerMember.model_validate_json(entry.read_bytes())
    except ValueError:
        return False
    return True


def _renamed(path: Path, at: int) -> Path | None:
    return path.rename(path.with_name(f"aside-{at}-{path.name}.kept")) if path.exists() else None
