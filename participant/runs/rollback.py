"""What this member has shown of its ledger and journals, compared with what is here.

Guarantees: only heads that this member signed count, so that a coordinator that makes things up ends nothing.
Leaves to others: what follows: abstaining (``open_runs``), going on above the loss (``participant.daemon.reanchor``).
Source: docs/protocol.md section 6.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from host.logs import get_logger
from participant.owner.approval import Owner
from participant.owner.ledger import Ledger
from privacy.errors import RefusedError
from privacy.heads import HeadsShown, LedgerHead
from privacy.plan import PROTOCOL_VERSION
from privacy.secagg import keys
from protos.envelope import Welcome

_log = get_logger("onlysum.participant")


def own_heads(owner: Owner, welcome: Welcome) -> tuple[HeadsShown, ...]:
    """Return the heads among those in a handshake's answer that this member signed."""
    own = []
    for heads in welcome.last_heads:
        signed = keys.verify(owner.identity.public, heads.signature, heads.signed_bytes(PROTOCOL_VERSION))
        if signed and heads.sender == owner.name:
            own.append(heads)
        else:
            _log.warning("heads that the coordinator returned are not this member's", code="E-ROUND-SIGNATURE")
    return tuple(own)


def lost_head(ledger: Ledger, welcome: Welcome, shown: Iterable[HeadsShown]) -> LedgerHead | None:
    """Return the highest head of this ledger that was shown and whose record is missing, or ``None``.

    Args:
        ledger: as it is now.
        welcome: has the highest that the coordinator has seen.
        shown: this member's own heads, as :func:`own_heads` returns them.
    """
    heads, highest = [heads.ledger for heads in shown], welcome.ledger_head
    if ledger.has_signed(highest):
        heads.append(highest)
    elif highest.sequence:
        _log.warning("the head that the coordinator returned is not this ledger's", code="E-ROUND-SIGNATURE")
    missing = [head for head in heads if not holds(ledger, head)]
    return max(missing, key=lambda head: head.sequence, default=None)


def holds(ledger: Ledger, head: LedgerHead) -> bool:
    """Return whether a ledger has the record of a head, or accounts for its loss."""
    with suppress(RefusedError):
        ledger.require_at_least(head)
        return True
    return False
