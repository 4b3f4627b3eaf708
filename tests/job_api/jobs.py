"""What a person writes, and the sources it is checked against."""

from typing import Any

from shared.jobs import JobSettings
from shared.sources import Source, Sources

WRITTEN: dict[str, Any] = {
    "title": "A job",
    "source": "ucs",
    "type": "interaction",
    "schedule": {"kind": "hourly", "every": 4},
    "timeframe": {"kind": "last", "count": 4, "unit": "hour"},
}


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
