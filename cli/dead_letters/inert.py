"""Bytes that nobody could read, shown so that a terminal does nothing but show them."""

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

HEX_BYTES: Final = 2048
"""Of a body that is no text, this much is shown."""


def inert(text: str, *, lines: bool = False) -> str:
    r"""`text` with everything escaped that moves, colours or reorders what a terminal shows; `lines` keeps line feeds.

    >>> inert("a\x1b[2Jb\u202e\u0085\n")
    'a\\x1b[2Jb\\u202e\\x85\\n'
    """
    kept = " \n" if lines else " "
    return "".join(c if c in kept or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def readable(value: bytes | None) -> str:
    r"""A key or a header in one line.

    >>> readable(b"acme"), readable(b"\xff\x00"), readable(None)
    ('acme', '\\xff\\x00', '')
    """
    return inert((value or b"").decode("utf-8", "backslashreplace"))


def body(value: bytes | None) -> str:
    """A body for people: JSON indented, other text as it is, anything else in hexadecimal."""
    if value is None:
        return "(no value)"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "\n".join(_dump(value))
    with suppress(ValueError, RecursionError):  # what is no JSON is shown as it is
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return inert(text, lines=True)


def _dump(value: bytes) -> Iterator[str]:
    """Sixteen bytes a line, as `xxd` and `hexdump -C` have them."""
    for start in islice(range(0, len(value), 16), HEX_BYTES // 16):
        piece = value[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        yield f"{start:08x}  {piece.hex(' '):47}  {text}"
    if len(value) > HEX_BYTES:
        yield f"… {len(value) - HEX_BYTES:,} more bytes; --body FILE writes all of them"
