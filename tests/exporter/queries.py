"""Questions about tables of the tests: columns `id`, `at` and `tenant`, rows by time and id, exactly counted."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from services.exporter.pipeline import Extraction, Query
from shared.sources import DataType

END = datetime(2030, 1, 1, tzinfo=UTC)


def query(dsn: str, table: str, **changes: Any) -> Query:
    """The rows of tenant t1; `changes` are fields of the query or of its type, and `type_query` is the type's query."""
    if "media_type_column" in changes:
        changes["types_media"] = ("any",)
    type_ = {
        "title": "Interaction", "table": table, "id_column": "id", "time_column": "at", "tenant_column": "tenant",
        "ordered": True, "total": "count",
    }  # fmt: skip
    renamed = {"type_query": "query", "types_media": "media_types", "types_attachments": "attachments"}
    question: dict[str, Any] = {"dsn": dsn, "tenant": "t1", "interval_from": None, "interval_to": END}
    for name, value in changes.items():
        target = renamed.get(name, name)
        (type_ if name in renamed or name in DataType.model_fields.keys() - _OF_QUERY else question)[target] = value
    if "query" in type_:
        del type_["table"]
    elif "." not in table:
        type_["table"] = f"public.{table}"
    return Query(type=DataType(**type_), **question)


def records(source: Extraction) -> Iterator[bytes]:
    """The records of the rows themselves, one by one."""
    with closing(source.batches(source.entities[0])) as batches:
        for batch in batches:
            yield from batch.records()


_OF_QUERY = {"media_types", "attachments"}
