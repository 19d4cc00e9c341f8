"""participant.toml: what IT sets for the daemon.

Guarantees: an unknown key is refused with its line and the nearest known key; nothing in this file can allow a plan
(that is ``policy.toml``, the data owner's).
Leaves to others: paths inside the directory (``home``), what a device means (``training``).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from host import configuration
from host.events.event import EVENTS_TEMPLATE, Events
from host.logs import Log, log_template
from host.settings import Section
from host.state_format import require_format
from participant.home import Home
from participant.training.bases.memory import Memory
from participant.training.trainer import EngineName, Precision
from privacy import patterns
from privacy.plan_parts import Name

FORMAT: Final = 3  # of the directory: ledgers apart from memberships, with keys of their own
DEFAULT_LEDGERS = "ledgers"  # relative to the participant's directory; joining names the machine's


class Settings(Section):
    """The keys of participant.toml."""

    name: Name
    device: Annotated[str, StringConstraints(pattern=patterns.DEVICE)] = "auto"
    engine: EngineName = "fast"
    precision: Precision = "float32"
    threads: Annotated[int, Field(ge=1, le=256)] = 1  # of training and masks; one where participants share a machine
    proxy: Annotated[str, StringConstraints(pattern=patterns.PROXY)] = ""  # of the CONNECT kind
    notify: tuple[str, ...] = ()  # program and arguments, run without a shell when a plan waits
    ledgers: str = DEFAULT_LEDGERS  # where backups are newest: an older copy makes the participant abstain
    memory: Memory = Memory()
    events: Events = Events()
    log: Log = Log()

    def ledger_directory(self, home: Home) -> Path:
        """Return where the machine's ledgers lie."""
        return home.directory / self.ledgers  # an absolute path replaces the directory


def load_settings(home: Home) -> Settings:
    """Read participant.toml.

    Raises:
        LocalError: ``E-STATE-VERSION``, ``E-CONFIG-MISSING``, ``E-CONFIG-INVALID`` or ``E-CONFIG-UNKNOWN-KEY``.
    """
    require_format(home.directory, home.config, FORMAT)
    return configuration.load(home.config, Settings)


def settings_template(name: str, ledgers: str = DEFAULT_LEDGERS) -> str:
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

# Where spent budget is recorded: one directory for all federations that this machine is a member of, so that people
# have one budget. Move it whole, and with care: an older copy makes the participant abstain.
ledgers = {_quoted(ledgers)}

[memory]
weights = "own"            # of the frozen base: as its files have them; "float32" is faster with twice or more memory,
                           # "8-bit" and "4-bit" pack linear layers by bitsandbytes and lose some accuracy
gradients = 1024           # MiB for gradients of single examples; where it is too little, micro-batches shrink
checkpointing = false      # true runs blocks twice instead of remembering what went on in them

{EVENTS_TEMPLATE}
{log_template("participant")}"""


def with_ledgers(text: str, ledgers: str) -> str:
    """Return participant.toml with another directory of ledgers."""
    return re.sub(r"(?m)^ledgers = .*$", lambda _: f"ledgers = {_quoted(ledgers)}", text)


def _quoted(text: str) -> str:
    """Return a TOML string; JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False)
