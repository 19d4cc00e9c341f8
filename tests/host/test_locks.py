"""One daemon per directory."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from host.locks import only_daemon
from privacy.errors import LocalError

HOLDER = """
import sys; from pathlib import Path; from host.locks import only_daemon
with only_daemon(Path(sys.argv[1]), "participant"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_daemon_is_refused_until_the_first_one_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        refusal = pytest.raises(LocalError, match=f"E-RUNNING.*a coordinator in {tmp_path}")
        with refusal, only_daemon(tmp_path, "coordinator"):
            pass
        first.kill()
    with only_daemon(tmp_path, "coordinator"):
        assert stat.S_IMODE((tmp_path / "daemon.lock").stat().st_mode) == 0o600
