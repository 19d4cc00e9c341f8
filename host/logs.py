"""Log lines of the daemons: JSON, one object per line, to standard error or a file.

Guarantees: lines of a lower level than the configured one are not written; a log file is appended to, line by line, and
readable by its owner alone.
Leaves to others: what is logged, which is ids, counts and codes (docs/glossary.md), never data, updates or keys.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

import structlog

from host.durable import FILE_MODE, disk_errors
from host.settings import Section

Level = Literal["debug", "info", "warning", "error"]


def get_logger(name: str) -> Any:
    """Return a logger; before a daemon has configured where lines go, they go to standard error.

    Standard output is what a command was asked for: JSON, with ``--json``.
    """
    return structlog.get_logger(name)


class Log(Section):
    """The section ``[log]`` of coordinator.toml and participant.toml."""

    file: str | None = None  # relative to the daemon's directory; standard error if absent
    level: Level = "info"


def log_template(name: str) -> str:
    """Return the commented section ``[log]`` of a configuration file."""
    return f"""\
[log]  # JSON lines
# file = "{name}.log"  # in this directory; standard error if absent
# level = "info"  # or "debug", "warning", "error"
"""


def _to_standard_error(*_names: str) -> structlog.PrintLogger:
    return structlog.PrintLogger(sys.stderr)


structlog.configure(logger_factory=_to_standard_error)


@contextmanager
def logging_to(log: Log, directory: Path, *, tracebacks: bool) -> Iterator[None]:
    """Send the log lines of this process where its configuration says, until the block ends.

    Args:
        log: the section of the configuration.
        directory: the daemon's directory, which a relative file name is taken from.
        tracebacks: write the traceback of a logged exception. Off where one could hold data or an update.

    Raises:
        LocalError: ``E-DISK-FULL`` or ``E-DISK-FAILED``, the file cannot be opened.
    """
    if log.file is None:
        configure(sys.stderr, log.level, tracebacks=tracebacks)
        yield
        return
    path = directory / log.file
    with disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, FILE_MODE)
    with os.fdopen(descriptor, "a", buffering=1, encoding="utf-8") as file:
        configure(file, log.level, tracebacks=tracebacks)
        try:
            yield
        finally:
            configure(sys.stderr, log.level, tracebacks=tracebacks)  # a thread that outlives the daemon may log still


def configure(stream: TextIO, level: Level, *, tracebacks: bool) -> None:
    """Send structured log lines of at least this level to a stream; arguments as in :func:`logging_to`."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if tracebacks else _without_traceback,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(stream),
    )


def _without_traceback(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    event.pop("exc_info", None)
    return event
