"""Files as people see them."""

from uuid import UUID

from services.exporter.domain import Download
from services.exporter.store.steps import Part
from shared import outbox
from shared.database import database_now
from shared.events import ArtifactDownloaded


class FileStore(Part):
    """Artifacts and manifests, read by their tenants."""

    async def start_download(self, tenant: str, artifact_id: UUID, actor: str) -> Download | None:
        """The file of `tenant` with this id, with the download written down; None when there is none."""
        async with self._database.tenant(tenant) as connection:
            row = await connection.fetchrow(
                """SELECT artifact_id, run_id, file_name, size_bytes, sha256, object_key, NULL::bytea AS body,
                          state = 'available' AND expires_at > now() AS available
                   FROM artifacts WHERE artifact_id = $1
                   UNION ALL
                   SELECT manifest_id, run_id, file_name, length(body), sha256, NULL, body, true
                   FROM manifests WHERE manifest_id = $1""",
                artifact_id,
            )
            if row is None:
                return None
            download = Download(**row)
            if download.available:
                event = ArtifactDownloaded(
                    occurred_at=await database_now(connection), tenant=tenant, run_id=download.run_id,
                    artifact_id=artifact_id, actor=actor,
                )  # fmt: skip
                await outbox.append(connection, [event])
        return download
