"""``backup`` and ``restore``: a participant's directory as one archive.

Guarantees: the ledger's copy is consistent while the daemon writes; updates never enter an archive; nothing is restored
over a participant that is there. An archive that is older than what was shown or signed since is safe to restore:
the handshake finds it out, and the participant abstains instead of spending or masking twice.
Leaves to others: that comparison (``runs``).
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from host.archives import move_to_configured, new_archive, restored
from host.state_format import FORMAT_NAME
from participant.config import DEFAULT_LEDGER, load_settings
from participant.home import CONFIG_NAME, NOISE_KEYS, Home
from privacy.errors import LocalError

ENTRIES: Final = (
    *(CONFIG_NAME, FORMAT_NAME, "policy.toml", "identity", "datasets", "models", "plans", NOISE_KEYS),
    "peer-heads.json",
)
# Of a run, beside its journal. What stays at home may have no noise: it is as private as the keys in the archive.
KEPT: Final = ("certificate.", "report.", "adapter.", "kept-")


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
        with new_archive(file) as archive:
            for name in ENTRIES:
                if (home.directory / name).exists():
                    archive.add(home.directory / name, name)
            for path in sorted(home.runs.glob("*/*")):
                if path.name == "journal" or path.name.startswith(KEPT):
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
    with restored(file, directory) as draft:
        home = Home(draft)
        home.make()
        extracted = draft / DEFAULT_LEDGER
        move_to_configured(extracted, load_settings(home).ledger_path(home), file=CONFIG_NAME)
