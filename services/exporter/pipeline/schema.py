"""The JSON Schema (draft 7) of an export: what each record of its files looks like.

Rules for values that JSON has no form for: NaN, Infinity and -Infinity of numbers are strings of these names; infinite
dates and times are the strings `infinity` and `-infinity`; years before Christ end in ` BC`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from services.exporter.pipeline.extract import Entity
from services.exporter.pipeline.source import Column

_DRAFT: Final = "http://json-schema.org/draft-07/schema#"
_TEXT: Final[Mapping[str, Any]] = {"type": "string"}
_HASH: Final[Mapping[str, Any]] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_BASE64: Final[Mapping[str, Any]] = {"type": "string", "contentEncoding": "base64"}
_NUMBER: Final[Mapping[str, Any]] = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_FAR: Final[Mapping[str, Any]] = {"type": "string", "pattern": "^-?infinity$|^[0-9]{5}| BC$"}
"""Dates and times that ISO 8601 with four digits of the year has no form for."""


def _integer(bits: int) -> Mapping[str, Any]:
    return {"type": "integer", "minimum": -(2 ** (bits - 1)), "maximum": 2 ** (bits - 1) - 1}


def _moment(**form: str) -> Mapping[str, Any]:
    return {"anyOf": [{"type": "string", **form}, _FAR]}


_TYPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "bool": {"type": "boolean"},
    "int2": _integer(16),
    "int4": _integer(32),
    "int8": _integer(64),
    "float4": _NUMBER,
    "float8": _NUMBER,
    "numeric": _NUMBER,
    "timestamptz": _moment(format="date-time"),
    "timestamp": _moment(pattern="^[0-9]{4,}-[0-9]{2}-[0-9]{2}T"),
    "date": _moment(format="date"),
    "uuid": {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
    "bytea": {"type": "string", "pattern": r"^\\x([0-9a-f]{2})*$"},
    "json": {},
    "jsonb": {},
}
"""Other base types are text; `format` only where the type's usual values have it."""


def schema(run: str, entities: Sequence[Entity]) -> bytes:
    """The schema of the records in the files of a run, one definition per entity."""
    document = {
        "$schema": _DRAFT,
        "title": f"Export {run}",
        "definitions": {entity.name: _entity(entity) for entity in entities},
        "anyOf": [{"$ref": f"#/definitions/{entity.name}"} for entity in entities],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _entity(entity: Entity) -> Mapping[str, Any]:
    value = _cell if entity.content.format == "csv" else _value
    return {
        "type": "object",
        "additionalProperties": False,
        "required": entity.fields,
        "properties": {column.name: value(entity, column) for column in entity.columns},
    }


def _value(entity: Entity, column: Column) -> Mapping[str, Any]:
    """What JSON Lines holds of a column."""
    masking = entity.content.masking.get(column.name)
    if masking == "redact":
        return {"type": "null"}
    form = _HASH if masking == "hash" else _BASE64 if column.name == entity.base64 else _plain(column)
    described = {"description": column.type} if masking is None else {}
    return {**described, **(_or_null(form) if column.nullable else form)}


def _plain(column: Column) -> Mapping[str, Any]:
    if not column.is_known:
        return _TEXT
    if column.category == "A":
        return {"type": "array"}
    if column.kind == "c":
        return {"type": "object"}
    if not column.base:  # written by a cast of its own
        return {}
    return _TYPES.get(column.base, _TEXT)


def _or_null(form: Mapping[str, Any]) -> Mapping[str, Any]:
    if not form:  # anything
        return form
    return {"anyOf": [form, {"type": "null"}]}


def _cell(entity: Entity, column: Column) -> Mapping[str, Any]:
    """What CSV holds of a column: text, with nothing for NULL."""
    return {"description": column.type, "type": "string"}
