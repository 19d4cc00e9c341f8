"""Configuration files on disk become values, or a refusal that names the file and the line.

Leaves to others: the keys of each file, and how their text is read (``host.settings``).
"""

from __future__ import annotations

from pathlib import Path

from host.settings import SectionT, parse
from privacy.errors import LocalError


def load(path: Path, model: type[SectionT]) -> SectionT:
    """Read and check a TOML file.

    Raises:
        LocalError: ``E-CONFIG-MISSING``, ``E-CONFIG-INVALID`` or ``E-CONFIG-UNKNOWN-KEY``, naming line and key.
    """
    return parse(read_text(path), model, file=path.name)


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        LocalError: ``E-CONFIG-MISSING`` or ``E-CONFIG-INVALID``.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # editors on Windows put a byte-order mark first
    except FileNotFoundError:
        raise LocalError("E-CONFIG-MISSING", f"there is no {path}") from None
    except UnicodeDecodeError:
        raise LocalError("E-CONFIG-INVALID", f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise LocalError("E-CONFIG-INVALID", f"{path} cannot be read: {error.strerror}") from None
