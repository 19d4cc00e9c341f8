"""The machine's ledgers: a directory apart from all memberships, and which member charges to which ledger.

Guarantees: members of different federations charge to one ledger, so that another coordinator begins no second budget;
of one federation one participant alone charges to it, since two parts in one sum cost more than their sum, and a second
one gets a ledger of its own, as an evaluator does, which charges nothing; each ledger has a key of its own (0600 in
0700), written before its first record.
Leaves to others: records (``ledger``), what members' directories hold (``participant.opened``).
Source: docs/privacy-accounting.md section 8; ADR 0033.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from host import durable
from host.credentials import (
    check_private,
    load_signing_key,
    make_private_directory,
    read_private,
    signing_key_pem,
    write_private,
)
from host.locks import held
from participant.home import Home
from participant.owner.ledger import Ledger
from privacy import canonical
from privacy.errors import LocalError, OnlysumError, VerificationError
from privacy.interfaces import RandomSource
from privacy.plan_parts import Hex256, Name
from privacy.secagg.keys import KEY_BYTES, SigningKey
from privacy.secret import SecretBytes

SHARED: Final = "ledger"  # the ledger that the first member of each federation charges to
MEMBERS: Final = "members.json"
LOCK: Final = "members.lock"
DECISIONS: Final = "decisions.lock"
OWN_ID: Final = 16  # characters of an identity key in the name of a ledger of one member


class LedgerMember(BaseModel):
    """A membership on this machine: who it is, where its directory lies, and which ledger it charges to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: Hex256  # public key
    name: Name
    federation: Name
    authority: Hex256  # SHA-256 of the federation's authority
    home: str = Field(min_length=1)  # absolute path
    ledger: str = Field(pattern=rf"^{SHARED}(-[0-9a-f]{{{OWN_ID}}})?$")  # file name without its ending

    @property
    def directory(self) -> Home:
        """Its directory."""
        return Home(Path(self.home))

    @property
    def is_here(self) -> bool:
        """Whether its directory is there, and it has not left its federation."""
        return self.directory.identity.is_dir() and not self.directory.left_mark.exists()

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name its directory in errors of the block: whoever reads them works in another one."""
        try:
            yield
        except OnlysumError as error:
            raise LocalError(error.code, f"{self.home}, of {self.name} of {self.federation}: {error.detail}") from None


_LIST: Final = TypeAdapter(tuple[LedgerMember, ...])


class LedgerDirectory:
    """The directory; safe to use from several processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Create the directory, readable by this user alone.

        Raises:
            LocalError: ``E-PERMISSIONS``, one is there that others can read, or ``E-DISK-*``.
        """
        make_private_directory(self.path)

    def members(self) -> tuple[LedgerMember, ...]:
        """Return every member that joined with this directory, oldest first.

        Raises:
            VerificationError: ``E-STATE-DAMAGED``.
        """
        file = self.path / MEMBERS
        if not file.exists():
            return ()
        try:
            return _LIST.validate_json(file.read_bytes())
        except ValidationError:
            raise VerificationError("E-STATE-DAMAGED", f"{file} does not parse; restore a backup") from None

    def admit(
        self,
        *,
        identity: bytes,
        name: str,
        federation: str,
        authority: str,
        home: Home,
        charges: bool,
        random: RandomSource,
        at: int,
    ) -> LedgerMember:
        """Enter a member, once, and begin its ledger unless that is there.

        Args:
            identity: its public key.
            name: its name.
            federation: that it is a member of.
            authority: SHA-256 of the federation's authority, in hexadecimal.
            home: its directory.
            charges: whether it trains; an evaluator does not.
            random: source of a new ledger's key.
            at: seconds since the Unix epoch, of a new ledger's first record.

        Raises:
            LocalError: ``E-PERMISSIONS`` or ``E-DISK-*``.
            VerificationError: ``E-STATE-DAMAGED``.
        """
        self.make()
        with held(self.path / LOCK):
            known = self.members()
            member = next((member for member in known if member.identity == identity.hex()), None)
            if member is None:
                member = LedgerMember(
                    identity=identity.hex(),
                    name=name,
                    federation=federation,
                    authority=authority,
                    home=str(home.directory),
                    ledger=_ledger_for(known, identity, authority) if charges else _own_ledger(identity),
                )
                self._begin(member, random, at)
                self._write((*known, member))
            return member

    def member(self, identity: bytes, home: Home) -> LedgerMember:
        """Return a member by its identity key; where its directory was moved, that is noted.

        Raises:
            VerificationError: ``E-STATE-DAMAGED``, it did not join with this directory.
        """
        for member in self.members():
            if member.identity == identity.hex():
                here = str(home.directory)
                return member if member.home == here or member.is_here else self._moved(member, here)
        raise VerificationError(
            "E-STATE-DAMAGED",
            f"the ledgers in {self.path} do not know this member; another one would forget what was spent: correct "
            "ledger in participant.toml, or restore a backup",
        )

    def _moved(self, member: LedgerMember, home: str) -> LedgerMember:
        with held(self.path / LOCK):
            moved = member.model_copy(update={"home": home})
            self._write([moved if other == member else other for other in self.members()])
            return moved

    def open(self, member: LedgerMember) -> Ledger:
        """Open a member's ledger and check its chain.

        Raises:
            LocalError: ``E-PERMISSIONS``.
            VerificationError: ``E-STATE-DAMAGED``.
        """
        check_private(self.path)
        return Ledger.open(
            self.file(member.ledger), key=self._key(member.ledger), member=bytes.fromhex(member.identity)
        )

    def copy(self, member: LedgerMember, to: LedgerDirectory) -> None:
        """Write one member's entry, key and ledger to another directory; the ledger may be written to meanwhile."""
        to.make()
        write_private(to._key_file(member.ledger), read_private(self._key_file(member.ledger)))
        with (
            closing(sqlite3.connect(self.file(member.ledger))) as source,
            closing(sqlite3.connect(to.file(member.ledger))) as target,
        ):
            source.backup(target)
        to._write([member])

    def restore(self, archive: LedgerDirectory, identity: bytes, home: Home) -> None:
        """Take over one member's entry and ledger from a restored directory; of two copies the longer one stays.

        Args:
            archive: where the backup was extracted.
            identity: of the member.
            home: its directory, once it is whole.

        Raises:
            LocalError: ``E-EXISTS``, another ledger or another member of its federation stands in its place.
            RefusedError: ``E-LEDGER-ROLLBACK``, the copies went on apart.
            VerificationError: ``E-STATE-DAMAGED``.
        """
        self.make()
        member = archive.member(identity, home).model_copy(update={"home": str(home.directory)})
        with held(self.path / LOCK):
            others = [other for other in self.members() if other.identity != member.identity]
            if any(_stand_in_each_others_way(member, other) for other in others):
                detail = f"another member of {member.federation} charges to the ledger in {self.path}; see --ledgers"
                raise LocalError("E-EXISTS", detail)
            if not self.file(member.ledger).exists():
                write_private(self._key_file(member.ledger), read_private(archive._key_file(member.ledger)))
                durable.write(self.file(member.ledger), archive.file(member.ledger).read_bytes())
            elif self._key(member.ledger).public != archive._key(member.ledger).public:
                raise LocalError("E-EXISTS", f"another ledger lies in {self.path}; see --ledgers")
            with closing(self.open(member)) as here, closing(archive.open(member)) as copy:
                here.catch_up(copy)
            self._write((*others, member))

    def beside(self, member: LedgerMember) -> tuple[LedgerMember, ...]:
        """Return the other members on this machine whose directories are there."""
        return tuple(other for other in self.members() if other.identity != member.identity and other.is_here)

    def file(self, ledger: str) -> Path:
        """Return where a ledger's records lie."""
        return self.path / f"{ledger}.db"

    @property
    def decisions(self) -> Path:
        """Locked while somebody decides about a plan: what one member reserves is not there for another."""
        return self.path / DECISIONS

    def _begin(self, member: LedgerMember, random: RandomSource, at: int) -> None:
        """Make a ledger and its key, unless an earlier try or another member has."""
        key_file = self._key_file(member.ledger)
        if not key_file.exists():
            if self.file(member.ledger).exists():
                raise VerificationError("E-STATE-DAMAGED", f"{key_file} is missing; restore a backup")
            write_private(key_file, signing_key_pem(SecretBytes(random.token_bytes(KEY_BYTES))))
        if not self.file(member.ledger).exists():
            identity = bytes.fromhex(member.identity)
            key = self._key(member.ledger)
            Ledger.create(self.file(member.ledger), owner=member.name, key=key, member=identity, at=at).close()

    def _key_file(self, ledger: str) -> Path:
        return self.path / f"{ledger}.key"

    def _key(self, ledger: str) -> SigningKey:
        try:
            return SigningKey(load_signing_key(read_private(self._key_file(ledger))))
        except LocalError as error:
            if error.code != "E-CONFIG-MISSING":
                raise
            raise VerificationError("E-STATE-DAMAGED", f"{error.detail}; restore a backup of the ledger") from None

    def _write(self, members: Sequence[LedgerMember]) -> None:
        durable.write(self.path / MEMBERS, canonical.encode(_LIST.dump_python(tuple(members), mode="json")) + b"\n")


def _ledger_for(known: Sequence[LedgerMember], identity: bytes, authority: str) -> str:
    """Return the ledger that a newcomer charges to: the shared one, unless one of its federation does already."""
    shared = [other for other in known if other.ledger == SHARED and other.is_here]
    return _own_ledger(identity) if any(other.authority == authority for other in shared) else SHARED


def _stand_in_each_others_way(member: LedgerMember, other: LedgerMember) -> bool:
    return (member.authority, member.ledger) == (other.authority, other.ledger) and other.is_here


def _own_ledger(identity: bytes) -> str:
    return f"{SHARED}-{identity.hex()[:OWN_ID]}"


def default_directory(home: Path) -> Path:
    """Return where this user's ledgers lie if nobody says otherwise; beside ``home`` for a user without a directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if Path(state).is_absolute():
        return Path(state) / "onlysum"
    try:
        return Path.home() / ".local" / "state" / "onlysum"
    except RuntimeError:
        return home / "ledgers"
