"""The secrets of a composed installation: made once at random, and dealt out so that each container sees its own.

<folder>/masters          every value, once; whoever is told it gets a copy
<folder>/<service>        what `CDDS_SECRETS` names in the service's container
<folder>/migrations       the owners of the schemas, which no service logs in as
<folder>/operator         what commands need, and the key that signs tokens
<folder>/postgres …       what PostgreSQL, the object store and Grafana read

Every container mounts its own folder of the volume only. Its files are readable by the user that services run as, who
makes them; those of other images by whatever user these have.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Final

import orjson
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.local.secrets import private_key, private_pem, public_pem
from deploy.local.stack import DATABASE, SOURCES_DATABASE

STATEFUL: Final = ("job_api", "scheduler", "exporter", "history")
FOREIGN: Final = ("postgres", "grafana")
"""Whose images run as users of their own."""
SOURCES: Final = ("UCS", "CONTACT_HISTORY", "FLIGHTS")
STORE: Final = "http://objects:7070"


def main(folder: Path) -> None:
    """Make what is missing of the secrets, and deal all of them out again."""
    masters = _Masters(folder / "masters")
    for name, files in _dealt(masters).items():
        for file, content in files.items():
            _write(folder / name / file, content, 0o444 if name in FOREIGN else 0o400)


class _Masters:
    """The values themselves, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def value(self, name: str, make: Callable[[], bytes] = lambda: token_hex(32).encode()) -> str:
        path = self._folder / name
        if not path.exists():
            _write(path, make(), 0o400)
        return path.read_text()

    def public(self, name: str) -> str:
        """The public half of a key that was made."""
        return public_pem(private_key(self._folder / name)).decode()


def _dealt(masters: _Masters) -> dict[str, Mapping[str, str]]:
    logins = [f"{name}_{kind}" for name in STATEFUL for kind in ("owner", "login")]
    others = ("superuser", "sources", "reader", "dashboards_login")
    passwords = {name: masters.value(f"postgres-{name}") for name in (*logins, *others)}
    token_key = masters.value("token-key.pem", _signing_key)
    believed = {"token-key.pub.pem": masters.public("token-key.pem")}
    access = {"access-key": masters.value("objects-access-key", _access_key), "secret-key": masters.value("objects")}
    readers = {f"CDDS_SOURCE_{name}": _dsn("cdds_reader", passwords["reader"], SOURCES_DATABASE) for name in SOURCES}
    own = {name: {_setting(name): _dsn(f"{name}_login", passwords[f"{name}_login"], DATABASE)} for name in STATEFUL}
    owners = {_setting(name): _dsn(f"{name}_owner", passwords[f"{name}_owner"], DATABASE) for name in STATEFUL}
    own["exporter"] |= readers | {
        "CDDS_EXPORTER_MASKING_KEY": masters.value("masking-key"),
        "CDDS_EXPORTER_OBJECT_OPTIONS": orjson.dumps(
            {
                "endpoint": STORE, "region": "us-east-1", "virtual_hosted_style_request": "false",
                "access_key_id": access["access-key"], "secret_access_key": access["secret-key"],
            }
        ).decode(),
        "manifest-key.pem": masters.value("manifest-key.pem", _signing_key),
    }  # fmt: skip
    own["console"] = {"CDDS_CONSOLE_SESSION_KEYS": masters.value("session-key", Fernet.generate_key)}
    grafana = {"database-password": passwords["dashboards_login"], "admin-password": masters.value("grafana-admin")}
    return {
        **{name: {**files, **believed} for name, files in own.items()},
        "operator": {name: content for files in own.values() for name, content in files.items()}
        | owners | believed | {"token-key.pem": token_key},
        "migrations": owners,
        "demo": {"token-key.pem": token_key, "source": _dsn("sources", passwords["sources"], SOURCES_DATABASE)},
        "postgres": passwords,
        "objects": access,
        "grafana": grafana,
    }  # fmt: skip


def _signing_key() -> bytes:
    return private_pem(Ed25519PrivateKey.generate())


def _access_key() -> bytes:
    return f"cdds{token_hex(8)}".encode()


def _setting(service: str) -> str:
    return f"CDDS_{service.upper()}_POSTGRES"


def _dsn(user: str, password: str, database: str) -> str:
    return f"postgresql://{user}:{password}@postgres:5432/{database}"


def _write(path: Path, content: bytes | str, mode: int) -> None:
    """There in full or not at all, whenever this is killed."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    unfinished.write_bytes(content if isinstance(content, bytes) else content.encode())
    unfinished.chmod(mode)
    unfinished.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
