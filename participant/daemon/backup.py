"""``backup`` and ``restore``: a participant's directory and its ledger as one archive.

Guarantees: the ledger's copy is consistent while the daemon writes; updates never enter an archive; nothing is restored
over a participant or a ledger that is there: of two copies of one ledger the longer one stays. An archive that is older
than what was shown or signed since is safe to restore: the handshake finds it out, and the participant abstains instead
of spending or masking twice.
Leaves to others: that comparison (``runs``).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from host import durable
from host.archives import new_archive, restored
from host.state_format import FORMAT_NAME
from participant.config import DEFAULT_LEDGERS, load_settings, with_ledgers
from participant.daemon.ledger_restore import restore_member
from participant.home import CONFIG_NAME, NOISE_KEYS, Home
from participant.link.identity import load_keys
from participant.opened import OpenHome
from participant.owner.ledger_directory import LedgerDirectory
from privacy.errors import LocalError

ENTRIES: Final = (
    *(CONFIG_NAME, FORMAT_NAME, "policy.toml", "identity", "datasets", "models", "plans", NOISE_KEYS),
    "peer-heads.json",
)
# Of a run, beside its journal. What stays at home may have no noise: it is as private as the keys in the archive.
KEPT: Final = ("certificate.", "report.", "adapter.", "sum.", "kept-")


def write_backup(opened: OpenHome, file: Path) -> int:
    """Write the archive (0600) and return its size in bytes.

    Raises:
        LocalError: ``E-EXISTS``.
    """
    home = opened.home
    with tempfile.TemporaryDirectory() as scratch:
        copy = LedgerDirectory(Path(scratch) / DEFAULT_LEDGERS)
        opened.ledgers.copy(opened.member, copy)
        with new_archive(file) as archive:
            for name in ENTRIES:
                if (home.directory / name).exists():
                    archive.add(home.directory / name, name)
            for path in sorted(home.runs.glob("*/*")):
                if path.name == "journal" or path.name.startswith(KEPT):
                    archive.add(path, str(path.relative_to(home.directory)))
            archive.add(copy.path, DEFAULT_LEDGERS)
    return file.stat().st_size


def read_backup(file: Path, directory: Path, *, at: int, ledgers: Path | None = None) -> tuple[Path, ...]:
    """Restore an archive into a directory without a participant, and its ledger to where this machine's ledgers lie.

    Args:
        file: the archive.
        directory: where the participant will lie.
        at: seconds since the Unix epoch, in the names of files that are set aside.
        ledgers: where the ledgers lie, if not where the archive's participant.toml says.

    Returns:
        Files of a ledger that could not be read and have another name now.

    Raises:
        LocalError: ``E-EXISTS``, ``E-NOT-FOUND``, ``E-DISK-*`` or ``E-STATE-DAMAGED``.
        RefusedError: ``E-LEDGER-ROLLBACK``, the ledger that is there and the archive's went on apart.
        VerificationError: ``E-STATE-DAMAGED``.
    """
    home = Home(directory)
    if home.config.exists() or home.identity.exists():
        raise LocalError("E-EXISTS", f"{directory} holds a participant already")
    with restored(file, directory) as draft:
        extracted = Home(draft)
        extracted.make()
        archive = LedgerDirectory(draft / DEFAULT_LEDGERS)
        if ledgers is not None:
            text = with_ledgers(extracted.config.read_text(), str(ledgers.absolute()))
            durable.write(extracted.config, text.encode())
        place = LedgerDirectory(load_settings(extracted).ledger_directory(home))
        identity = load_keys(extracted.identity).signing.public
        if place.path.resolve() == (directory / DEFAULT_LEDGERS).resolve():
            place = archive  # it takes its place with the directory
        aside = restore_member(archive, place, identity=identity, home=home, at=at)
        if place is not archive:
            shutil.rmtree(archive.path)
    return aside
