"""The object store: there, writable, readable, and with room."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from cli.doctor.checking import bounded, in_thread
from cli.doctor.configuration import Read
from cli.doctor.findings import Finding, failed, ok, warning

CHECK: Final = "object store"
SCARCE: Final = 0.05
"""Of a disk; exports fail when there is none left."""
_CONTENT: Final = b"written by cdds doctor, which deletes it again\n"


async def check(settings: Read) -> list[Finding]:
    """Write, read back and delete a small object, as the exporter would."""
    if settings.exporter is None:
        return []
    location, options = settings.exporter.objects, settings.exporter.object_options
    return await bounded(CHECK, _shown(location), in_thread(lambda: _store(location, options)))


def _store(location: str, options: dict[str, str]) -> list[Finding]:
    # Brings the pipeline along, which would delay every other command.
    from services.exporter.pipeline.errors import StoreFailed
    from services.exporter.pipeline.storage import ObjectStore
    from services.exporter.pipeline.transfer import Patience

    where = _shown(location)
    folder = _folder(location)
    if folder is not None and not folder.is_dir():
        remedy = "set CDDS_EXPORTER_OBJECTS to a folder that exists; a volume may not be mounted here"
        return [failed(CHECK, where, "there is no such folder", remedy)]
    seconds = timedelta(seconds=3)
    patience = Patience(connect=seconds, request=seconds, retries=1, retry_for=seconds, longest_backoff=seconds)
    key = f"doctor/{uuid4().hex}"
    try:
        store = ObjectStore(location, options, patience)
        try:
            store.write(key, [_CONTENT])
            intact = b"".join(store.read(key)) == _CONTENT
        finally:
            store.delete([key])
    except (StoreFailed, OSError, ValueError) as error:
        remedy = (
            f"let the exporter's account write to {folder}"
            if folder is not None
            else "see CDDS_EXPORTER_OBJECTS and CDDS_EXPORTER_OBJECT_OPTIONS, and what these keys may do there"
        )
        return [failed(CHECK, where, " ".join(str(error).split())[:400], remedy)]
    if not intact:
        return [failed(CHECK, where, "what was read is not what was written", "do not use this store")]
    return [ok(CHECK, where, "an object was written, read and deleted"), *_room(folder)]


def _room(folder: Path | None) -> list[Finding]:
    if folder is None:
        return []
    usage = shutil.disk_usage(folder)
    if usage.free >= SCARCE * usage.total:
        return []
    message = f"only {usage.free / 1e9:.1f} GB of its disk are free ({usage.free / usage.total:.0%})"
    remedy = "make room, or shorten CDDS_EXPORTER_RETENTION"
    return [warning(CHECK, str(folder), message, remedy)]


def _folder(location: str) -> Path | None:
    if location.startswith("file://"):
        return Path(unquote(urlsplit(location).path))
    return None if "://" in location else Path(location)


def _shown(location: str) -> str:
    """The store without whatever credentials its URL may hold."""
    if "://" not in location:
        return location
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
