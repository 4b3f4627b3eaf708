"""What the tests of the loops work with: sources, a store that can be held, and looks at what came out."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from services.exporter.domain import manifest_id
from services.exporter.pipeline import ObjectStore
from services.exporter.pipeline.storage import Stored
from services.exporter.store import Store
from shared.database import Database
from shared.events import CertificateAdded, RunProgressed
from shared.messaging import Record
from tests.exporter.runs import (
    SLOT,
    published,
)
from tests.exporter.test_pipeline_storage import files

SOURCES = """
[sources.ucs]
title = "Contact centre"
dsn = "file:{folder}/ucs.dsn"
[sources.ucs.types.interaction]
title = "Interaction"
table = "public.interaction"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
[sources.ucs.types.endless]
title = "Endless"
table = "public.endless"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
[sources.ucs.types.long]
title = "Long"
table = "public.long"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
[sources.ucs.types.stuck]
title = "Stuck"
table = "public.stuck"
id_column = "id"
time_column = "at"
tenant_column = "tenant"
[sources.ucs.types.gone]
title = "Gone"
table = "public.gone"
id_column = "id"
time_column = "at"
tenant_column = "tenant"

[sources.private]
title = "Of one tenant"
dsn = "file:{folder}/ucs.dsn"
tenants = ["t1"]
allow_plaintext = true
[sources.private.types.note]
title = "Note"
table = "public.note"
id_column = "id"
time_column = "at"
"""


class Ticks:
    """Takes progress in Kafka's place."""

    def __init__(self) -> None:
        self.progress: list[RunProgressed] = []
        self.first = asyncio.Event()

    async def publish(self, records: Iterable[Record]) -> None:
        self.progress += [RunProgressed.model_validate_json(record.value) for record in records]
        self.first.set()


class Held(ObjectStore):
    """Keeps the exporting thread after its first part until the worker tells it to stop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.loop = asyncio.get_running_loop()
        self.first_part = asyncio.Event()
        self.told_to_stop = threading.Event()

    def write(self, key: str, chunks: Iterable[bytes], cancelled: Callable[[], bool] = lambda: False) -> Stored:
        stored = super().write(key, chunks, cancelled)
        self.loop.call_soon_threadsafe(self.first_part.set)
        assert self.told_to_stop.wait(60)
        return stored


class Stuck(ObjectStore):
    """Does not answer for a while, whatever it is told."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.loop = asyncio.get_running_loop()
        self.came = asyncio.Event()
        self.answers = threading.Event()
        self.written = asyncio.Event()

    def write(self, key: str, chunks: Iterable[bytes], cancelled: Callable[[], bool] = lambda: False) -> Stored:
        self.loop.call_soon_threadsafe(self.came.set)
        assert self.answers.wait(60)
        stored = super().write(key, chunks, cancelled)
        self.loop.call_soon_threadsafe(self.written.set)
        return stored


def added(certificate: x509.Certificate) -> CertificateAdded:
    return CertificateAdded(
        occurred_at=SLOT,
        tenant="t1",
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        actor="admin",
        pem=certificate.public_bytes(Encoding.PEM).decode(),
        not_after=certificate.not_valid_after_utc,
    )


def stored_files(tmp_path: Path) -> list[str]:
    return files(tmp_path / "objects")


async def manifest_of(store: Store, run_id: UUID) -> bytes:
    download = await store.start_download("t1", manifest_id(run_id), "test")
    assert download is not None
    assert download.body is not None
    return download.body


async def failure_of(database: Database, run_id: UUID) -> tuple[str, str, int]:
    """How the run ended, why, and at which attempt."""
    event = (await published(database, run_id))[-1]
    return type(event).__name__, event.reason, event.attempt
