"""How much memory a coordinator needs: a recorded round played to it again while its allocations are counted.

Guarantees: the messages are those of the round, decoded from the bytes that travelled; masked updates lie in files that
are mapped one at a time, as in the daemon, and so are no memory of the coordinator's.
"""

from __future__ import annotations

import gc
import mmap
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from coordinator.protocol.round import CoordinatorRound
from participant.protocol.step import Message
from privacy.errors import Phase
from privacy.plan import VerifiedPlan
from privacy.secagg.messages import (
    Advertisement,
    AttemptOffer,
    MaskedUpload,
    Receipt,
    ShareBundle,
    SurvivorSignature,
    UnmaskShares,
)
from protos import codec
from protos.envelope import (
    Abstained,
    Evaluation,
    HeadsShown,
    MemberLeft,
    MessageWithHeads,
    PlanApproved,
    PlanRefused,
    RoundKnown,
    Submission,
)

MIB: Final = 2**20


class Recording:
    """Every message that a coordinator accepted, as bytes, in order."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._messages: list[tuple[str, bytes]] = []

    def note(self, message: Message) -> None:
        """Keep a message; a masked update in a file."""
        if isinstance(message, MaskedUpload):
            self._messages.append((message.sender, codec.encode_submission(message.receipt)))
            (self._directory / message.sender).write_bytes(message.masked)
        else:
            self._messages.append((message.sender, codec.encode_submission(message)))

    def peak_mib(self, plan: VerifiedPlan, offer: AttemptOffer) -> float:
        """Return the most memory, in MiB, that a coordinator had allocated in this round."""
        gc.collect()
        tracemalloc.start()
        try:
            self._play(CoordinatorRound(plan, offer))
            return tracemalloc.get_traced_memory()[1] / MIB
        finally:
            tracemalloc.stop()

    def _play(self, coordinator: CoordinatorRound) -> None:
        for sender, data in self._messages:
            message = codec.decode_submission(data, sender=sender)
            while coordinator.phase is not _PHASES[type(message)]:
                _next_phase(coordinator)
            match message:
                case Receipt():
                    with self._mapped(sender) as masked:
                        coordinator.receive(MaskedUpload(message, masked))
                case (
                    PlanApproved()
                    | PlanRefused()
                    | Abstained()
                    | Evaluation()
                    | RoundKnown()
                    | MemberLeft()
                    | HeadsShown()
                    | MessageWithHeads()
                ):
                    raise AssertionError("no message of a round was kept")
                case _:
                    coordinator.receive(message)
        _next_phase(coordinator)
        assert coordinator.phase is Phase.RESULT

    @contextmanager
    def _mapped(self, sender: str) -> Iterator[memoryview]:
        path = self._directory / sender
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            try:
                yield view
            finally:
                view.release()


_PHASES: Final[dict[type[Submission], Phase]] = {
    Advertisement: Phase.ADVERTISE_KEYS,
    ShareBundle: Phase.SHARE_KEYS,
    Receipt: Phase.COLLECT_MASKED,
    SurvivorSignature: Phase.AGREE_SURVIVORS,
    UnmaskShares: Phase.UNMASK,
}


def _next_phase(coordinator: CoordinatorRound) -> None:
    """Close a phase and say to each participant what it should be told, which may cost memory too."""
    coordinator.close()
    for name in coordinator.expected():
        coordinator.outbox(name)
