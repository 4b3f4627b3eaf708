"""What a person writes, and the sources it is checked against."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from services.job_api.domain import jobs
from services.job_api.domain.certificates import Certificate
from services.job_api.store import Store
from shared.events import Job
from shared.jobs import JobSettings
from shared.sources import Source, Sources

WRITTEN: dict[str, Any] = {
    "title": "A job",
    "source": "ucs",
    "type": "interaction",
    "schedule": {"kind": "hourly", "every": 4},
    "timeframe": {"kind": "last", "count": 4, "unit": "hour"},
}


VALID = Certificate("f" * 64, "", "CN=client", datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def settings(**changes: Any) -> JobSettings:
    return JobSettings.model_validate({**WRITTEN, **changes})


def operators_file() -> Sources:
    columns = {"id_column": "id", "time_column": "at"}
    interaction = {
        **columns, "title": "Interaction", "table": "ucs.interactions", "tenant_column": "tenant",
        "media_type_column": "media_type", "media_types": ["voice", "chat"],
    }  # fmt: skip
    contact = {**columns, "title": "Contact", "table": "ucs.contacts", "tenant_column": "tenant"}
    flight = {**columns, "title": "Flight", "table": "flights.flights"}
    return Sources.model_validate(
        {
            "sources": {
                "ucs": {"title": "UCS", "dsn": "env:UCS", "types": {"interaction": interaction, "contact": contact}},
                "flights": {
                    "title": "Flights", "dsn": "env:FLIGHTS", "tenants": ["acme"], "types": {"flight": flight},
                },
            }
        }
    )  # fmt: skip


def sources() -> dict[str, Source]:
    return operators_file().sources


async def create(store: Store, tenant: str = "acme", once: tuple[str, bytes] | None = None, **changes: Any) -> Job:
    """A stored job of a tenant that has a certificate."""
    await store.add_certificate(tenant, "alice", VALID)
    job_id = uuid4()
    row = await store.create_job(
        tenant, job_id,
        lambda now, certificates: jobs.new_job(
            settings(**changes), job_id=job_id, created_by="alice", now=now, sources=sources(),
            certificates=certificates,
        ),
        once,
    )  # fmt: skip
    return row.job
