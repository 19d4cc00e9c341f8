"""participant.toml: what IT sets for the daemon.

Guarantees: an unknown key is refused with its line and the nearest known key; nothing in this file can allow a plan
(that is ``policy.toml``, the data owner's).
Leaves to others: paths inside the directory (``home``), what a device means (``training``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from host import configuration
from host.logs import Log, log_template
from host.settings import Section
from host.state_format import require_format
from participant.home import Home
from participant.training.memory import Memory
from participant.training.trainer import EngineName, Precision
from privacy import patterns
from privacy.plan_parts import Name

DEFAULT_LEDGER = "ledger.db"  # relative to the participant's directory


class Settings(Section):
    """The keys of participant.toml."""

    name: Name
    device: Annotated[str, StringConstraints(pattern=patterns.DEVICE)] = "auto"
    engine: EngineName = "fast"
    precision: Precision = "float32"
    threads: Annotated[int, Field(ge=1, le=256)] = 1  # of training and masks; one where participants share a machine
    proxy: Annotated[str, StringConstraints(pattern=patterns.PROXY)] = ""  # of the CONNECT kind
    notify: tuple[str, ...] = ()  # program and arguments, run without a shell when a plan waits
    ledger: str = DEFAULT_LEDGER  # put it where backups are newest: an older copy makes the participant abstain
    memory: Memory = Memory()
    log: Log = Log()

    def ledger_path(self, home: Home) -> Path:
        """Return where the ledger lies."""
        return home.directory / self.ledger  # an absolute path replaces the directory


def load_settings(home: Home) -> Settings:
    """Read participant.toml.

    Raises:
        LocalError: ``E-STATE-VERSION``, ``E-CONFIG-MISSING``, ``E-CONFIG-INVALID`` or ``E-CONFIG-UNKNOWN-KEY``.
    """
    require_format(home.directory, home.config)
    return configuration.load(home.config, Settings)


def settings_template(name: str) -> str:
    """Return the commented participant.toml that ``join`` writes."""
    return f"""\
# onlysum participant: settings for IT. What may be trained is the data owner's policy.toml.
# Unknown keys are errors. Restart the daemon after a change.

name = "{name}"            # as enrolled; the certificate says the same

device = "auto"            # "cpu", "cuda:1", "mps"; a device that is missing is an error, never replaced
threads = 1                # of training and masks; one is fastest where participants share a machine
engine = "fast"            # computes gradients of single examples; "opacus" does it by Opacus, for comparison
precision = "float32"      # of the frozen base; "bfloat16" is faster on a GPU, adapters stay float32

# proxy = "http://proxy.example:3128"   # HTTPS CONNECT proxy on the way to the coordinator

# Run when a plan waits for approval, or a run ended in which training failed (ONLYSUM_MESSAGE says so), without a
# shell. The run's id is added as the last argument.
# notify = ["/usr/local/bin/tell-data-owner", "--subject", "onlysum"]

# Where spent budget is recorded. Move it with care: an older copy makes the participant abstain.
# ledger = "/var/lib/onlysum/ledger.db"

[memory]
weights = "own"            # of the frozen base: as its files have them; "float32" is faster with twice or more memory,
                           # "8-bit" and "4-bit" pack linear layers by bitsandbytes and lose some accuracy
gradients = 1024           # MiB for gradients of single examples; where it is too little, micro-batches shrink
checkpointing = false      # true runs blocks twice instead of remembering what went on in them

{log_template("participant")}"""
