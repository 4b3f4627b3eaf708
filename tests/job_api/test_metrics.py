"""How long certificates are valid, as the metrics show it."""

from collections.abc import Mapping
from datetime import timedelta
from math import inf

from services.job_api.loops import measure_certificates
from services.job_api.store import Store
from shared.database import Database
from tests.shared.metrics import measured

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


async def keep(database: Database, tenant: str, *remaining: timedelta) -> None:
    """Certificates of a tenant that expire so long from now, as they are stored."""
    async with database.transaction() as connection:
        await connection.executemany(
            """INSERT INTO certificates (tenant, fingerprint, pem, subject, not_before, not_after, added_by)
               VALUES ($1, gen_random_uuid()::text, '', 'CN=client', now() - interval '1 year', now() + $2, 'alice')""",
            [(tenant, each) for each in remaining],
        )


def counts() -> Mapping[str, float]:
    names = ("expired", "7d", "14d", "30d", "later")
    return {name: measured("cdds_certificates", expires=name) for name in names}


async def test_certificates_are_counted_by_when_they_expire_whoever_has_them(store: Store, database: Database) -> None:
    await measure_certificates(store)
    assert set(counts().values()) == {0}
    assert measured("cdds_certificate_expiry_seconds") == inf

    await keep(database, "acme", -DAY, 7 * DAY - HOUR, 14 * DAY - HOUR, 30 * DAY - HOUR)
    await keep(database, "globex", -DAY, 7 * DAY + HOUR, 30 * DAY + HOUR, 300 * DAY)
    await measure_certificates(store)

    assert counts() == {"expired": 2, "7d": 1, "14d": 2, "30d": 1, "later": 2}
    assert 0 < 7 * 86400 - measured("cdds_certificate_expiry_seconds") <= 2 * 3600
    assert measured("cdds_tenants_expired") == 0


async def test_a_tenant_is_without_certificate_when_its_last_one_has_expired(store: Store, database: Database) -> None:
    await keep(database, "acme", -DAY, -2 * DAY)
    await keep(database, "globex", -DAY, DAY)
    await measure_certificates(store)
    assert measured("cdds_tenants_expired") == 1
    assert counts()["expired"] == 3

    await keep(database, "acme", DAY)
    await measure_certificates(store)
    assert measured("cdds_tenants_expired") == 0
