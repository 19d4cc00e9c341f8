"""One daemon per directory."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from host.locks import LOCK_NAME, daemon_runs, only_daemon
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
        assert daemon_runs(tmp_path)
        first.kill()
    assert not daemon_runs(tmp_path)
    with only_daemon(tmp_path, "coordinator"):
        assert stat.S_IMODE((tmp_path / "daemon.lock").stat().st_mode) == 0o600


def test_no_daemon_runs_where_none_was_started_and_looking_makes_no_file(tmp_path: Path) -> None:
    assert not daemon_runs(tmp_path)
    assert not daemon_runs(tmp_path / "gone")
    assert not [*tmp_path.iterdir()]


def test_a_look_does_not_keep_a_daemon_from_starting(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).touch()
    looking = os.open(tmp_path / LOCK_NAME, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    ended = threading.Timer(0.1, os.close, [looking])
    ended.start()
    with only_daemon(tmp_path, "coordinator"):
        assert daemon_runs(tmp_path)
    ended.join()
