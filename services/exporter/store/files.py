"""Files as people see them."""

from uuid import UUID

from services.exporter.domain import Download
from services.exporter.store.steps import Part
from shared import outbox
from shared.database import Connection, database_now
from shared.events import ArtifactDownloaded


class FileStore(Part):
    """Parts and documents, read and withdrawn by their tenants."""

    async def file(self, tenant: str, file_id: UUID) -> Download | None:
        """The file of `tenant` with this id, also one that is gone; None when there is none."""
        async with self._database.tenant(tenant) as connection:
            return await self._file(connection, file_id)

    async def start_download(self, tenant: str, file_id: UUID, actor: str) -> Download | None:
        """The same, with the download written down unless the file is gone."""
        async with self._database.tenant(tenant) as connection:
            file = await self._locked(connection, file_id)
            if file is not None and file.gone is None:
                event = ArtifactDownloaded(
                    occurred_at=await database_now(connection), tenant=tenant, run_id=file.run_id,
                    artifact_id=file_id, actor=actor,
                )  # fmt: skip
                await outbox.append(connection, [event])
        return file

    async def order_deletion(self, tenant: str, file_id: UUID, actor: str) -> Download | None:
        """Withdraw a part on behalf of `actor`: gone from now on, its bytes as soon as a janitor looks.

        Gives the file as it was before; documents, and what is gone already, stay as they are.
        """
        async with self._database.tenant(tenant) as connection:
            file = await self._locked(connection, file_id)
            if file is not None and file.gone is None and file.object_key is not None:
                await connection.execute(
                    """UPDATE artifacts SET state = 'deleting', deletion_reason = 'requested', deletion_actor = $2,
                                            deletion_due_at = now()
                       WHERE artifact_id = $1""",
                    file_id, actor,
                )  # fmt: skip
        return file

    async def _locked(self, connection: Connection, file_id: UUID) -> Download | None:
        """Two orders can't both be the first, and no download is told of after the deletion."""
        await connection.execute("SELECT FROM artifacts WHERE artifact_id = $1 FOR NO KEY UPDATE", file_id)
        return await self._file(connection, file_id)

    async def _file(self, connection: Connection, file_id: UUID) -> Download | None:
        row = await connection.fetchrow(
            """SELECT artifact_id, run_id, file_name, size_bytes, sha256, object_key, NULL::bytea AS body,
                      CASE WHEN state <> 'available' THEN deletion_reason
                           WHEN expires_at <= now() THEN 'expired' END AS gone
               FROM artifacts WHERE artifact_id = $1
               UNION ALL
               SELECT document_id, run_id, file_name, length(body), sha256, NULL, body, NULL
               FROM documents WHERE document_id = $1""",
            file_id,
        )
        return None if row is None else Download(**row)
