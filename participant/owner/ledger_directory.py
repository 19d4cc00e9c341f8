"""The machine's ledgers: a directory apart from all memberships, and which member charges to which ledger.

Guarantees: members of different federations charge to one ledger, so that another coordinator begins no second budget;
of one federation one participant alone charges to it, since two parts in one sum cost more than their sum, and a second
one gets a ledger of its own, as an evaluator does, which charges nothing; who is invited again under its name goes on
with its ledger. Each ledger has a key of its own (0600 in 0700); where one of the two is missing, none is begun anew.
Leaves to others: records (``ledger``), restoring (``ledger_restore``), members' directories (``participant.opened``).
Source: docs/privacy-accounting.md section 8; ADR 0033.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from host import durable
from host.credentials import (
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

SHARED: Final = "ledger"  # the ledger that the first participant of each federation charges to
MEMBERS: Final = "members"
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
    state: Literal["member", "left", "succeeded"] = "member"  # succeeded: invited again under the same name

    @property
    def directory(self) -> Home:
        """Its directory."""
        return Home(Path(self.home))

    @property
    def takes_part(self) -> bool:
        """Whether it is a member, as far as this machine knows, wherever its directory may be now."""
        return self.state == "member" and not self.directory.left_mark.exists()

    @property
    def is_here(self) -> bool:
        """Whether it is a member whose directory can be read now."""
        return self.takes_part and self.directory.membership.is_file()

    @property
    def words(self) -> str:
        """Who it is, for people."""
        return f"{self.name} of {self.federation}"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name its directory in errors of the block: whoever reads them works in another one."""
        try:
            yield
        except OnlysumError as error:
            raise LocalError(error.code, f"{self.home}, of {self.words}: {error.detail}") from None


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Who joins."""

    identity: bytes  # its public key
    name: str
    federation: str
    authority: str  # SHA-256 of the federation's authority, in hexadecimal
    home: Home
    charges: bool  # whether it trains; an evaluator does not


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
        make_private_directory(self.path / MEMBERS)

    def members(self) -> tuple[LedgerMember, ...]:
        """Return every member that joined with this directory, sorted by identity.

        Raises:
            VerificationError: ``E-STATE-DAMAGED``, naming the file.
        """
        return tuple(_read(path) for path in sorted((self.path / MEMBERS).glob("*.json")))

    def admit(self, newcomer: Newcomer, *, random: RandomSource, at: int) -> LedgerMember:
        """Enter a member, once, and begin its ledger unless that is there.

        Args:
            newcomer: who joins.
            random: source of a new ledger's key.
            at: seconds since the Unix epoch, of a new ledger's first record.

        Raises:
            LocalError: ``E-PERMISSIONS`` or ``E-DISK-*``.
            VerificationError: ``E-STATE-DAMAGED``, half of its ledger is missing, or a member's entry does not parse.
        """
        self.make()
        with self.locked():
            known = self.members()
            before = next((member for member in known if member.identity == newcomer.identity.hex()), None)
            if before is not None:
                return before
            predecessor = next((member for member in known if _is_succeeded(member, newcomer)), None)
            member = LedgerMember(
                identity=newcomer.identity.hex(),
                name=newcomer.name,
                federation=newcomer.federation,
                authority=newcomer.authority,
                home=str(newcomer.home.directory),
                ledger=predecessor.ledger if predecessor else _ledger_for(known, newcomer),
            )
            self._begin(member, known, random, at)
            self.write(member)
            if predecessor is not None:
                self.write(predecessor.model_copy(update={"state": "succeeded"}))
            return member

    def member(self, identity: bytes, home: Home) -> LedgerMember:
        """Return a member by its identity key; where its directory was moved, that is noted.

        Raises:
            VerificationError: ``E-STATE-DAMAGED``, it did not join with this directory.
        """
        path = self._entry(identity.hex())
        if not path.exists():
            raise VerificationError(
                "E-STATE-DAMAGED",
                f"the ledgers in {self.path} do not know this member; another one would forget what was spent: correct "
                "ledgers in participant.toml, or restore a backup",
            )
        member, here = _read(path), str(home.directory)
        if member.home == here or member.directory.membership.is_file():
            return member
        with self.locked():
            member = _read(path).model_copy(update={"home": here})
            self.write(member)
            return member

    def note_left(self, member: LedgerMember) -> None:
        """Note that a member has left its federation: its place is free, and its ledger stays."""
        with self.locked():
            self.write(member.model_copy(update={"state": "left"}))

    def open(self, member: LedgerMember) -> Ledger:
        """Open a member's ledger and check its chain.

        Raises:
            LocalError: ``E-PERMISSIONS``.
            VerificationError: ``E-STATE-DAMAGED``.
        """
        identity = bytes.fromhex(member.identity)
        return Ledger.open(self.file(member.ledger), key=self.key(member.ledger), member=identity)

    def beside(self, member: LedgerMember) -> tuple[LedgerMember, ...]:
        """Return the other members on this machine whose directories can be read.

        Raises:
            VerificationError: ``E-STATE-DAMAGED``, an entry does not parse.
        """
        return tuple(other for other in self.members() if other.identity != member.identity and other.is_here)

    def charged_apart(self, member: LedgerMember, sha256: str) -> tuple[str, ...]:
        """Return which populations were charged for the data of a hash on this machine's other ledgers, in words.

        Raises:
            LocalError: ``E-PERMISSIONS``.
            VerificationError: ``E-STATE-DAMAGED``: one of them cannot be read, so nobody knows.
        """
        found: list[str] = []
        for path in sorted(self.path.glob(f"{SHARED}*.key")):
            if path.stem != member.ledger and self.file(path.stem).exists():
                with closing(Ledger.open(self.file(path.stem), key=self.key(path.stem), member=b"")) as other:
                    populations = other.populations_of_data(sha256)
                    found += [f"{population}, on the ledger {other.owner} began" for population in populations]
        return tuple(found)

    def copy(self, member: LedgerMember, to: LedgerDirectory) -> None:
        """Write one member's entry, key and ledger to another directory; the ledger may be written to meanwhile."""
        to.make()
        with (
            closing(sqlite3.connect(self.file(member.ledger))) as source,
            closing(sqlite3.connect(to.file(member.ledger))) as target,
        ):
            source.backup(target)
        write_private(to.key_file(member.ledger), read_private(self.key_file(member.ledger)))
        to.write(member)

    def file(self, ledger: str) -> Path:
        """Return where a ledger's records lie."""
        return self.path / f"{ledger}.db"

    def key_file(self, ledger: str) -> Path:
        """Return where a ledger's key lies."""
        return self.path / f"{ledger}.key"

    def key(self, ledger: str) -> SigningKey:
        """Read a ledger's key.

        Raises:
            LocalError: ``E-PERMISSIONS``.
            VerificationError: ``E-STATE-DAMAGED``, it is missing or no key.
        """
        try:
            return SigningKey(load_signing_key(read_private(self.key_file(ledger))))
        except LocalError as error:
            if error.code != "E-CONFIG-MISSING":
                raise
            raise VerificationError("E-STATE-DAMAGED", f"{error.detail}; restore a backup of the ledger") from None

    @property
    def decisions(self) -> Path:
        """Locked while somebody decides about a plan: what one member reserves is not there for another."""
        return self.path / DECISIONS

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process enter or change a member meanwhile."""
        with held(self.path / LOCK):
            yield

    def write(self, member: LedgerMember) -> None:
        """Write a member's entry, inside :meth:`locked`."""
        durable.write(self._entry(member.identity), canonical.encode(member.model_dump(mode="json")) + b"\n")

    def _entry(self, identity: str) -> Path:
        return self.path / MEMBERS / f"{identity}.json"

    def _begin(self, member: LedgerMember, known: Sequence[LedgerMember], random: RandomSource, at: int) -> None:
        """Make a ledger and then its key, unless both are there.

        Raises:
            VerificationError: ``E-STATE-DAMAGED``, one of them is missing, and not because of a crash in between.
        """
        file, key_file = self.file(member.ledger), self.key_file(member.ledger)
        if file.exists() and key_file.exists():
            return
        if key_file.exists() or any(other.ledger == member.ledger for other in known):
            missing = file if key_file.exists() else key_file
            detail = f"{missing} is missing; a new one would forget what was spent: restore a backup"
            raise VerificationError("E-STATE-DAMAGED", detail)
        set_aside(file, at)  # of nobody, and never charged to: an earlier try got no further
        private = SecretBytes(random.token_bytes(KEY_BYTES))
        identity = bytes.fromhex(member.identity)
        Ledger.create(file, owner=member.name, key=SigningKey(private), member=identity, at=at).close()
        write_private(key_file, signing_key_pem(private))


