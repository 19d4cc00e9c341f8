"""``backup`` and ``restore``: a participant's directory as one archive.

Guarantees: the ledger's copy is consistent while the daemon writes; updates never enter an archive; nothing is restored
over a participant that is there. An archive that is older than what was shown or signed since is safe to restore:
the handshake finds it out, and the participant abstains instead of spending or masking twice.
Leaves to others: that comparison (``runs``).
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from host import durable
from host.credentials import DIRECTORY_MODE
from participant.config import DEFAULT_LEDGER, load_settings
from participant.home import Home
from privacy.errors import LocalError

ENTRIES: Final = ("participant.toml", "policy.toml", "identity", "datasets", "models", "plans")


def write_backup(home: Home, file: Path) -> int:
    """Write the archive (0600) and return its size in bytes.

    Raises:
        LocalError: ``E-EXISTS``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        ledger = Path(scratch) / DEFAULT_LEDGER
        with (
            closing(sqlite3.connect(load_settings(home).ledger_path(home))) as source,
            closing(sqlite3.connect(ledger)) as target,
        ):
            source.backup(target)
        with durable.new_archive(file) as archive:
            for name in ENTRIES:
                if (home.directory / name).exists():
                    archive.add(home.directory / name, name)
            for path in sorted(home.runs.glob("*/*")):
                if path.name == "journal" or path.name.startswith(("certificate.", "report.")):
                    archive.add(path, str(path.relative_to(home.directory)))
            archive.add(ledger, DEFAULT_LEDGER)
    return file.stat().st_size


def read_backup(file: Path, directory: Path) -> None:
    """Restore an archive into a directory without a participant.

    Raises:
        LocalError: ``E-EXISTS``, ``E-NOT-FOUND`` or ``E-STATE-DAMAGED``.
    """
    home = Home(directory)
    if home.config.exists() or home.identity.exists():
        raise LocalError("E-EXISTS", f"{directory} holds a participant already")
    if not file.is_file():
        raise LocalError("E-NOT-FOUND", f"there is no {file}")
    with durable.new_directory(directory) as draft:
        draft.chmod(DIRECTORY_MODE)
        home = Home(draft)
        home.make()
        durable.extract(file, draft)
        home.identity.chmod(DIRECTORY_MODE)
        for path in (*home.identity.iterdir(), draft / DEFAULT_LEDGER):
            path.chmod(durable.FILE_MODE)
        ledger = load_settings(home).ledger_path(home)
        if ledger != draft / DEFAULT_LEDGER:
            if ledger.exists():
                raise LocalError("E-EXISTS", f"{ledger}, which participant.toml names; move it away first")
            shutil.move(draft / DEFAULT_LEDGER, ledger)
