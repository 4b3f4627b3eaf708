"""Files as people download and delete them, and the keys that prove where they come from."""

from base64 import b64encode
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Final, TypeAlias
from uuid import UUID

from fastapi import APIRouter, Header
from fastapi.responses import Response, StreamingResponse

from services.exporter.api.answers import SigningKeyAnswer, SigningKeysAnswer
from services.exporter.api.ranges import Unsatisfiable, known, unchanged, wanted
from services.exporter.api.sending import Reading, Sending
from services.exporter.domain import Download
from services.exporter.pipeline import ObjectStore, StoreFailed
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import Store
from shared.http import Administrator, Operator, Problem, Reader, invalid, not_found
from shared.observability import log
from shared.openapi import problems

CONCURRENT: Final = 32
"""Downloads at a time per process; each holds a piece of at most 8 MiB, so that all of them hold 256 MiB."""

_BYTES: Final = "application/octet-stream"
_MEDIA_TYPES: Final = {
    ".schema.json": "application/schema+json",
    ".json": "application/json",
    ".zip": "application/zip",
    ".p7m": "application/pkcs7-mime",  # RFC 8551, 3.2
}
_WHOLE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The file.", "content": {_BYTES: {}}},
    304: {"description": "The caller has it already."},
}
_PART: Final[dict[int | str, dict[str, Any]]] = {
    206: {"description": "The bytes asked for.", "content": {_BYTES: {}}},
}

Range: TypeAlias = Annotated[str | None, Header(alias="Range", description="One range, such as `bytes=1024-`.")]
IfRange: TypeAlias = Annotated[str | None, Header(alias="If-Range", description="The ETag the range belongs to.")]
IfNoneMatch: TypeAlias = Annotated[
    str | None, Header(alias="If-None-Match", description="The ETag of the file that the caller has.")
]


class Turns:
    """A bound for what happens at the same time."""

    def __init__(self, most: int) -> None:
        self._free = most

    @contextmanager
    def one(self) -> Generator[None]:
        """Takes one of them for a while. Raises Problem when all are taken."""
        if self._free == 0:
            raise Problem(
                503, "unavailable", "Too many downloads at the moment; try again.", headers={"Retry-After": "5"}
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


def router(store: Store, objects: ObjectStore, key: SigningKey) -> APIRouter:
    """The routes of files."""
    api = APIRouter(prefix="/files", tags=["files"])
    reading = Reading(objects)
    turns = Turns(CONCURRENT)

    @api.get("/signing-keys")
    async def list_signing_keys(_: Reader) -> SigningKeysAnswer:
        """The keys to verify manifests with."""
        return SigningKeysAnswer(items=[SigningKeyAnswer(key_id=key.key_id, algorithm="Ed25519", pem=key.public_pem)])

    @api.head("/{artifact_id}", response_class=Response, responses=_WHOLE | problems(404, 410))
    async def describe_file(artifact_id: UUID, caller: Operator, if_none_match: IfNoneMatch = None) -> Response:
        """What a download would begin with; it is none, and no event."""
        file = _available(await store.file(caller.tenant, artifact_id))
        if known(if_none_match, _tag(file)):
            return Response(status_code=304, headers=_validators(file))
        return Response(headers=_headers(file) | {"Content-Length": str(file.size_bytes)})

    @api.get("/{artifact_id}", response_class=StreamingResponse, responses=_WHOLE | _PART | problems(404, 410, 416))
    async def download_file(
        artifact_id: UUID,
        caller: Operator,
        range_: Range = None,
        if_range: IfRange = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        """The bytes of a part, a manifest or a JSON Schema, all of them or a range; every download is an event."""
        file = _available(await store.file(caller.tenant, artifact_id))
        if known(if_none_match, _tag(file)):
            return Response(status_code=304, headers=_validators(file))
        span = _span(file, range_ if unchanged(if_range, _tag(file)) else None)
        status, headers = 200, _headers(file)
        if span is None:
            span = range(file.size_bytes)
        else:
            status, headers["Content-Range"] = 206, f"bytes {span.start}-{span.stop - 1}/{file.size_bytes}"
        headers["Content-Length"] = str(len(span))
        with ExitStack() as held:
            slices = None
            if file.object_key is not None:
                held.enter_context(turns.one())
                try:
                    slices = await reading.begin(file.object_key, span)
                except (FileNotFoundError, StoreFailed) as error:
                    _available(await store.file(caller.tenant, artifact_id))  # or it was deleted meanwhile
                    if isinstance(error, FileNotFoundError):
                        raise _lost(error) from error
                    raise
            # What is answered with bytes is written down before the first of them, and nothing else is.
            _available(await store.start_download(caller.tenant, artifact_id, caller.subject))
            if slices is None:
                return Response((file.body or b"")[span.start : span.stop], status, headers)
            return Sending(slices, status, headers, held.pop_all())

    @api.delete("/{artifact_id}", status_code=204, responses=problems(404, 410))
    async def delete_file(artifact_id: UUID, caller: Administrator) -> None:
        """Withdraw a part at once; its bytes are deleted within seconds. Manifests and JSON Schemas stay."""
        file = await store.order_deletion(caller.tenant, artifact_id, caller.subject)
        if file is not None and file.body is not None:
            raise invalid(
                "/path/artifact_id",
                "is a manifest or a JSON Schema, which outlive the parts they describe",
                "Delete the parts of the run.",
            )
        _available(file)

    return api


def _available(file: Download | None) -> Download:
    if file is None:
        raise not_found("file")
    if file.gone is not None:
        why = "its retention has ended" if file.gone == "expired" else "it was deleted on request"
        raise Problem(410, "artifact-expired", f"The file is gone: {why}.")
    return file


def _lost(error: FileNotFoundError) -> Problem:
    """Not that the file is gone: the wrong store may be mounted, and who follows the files would never come back."""
    log.error("object is missing", key=str(error))
    return Problem(
        503, "unavailable",
        "The object store does not have this file. Try again later; if that lasts, tell who runs the service.",
    )  # fmt: skip


def _span(file: Download, asked: str | None) -> range | None:
    try:
        return wanted(asked, file.size_bytes)
    except Unsatisfiable as error:
        raise Problem(
            416, "range-not-satisfiable", f"The file has {file.size_bytes} bytes; ask for some of them.",
            headers={"Content-Range": f"bytes */{file.size_bytes}"},
        ) from error  # fmt: skip


def _tag(file: Download) -> str:
    return f'"{file.sha256}"'


def _validators(file: Download) -> dict[str, str]:
    return {"ETag": _tag(file), "Cache-Control": "private, no-store"}


def _headers(file: Download) -> dict[str, str]:
    """What describes the file, whatever part of it is sent; names are made of ASCII letters by the exporter itself."""
    return _validators(file) | {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{file.file_name}"',
        "Content-Type": next((kind for end, kind in _MEDIA_TYPES.items() if file.file_name.endswith(end)), _BYTES),
        "Repr-Digest": f"sha-256=:{b64encode(bytes.fromhex(file.sha256)).decode()}:",  # RFC 9530
        "X-Content-Type-Options": "nosniff",
    }
