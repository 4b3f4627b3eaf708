"""The certificates that exports of a tenant are encrypted for."""

from datetime import datetime

from services.job_api.domain.certificates import Certificate, Validity, require_current
from services.job_api.domain.errors import NotFound
from services.job_api.store.rows import Once, Part, certificates, claim, clock, write_audit
from shared import outbox
from shared.database import Connection
from shared.events import CertificateAdded, CertificateRemoved


class CertificateStore(Part):
    """Certificates of all tenants."""

    async def add_certificate(
        self, tenant: str, actor: str, certificate: Certificate, once: Once = None
    ) -> tuple[datetime, Certificate]:
        """The database's clock and the certificate as stored; adding it again changes nothing.

        Raises CertificateRefused when it is not valid now, and NotFound when the request is repeated and the
        certificate was removed meanwhile.
        """
        async with self._database.tenant(tenant) as connection:
            if not await claim(connection, tenant, once, certificate.fingerprint):
                await self._add(connection, tenant, actor, certificate)
            elif certificate not in await certificates(connection, tenant):
                raise NotFound("certificate")
            return await clock(connection), certificate

    async def _add(self, connection: Connection, tenant: str, actor: str, certificate: Certificate) -> None:
        now = await _turn(connection, tenant)
        require_current(certificate, now)
        added = await connection.fetchval(
            """INSERT INTO certificates (tenant, fingerprint, pem, subject, not_before, not_after, added_by)
               VALUES ($1, $2, $3, $4, $5, $6, $7)
               ON CONFLICT DO NOTHING RETURNING true""",
            tenant, certificate.fingerprint, certificate.pem, certificate.subject,
            certificate.not_before, certificate.not_after, actor,
        )  # fmt: skip
        if not added:
            return
        event = CertificateAdded(
            occurred_at=now, tenant=tenant, fingerprint=certificate.fingerprint,
            actor=actor, pem=certificate.pem, not_after=certificate.not_after,
        )  # fmt: skip
        await outbox.append(connection, [event])
        await write_audit(
            connection, tenant=tenant, at=now, actor=actor, action="certificate.add",
            subject=certificate.fingerprint, job_id=None, detail={"subject": certificate.subject},
        )  # fmt: skip

    async def certificate(self, tenant: str, fingerprint: str) -> tuple[datetime, Certificate]:
        """The database's clock and one certificate; raises NotFound."""
        async with self._database.tenant(tenant) as connection:
            found = await certificates(connection, tenant)
            now = await clock(connection)
        for certificate in found:
            if certificate.fingerprint == fingerprint:
                return now, certificate
        raise NotFound("certificate")

    async def certificate_validity(self) -> Validity:
        """How long the certificates are valid, all tenants together."""
        async with self._database.session() as connection:
            row = await connection.fetchrow(
                """SELECT count(*) FILTER (WHERE remains < '0') AS expired,
                          count(*) FILTER (WHERE remains >= '0' AND remains < '7 days') AS within_7_days,
                          count(*) FILTER (WHERE remains >= '7 days' AND remains < '14 days') AS within_14_days,
                          count(*) FILTER (WHERE remains >= '14 days' AND remains < '30 days') AS within_30_days,
                          count(*) FILTER (WHERE remains >= '30 days') AS later,
                          min(remains) FILTER (WHERE remains >= '0') AS first,
                          count(DISTINCT tenant) - count(DISTINCT tenant) FILTER (WHERE remains >= '0')
                            AS tenants_expired
                   FROM (SELECT tenant, not_after - now() AS remains FROM certificates) AS known"""
            )
        assert row is not None
        return Validity(**row)

    async def remove_certificate(self, tenant: str, actor: str, fingerprint: str) -> tuple[datetime, list[Certificate]]:
        """The database's clock, and the certificates that are left; raises NotFound."""
        async with self._database.tenant(tenant) as connection:
            now = await _turn(connection, tenant)
            subject = await connection.fetchval(
                "DELETE FROM certificates WHERE tenant = $1 AND fingerprint = $2 RETURNING subject",
                tenant, fingerprint,
            )  # fmt: skip
            if subject is None:
                raise NotFound("certificate")
            event = CertificateRemoved(occurred_at=now, tenant=tenant, fingerprint=fingerprint, actor=actor)
            await outbox.append(connection, [event])
            await write_audit(
                connection, tenant=tenant, at=now, actor=actor, action="certificate.remove",
                subject=fingerprint, job_id=None, detail={"subject": subject},
            )  # fmt: skip
            return now, await certificates(connection, tenant)


async def _turn(connection: Connection, tenant: str) -> datetime:
    """Wait for the tenant's other changes of certificates, then read the clock.

    The exporter decides by `occurred_at` whether a certificate was added or removed last.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('certificates ' || $1, 0))", tenant)
    return await clock(connection)
