"""Which bytes a request asks for, and whether it has them already (RFC 9110, 13 and 14).

Written here because what there is answers something else: Starlette's parser belongs to files on disk, answers 400 to
what the RFC lets servers ignore, and takes `bytes=5` and `bytes=0x-` for the whole; Werkzeug would be a second web
framework for twenty lines.
"""

import re
from typing import Final

_RANGE: Final = re.compile(r"(?P<first>[0-9]+)-(?P<last>[0-9]*)|-(?P<suffix>[0-9]+)")
_TAGS: Final = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')


class Unsatisfiable(Exception):
    """The range lies outside the file."""


def wanted(text: str | None, size: int) -> range | None:
    """The bytes of a file of `size` that a `Range` header asks for; None is the whole file.

    The whole is also the answer to several ranges, to other units, and to what is no range at all: clients have to
    look at the status, and none is worse off. Raises Unsatisfiable.

    >>> wanted("bytes=2-3", 10), wanted("bytes=-4", 10), wanted("bytes=0-1,5-6", 10)
    (range(2, 4), range(6, 10), None)
    """
    unit, _, ranges = (text or "").partition("=")
    asked = [part for each in ranges.split(",") if (part := each.strip(" \t"))]
    found = _RANGE.fullmatch(asked[0]) if unit.lower() == "bytes" and len(asked) == 1 else None
    if found is None:
        return None
    try:
        first, last, suffix = (int(digits) if digits else None for digits in found.groups())
    except ValueError:  # thousands of digits
        return None
    if first is None:
        return _suffix(suffix or 0, size)
    if last is not None and last < first:
        return None
    if first >= size:
        raise Unsatisfiable
    return range(first, size if last is None else min(size, last + 1))


def _suffix(length: int, size: int) -> range | None:
    if length == 0:
        raise Unsatisfiable
    return range(max(0, size - length), size) if size else None


def unchanged(if_range: str | None, tag: str) -> bool:
    """Whether a range may be taken from the file with the strong `tag`: a date or a weak tag proves nothing."""
    return if_range is None or if_range.strip() == tag


def known(if_none_match: str | None, tag: str) -> bool:
    """Whether the caller has the file with `tag` already; this comparison is the weak one."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag in _TAGS.findall(if_none_match)
