"""The HTTP edge of exporter: files, and the keys that prove where they come from."""

import asyncio
from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from services.exporter.pipeline import ObjectStore
from services.exporter.pipeline.manifest import SigningKey
from services.exporter.store import Store
from shared.http import Operator, Problem, Reader, not_found


class SigningKeyAnswer(BaseModel):
    """A public key that manifests of this installation are signed with."""

    key_id: str
    algorithm: str
    pem: str


class SigningKeysAnswer(BaseModel):
    """All keys that were ever in use."""

    items: list[SigningKeyAnswer]
    next: None = None


def router(store: Store, objects: ObjectStore, key: SigningKey) -> APIRouter:
    """The routes under `/api/v1/files`."""
    api = APIRouter(prefix="/api/v1/files", tags=["files"])

    @api.get("/signing-keys")
    async def list_signing_keys(_: Reader) -> SigningKeysAnswer:
        """The keys to verify manifests with."""
        return SigningKeysAnswer(items=[SigningKeyAnswer(key_id=key.key_id, algorithm="Ed25519", pem=key.public_pem)])

    @api.get("/{artifact_id}", response_class=StreamingResponse)
    async def download_file(artifact_id: UUID, caller: Operator) -> Response:
        """The bytes of a part or of a manifest; every download is an event."""
        download = await store.start_download(caller.tenant, artifact_id, caller.subject)
        if download is None:
            raise not_found("file")
        if not download.available:
            raise Problem(410, "artifact-expired", "The file was deleted when its retention ended.")
        headers = {
            "Content-Disposition": f'attachment; filename="{download.file_name}"',
            "Content-Length": str(download.size_bytes),
            "ETag": f'"{download.sha256}"',
        }
        if download.body is not None:
            return Response(download.body, media_type="application/json", headers=headers)
        chunks = await asyncio.to_thread(objects.read, str(download.object_key))
        return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)

    return api
