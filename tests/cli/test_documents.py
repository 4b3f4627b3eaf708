"""Files that people write, read with their lines."""

import json
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cli import documents, settings
from cli.documents import FilesRefused, parse
from shared.jobs import JobSettings

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\x7f\x85\ufeff\ufffe\uffff", min_codepoint=32)
TEXT = st.text(LETTERS)
NAMES = st.text(LETTERS, max_size=80)
"""YAML takes 1,024 characters before a colon, and JSON writes some letters in twelve."""
LIKE_NUMBERS = st.from_regex(r"[-+]?[0-9]{0,3}[.:eExo_]?[0-9]{0,3}", fullmatch=True)
WORDS = st.sampled_from(["yes", "Off", "null", "~", "", "2026-01-01", "06:30", "1e5", "0x1F", "0o7", ".inf", "=", "<<"])
CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | TEXT | LIKE_NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | LIKE_NUMBERS | WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(CONTENT.filter(lambda content: isinstance(content, dict | list)))
def test_what_is_written_is_read_by_either_version_of_yaml_and_from_json(content: Any) -> None:
    text = documents.write(content)
    assert parse(text, "").content == content
    assert yaml.safe_load(text) == content
    for written in (orjson.dumps(content).decode(), json.dumps(content), json.dumps(content, indent="\t")):
        assert parse(written, "").content == content


def test_everything_has_its_line() -> None:
    written = parse("a:\n  - b: 1\n\n    c/d: 2\n", "file")

    assert written.lines == {"": 1, "/a": 1, "/a/0": 2, "/a/0/b": 2, "/a/0/c~1d": 4}
    assert str(written.fault("/a/0/missing", "is missing", "Add it.")) == "file:2: /a/0/missing: is missing. Add it."


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2\n",
        "\t- a\n",
        "a: \x01\n",
        "[" * 5000,
        "a: &a\n  b: *a\n",
        "a: *unknown\n",
        "? {a: 1}\n: 2\n",
        "a: !!python/object/apply:os.system [true]\n",
        "\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9 if n else ['1'])}]" for n in range(9)),
    ],
)
def test_what_is_no_document_is_refused_in_a_line_each(text: str) -> None:
    with pytest.raises(FilesRefused) as refused:
        parse(text, "file")
    assert all(str(fault).startswith("file") and "\n" not in str(fault) for fault in refused.value.faults)


def test_what_is_needed_of_settings_is_enough(subtests: Any) -> None:
    base = {"title": "a", "source": "ucs", "type": "contact", "schedule": {"kind": "hourly", "every": 1}}
    for more in (
        {"timeframe": {"kind": "all"}},
        {"timeframe": {"kind": "last", "unit": "day"}},
        {"timeframe": {"kind": "last", "unit": "day"}, "overlap": "buffer_one"},
        {"timeframe": {"kind": "last", "unit": "day"}, "catchup": {"mode": "latest", "window": "P1D"}},
        {"timeframe": {"kind": "all"}, "overlap": "buffer_all", "catchup": {"mode": "all"}},
        {"timeframe": {"kind": "all"}, "masking": {"a": "hash"}, "fields": ["a"], "attachments": True},
    ):
        with subtests.test(**more):
            whole = JobSettings.model_validate({**base, **more})
            needed = settings.needed(whole)
            assert JobSettings.model_validate(needed) == whole
            assert "description" not in needed
