"""A folder that an installation exports into, and one for the recipient's own things."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from anyio.from_thread import start_blocking_portal

from cli import client
from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Options, Stack
from tests.cli.exports import ANNA, Installation, write_key
from tests.cli.relay import Relay, relayed
from tests.cli.tenants import CONTACTS, TENANTS, Tenant
from tests.system.driver import Recipient
from tests.system.stacks import QUICK


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """Its files and signing keys are in a folder of their own."""
    folder = tmp_path / "exports"
    folder.mkdir()
    made = Installation(folder)
    made.publish_keys()
    return made


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Anna's private key."""
    return write_key(tmp_path, ANNA[0], name="anna.pem")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Where decrypted files go."""
    return tmp_path / "rows"


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """All five services, in a loop of their own beside the tests, which call commands that block."""
    # Not under pytest's own folder, which is closed to the account PostgreSQL runs as when root starts it.
    with (
        TemporaryDirectory(prefix="cdds-test-", ignore_cleanup_errors=True) as folder,
        start_blocking_portal() as portal,
    ):
        data_folder = Path(folder) / "data"
        log = data_folder / "services.log"
        options = Options(data=data_folder, environment=QUICK)
        with portal.wrap_async_context_manager(Stack(options, output=log)) as running:
            portal.call(_load, running)
            yield running


async def _load(stack: Stack) -> None:
    dsn = stack.dsn(SOURCES_DATABASE)
    await data.create_schema(dsn)
    await data.load_contacts(dsn, "ucs", rows=CONTACTS, tenants={f"tenant{number}": 1 for number in range(TENANTS)})


_tenants = count()


@pytest.fixture(scope="session")
def recipient() -> Recipient:
    """Somebody with a certificate, which takes a moment to make."""
    return Recipient("somebody")


@pytest.fixture
def relay(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """What the commands of this test go through; they repeat at once, as often as ever."""
    monkeypatch.setattr(client, "PAUSES_SECONDS", (0.0,) * len(client.PAUSES_SECONDS))
    with relayed(tenant.stack.url) as running:
        monkeypatch.setenv("CDDS_URL", running.url)
        yield running


@pytest.fixture
def tenant(stack: Stack, recipient: Recipient, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    """A tenant that nobody else uses, which the commands of this test are those of, as its administrator."""
    number = next(_tenants)
    assert number < TENANTS, "load the data of more tenants"
    made = Tenant(stack, f"tenant{number}", recipient)
    monkeypatch.setenv("CDDS_URL", stack.url)
    monkeypatch.setenv("CDDS_TOKEN", made.token("admin"))
    return made
