"""What members are sent, encoded: once for all that are sent the same, and not on the event loop.

Guarantees: a bounded number of encoded tasks and chunks is kept, those that were asked for last.
Leaves to others: the form on the wire (``protos``), who is sent what (``service``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from protos import codec, transport
from protos import codec_transport as wire
from protos.envelope import Chunk, NumberedTask, TaskPart

KEPT_CHUNKS: Final = 16  # of content, at most 1 MiB each: members of a round download the same
KEPT_TASKS: Final = 16  # members of a round are told the same, but for the shares dealt to them

V = TypeVar("V")
P = ParamSpec("P")


class EncodedOnce:
    """What travels to many members alike, encoded and hashed once for all that ask for it at the time."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[bytes, int, int], bytes] = {}
        self._tasks: dict[int, tuple[NumberedTask, asyncio.Task[tuple[list[bytes], float]]]] = {}  # by identity

    async def task(self, task: NumberedTask) -> tuple[list[bytes], float]:
        """Return the parts of a task, and the seconds that encoding it took, if it was begun for this caller."""
        known = self._tasks.pop(id(task), None)
        # A task of its own: whoever asked first may cancel its call, and the others want to be told.
        encoding = known[1] if known else asyncio.create_task(asyncio.to_thread(timed, _task_parts, task))
        self._tasks[id(task)] = task, encoding  # last: those that nobody asks for come first
        if len(self._tasks) > KEPT_TASKS:
            del self._tasks[next(iter(self._tasks))]
        parts, seconds = await asyncio.shield(encoding)
        return parts, 0.0 if known else seconds

    def chunk(self, content: bytes, chunk: Chunk) -> bytes:
        """Return a chunk of some content as it travels."""
        key = content, chunk.offset, len(chunk.data)
        data = self._chunks.pop(key, None) or wire.encode_chunk(chunk)
        self._chunks[key] = data
        if len(self._chunks) > KEPT_CHUNKS:
            del self._chunks[next(iter(self._chunks))]
        return data


def _task_parts(task: NumberedTask) -> list[bytes]:
    *others, last = transport.pieces(codec.encode_task(task))
    return [
        wire.encode_task_part(part)
        for part in (*(TaskPart(chunk, last=False) for chunk in others), TaskPart(last, last=True))
    ]


def timed(function: Callable[P, V], *args: P.args, **kwargs: P.kwargs) -> tuple[V, float]:
    """Return a function's value and the processor time that it took of this thread."""
    before = time.thread_time()
    return function(*args, **kwargs), time.thread_time() - before