def set_aside(file: Path, at: int) -> Path | None:
    """Give a ledger's file, and what SQLite keeps beside it, another name; return the new one if it was there."""
    for path in file.parent.glob(f"{file.name}-*"):
        path.rename(path.with_name(f"aside-{at}-{path.name}"))
    if not file.exists():
        return None
    return file.rename(file.with_name(f"aside-{at}-{file.name}"))


def _read(path: Path) -> LedgerMember:
    try:
        return LedgerMember.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise VerificationError(
            "E-STATE-DAMAGED", f"{path} does not parse; restore a backup of that participant"
        ) from None


def _is_succeeded(member: LedgerMember, newcomer: Newcomer) -> bool:
    """Return whether a member was invited again: one name has one identity, so the older one is no member any more."""
    return (member.authority, member.name) == (newcomer.authority, newcomer.name) and member.state != "succeeded"


def _ledger_for(known: Sequence[LedgerMember], newcomer: Newcomer) -> str:
    """Return the ledger that a newcomer charges to: the shared one, unless one of its federation does already."""
    shared = [other for other in known if other.ledger == SHARED and other.takes_part]
    if newcomer.charges and not any(other.authority == newcomer.authority for other in shared):
        return SHARED
    return f"{SHARED}-{newcomer.identity.hex()[:OWN_ID]}"


def default_directory() -> Path:
    """Return where this user's ledgers lie if nobody says otherwise.

    Raises:
        LocalError: ``E-USAGE``, this user has no directory.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if Path(state).is_absolute():
        return Path(state) / "onlysum"
    try:
        return Path.home() / ".local" / "state" / "onlysum"
    except RuntimeError:
        raise LocalError(
            "E-USAGE", "this user has no directory; for this machine's ledgers name --ledgers DIR"
        ) from None
