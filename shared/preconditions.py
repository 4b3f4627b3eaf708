"""What a request may make its effect depend on: the version that was read, and not having been sent before."""

import hashlib
import re
from typing import Annotated, Final, TypeAlias

from fastapi import Depends, Header, Request
from pydantic import WithJsonSchema

from shared.http import Problem

_TAG: Final = r'(W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS: Final = re.compile(rf"\s*(?:\*|{_TAG}(?:\s*,\s*{_TAG})*)\s*")
_VERSION: Final = re.compile(r'(?:^|[\s,])"([0-9]{1,9})"')

Versions: TypeAlias = frozenset[int] | None
"""The versions a caller is ready to change; None is any."""


def etag(version: int) -> str:
    """The entity tag of a version."""
    return f'"{version}"'


def read_if_match(text: str | None) -> Versions:
    """The versions in an `If-Match` header (RFC 9110, 13.1.1); a tag that is none of ours matches nothing.

    Raises Problem when it is no list of tags. Weak tags never match: the comparison is the strong one.
    """
    if text is None:
        return None
    if not _TAGS.fullmatch(text):
        raise Problem(400, "malformed", 'If-Match is not an entity tag; send the ETag as it came, such as "3".')
    return None if text.strip() == "*" else frozenset(int(version) for version in _VERSION.findall(text))


# Only for the document: a header that is no list of tags is malformed, not a field with a remedy.
_TAGS_SHAPE: Final = WithJsonSchema({"type": "string", "pattern": r'^((W/)?"[!#-~]*"|\*)$'})


def _required(
    if_match: Annotated[
        str,
        _TAGS_SHAPE,
        Header(alias="If-Match", description="The ETag of the version that was read.", examples=['"3"']),
    ],
) -> Versions:
    return read_if_match(if_match)


def _optional(
    if_match: Annotated[
        str | None,
        _TAGS_SHAPE,
        Header(alias="If-Match", description="Do it only to the version with this ETag.", examples=['"3"']),
    ] = None,
) -> Versions:
    return read_if_match(if_match)


IfMatch = Annotated[Versions, Depends(_required)]
"""The versions of a required `If-Match`; 428 without one."""
OptionalIfMatch = Annotated[Versions, Depends(_optional)]

Once: TypeAlias = tuple[str, bytes] | None
"""An idempotency key, and the fingerprint of the request that it stands for; None when the caller sent no key."""


async def _once(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=200,
            pattern=r"^[\x21-\x7e]+$",
            description="A name of this request: sent again with it, the request is answered again, not done again. "
            "Kept for seven days.",
        ),
    ] = None,
) -> Once:
    if idempotency_key is None:
        return None
    asked = f"{request.method} {request.url.path}\n".encode("utf-8", "surrogateescape") + await request.body()
    return idempotency_key, hashlib.sha256(asked).digest()


IdempotencyKey = Annotated[Once, Depends(_once)]
