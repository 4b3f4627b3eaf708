"""The JSON Schemas of all topics, for readers in other languages: `python -m shared.contracts docs/contracts`."""

import sys
from pathlib import Path
from typing import Any

import orjson
from pydantic.json_schema import models_json_schema

from shared.events import EVENT_TYPES, TOPICS, Topic


def schema(topic: Topic) -> dict[str, Any]:
    """What a value on `topic` looks like: one of its events, by the record's `ce_type` header."""
    types = {name: event for name, event in EVENT_TYPES.items() if event.topic == topic}
    references, shapes = models_json_schema([(event, "serialization") for event in types.values()])
    for shape in shapes["$defs"].values():
        # What a person may not write, a later version may still add to an event.
        if shape.get("additionalProperties") is False:
            del shape["additionalProperties"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": topic.name,
        "description": f"Values on {topic.name}, keyed by {topic.key}; the header ce_type says which one it is.",
        "anyOf": [{"title": name, **references[event, "serialization"]} for name, event in types.items()],
        **shapes,
    }


def write(folder: Path) -> None:
    """Write one file per topic into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for topic in TOPICS:
        text = orjson.dumps(schema(topic), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        (folder / f"{topic.name}.schema.json").write_bytes(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
