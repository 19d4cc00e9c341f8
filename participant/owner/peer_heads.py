"""The newest ledger heads that peers have signed, kept here so that nobody is summed with a ledger that was set back.

Guarantees: a set of members is believed only if each of them shows the head of its ledger, signed in this attempt for
the very message that it goes with; a head older than one that was seen here of the same identity, in any run, is
refused; heads are on disk before anything that follows from them leaves.
Leaves to others: this participant's own ledger (``ledger``), what the coordinator keeps.
Source: docs/protocol.md section 6; ADR 0025.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from host import durable
from privacy import canonical
from privacy.errors import LocalError, PeerError, Phase
from privacy.heads import HeadsShown, LedgerHead, Moment
from privacy.plan import Plan
from privacy.secagg import keys
from privacy.secagg.messages import Position

PHASES = {Moment.ADVERTISE: Phase.SHARE_KEYS, Moment.UPLOAD: Phase.AGREE_SURVIVORS}  # in which a set is shown


class PeerHeads:
    """Heads by identity key, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def admit(
        self, plan: Plan, shown: Sequence[HeadsShown], *, at: Position, moment: Moment, about: Mapping[str, bytes]
    ) -> None:
        """Check that all members of a set show heads, none of them older than what is known, and keep them.

        Args:
            plan: names the members' identity keys.
            shown: one for each member of the set, sorted.
            at: the attempt.
            moment: before keys, or before an upload.
            about: the message that the heads of each member go with, by hash.

        Raises:
            PeerError: ``E-ROUND-SET``, ``E-ROUND-CONTEXT`` or ``E-ROUND-SIGNATURE``, the coordinator's fault;
                ``E-LEDGER-PEER``, which names the member.
            LocalError: ``E-STATE-DAMAGED`` or ``E-DISK-FULL``.
        """
        phase = PHASES[moment]
        identities = {member.id: member.identity_key for member in plan.roster if member.id in about}
        if [heads.sender for heads in shown] != sorted(about) or len(identities) < len(about):
            raise PeerError.by_coordinator("E-ROUND-SET", phase, "each member of the set shows the head of its ledger")
        for heads in shown:
            if (heads.position, heads.moment, heads.about) != (at, moment, about[heads.sender]):
                rule = f"the heads of {heads.sender} are of another attempt or go with another message"
                raise PeerError.by_coordinator("E-ROUND-CONTEXT", phase, rule)
            key, signed = bytes.fromhex(identities[heads.sender]), heads.signed_bytes(plan.protocol_version)
            if not keys.verify(key, heads.signature, signed):
                rule = f"the heads of {heads.sender} are not signed by it"
                raise PeerError.by_coordinator("E-ROUND-SIGNATURE", phase, rule)
        self._keep({identities[heads.sender]: heads for heads in shown}, phase)

    def _keep(self, shown: Mapping[str, HeadsShown], phase: Phase) -> None:
        known = self._read()
        for identity, heads in shown.items():
            before = known.get(identity)
            if before is not None and _is_older(heads.ledger, before):
                rule = f"its ledger ends at record {heads.ledger.sequence}, this participant has seen {before.sequence}"
                raise PeerError.by_participant(heads.sender, "E-LEDGER-PEER", phase, rule)
        after = known | {identity: LedgerHead(*heads.ledger.place) for identity, heads in shown.items()}
        if after != known:
            rows: canonical.Json = {key: [head.sequence, head.hash.hex()] for key, head in after.items()}
            durable.write(self._path, canonical.encode(rows) + b"\n")

    def _read(self) -> dict[str, LedgerHead]:
        if not self._path.exists():
            return {}
        try:
            match canonical.decode(self._path.read_bytes().strip()):
                case dict() as rows:
                    return {key: _head(row) for key, row in rows.items()}
        except (OSError, ValueError):
            pass
        raise LocalError(
            "E-STATE-DAMAGED", f"{self._path} does not parse; restore a backup, or remove it: it is begun anew"
        )


def _head(row: canonical.Json) -> LedgerHead:
    match row:
        case [int(sequence), str(value)]:
            return LedgerHead(sequence, bytes.fromhex(value))
    raise ValueError("no head")


def _is_older(shown: LedgerHead, before: LedgerHead) -> bool:
    """Return whether a ledger lacks a record that was shown, as far as anybody else can tell."""
    return shown.sequence < before.sequence or (shown.sequence == before.sequence and shown.hash != before.hash)
