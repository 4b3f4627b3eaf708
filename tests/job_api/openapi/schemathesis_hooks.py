"""How Schemathesis sends bodies that are neither JSON nor text: as the bytes they are."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-pem-file", "application/pkix-cert")  # pyright: ignore[reportUntypedFunctionDecorator]
def as_bytes(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
