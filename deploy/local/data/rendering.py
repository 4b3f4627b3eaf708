"""Columns of values as the text format of COPY (PostgreSQL manual, COPY, "Text Format"), without a loop over rows."""

from binascii import hexlify
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.local.data.chance import Indices, Numbers

Fields = NDArray[Any]  # of bytes, escaped

NULL = rb"\N"
_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def escape(text: str) -> bytes:
    r"""
    >>> escape("a\tb")
    b'a\\tb'
    """
    text = text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return text.encode()


def pool(texts: Iterable[str | None]) -> Fields:
    """Fields to choose from by index."""
    return np.array([NULL if text is None else escape(text) for text in texts], dtype=object)


_PAIRS = {
    base: pool(first + second for first in _BASE32[:base] for second in _BASE32[:base]).astype("S2")
    for base in (10, 32)
}
_CLOCK = pool(f" {s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}." for s in range(86_400)).astype("S10")
_THOUSANDTHS = pool(f"{number:03}+00" for number in range(1_000)).astype("S6")


def when(condition: NDArray[np.bool_], then: Fields | bytes, otherwise: Fields | bytes = NULL) -> Fields:
    return np.where(condition, then, otherwise)


def timestamps(milliseconds: Indices) -> Fields:
    """Moments since 1970 as UTC."""
    days, rest = np.divmod(milliseconds, 86_400_000)
    distinct, positions = np.unique(days, return_inverse=True)
    dates = np.datetime_as_string(distinct.astype("M8[D]")).astype("S10")
    return _joined(dates[positions], _CLOCK[rest // 1_000], _THOUSANDTHS[rest % 1_000])


def digits(numbers: Indices, base: int, places: int) -> Fields:
    """The numbers in base 10 or 32 (Crockford's digits, which sort like the numbers), an even count of places."""
    pairs: list[Fields] = []
    for _ in range(places // 2):
        numbers, rest = np.divmod(numbers, base * base)
        pairs.append(_PAIRS[base][rest])
    return _joined(*reversed(pairs))


def hexadecimal(bits: Numbers) -> Fields:
    """Sixteen digits each."""
    return np.frombuffer(hexlify(bits.astype(">u8").tobytes()), "S16")


def lines(*columns: Sequence[Fields | bytes]) -> bytes:
    """One line per row; a column's value is the concatenation of its pieces."""
    pieces: list[Iterable[bytes]] = []
    for column in columns:
        pieces += [repeat(piece) if isinstance(piece, bytes) else piece.tolist() for piece in column]
        pieces.append(repeat(b"\t"))
    pieces[-1] = repeat(b"\n")
    return b"".join(chain.from_iterable(zip(*pieces, strict=False)))


def _joined(*parts: Fields) -> Fields:
    """Row by row concatenation of fixed-width fields."""
    layout = np.dtype([(f"part{number}", part.dtype) for number, part in enumerate(parts)])
    whole = np.empty(len(parts[0]), layout)
    for number, part in enumerate(parts):
        whole[f"part{number}"] = part
    return whole.view(f"S{layout.itemsize}")
