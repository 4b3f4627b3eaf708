"""The little of BER (X.690) that streaming needs: frames of indefinite length, and a forward-only reader."""

from collections.abc import Iterator
from typing import Protocol

from services.exporter.pipeline.errors import MalformedMessage

SEQUENCE = 0x30
OCTET_STRING = 0x04
EXPLICIT_0 = 0xA0
END = b"\x00\x00"
"""Closes one frame of indefinite length."""

_IMPLICIT_0 = 0x80
_INDEFINITE = 0x80
_PIECE_BYTES = 1024**2
_ELEMENT_BYTES = 1024**2
"""More than any list of recipients needs (about 600 bytes each); a hostile length can't make us allocate more."""


class Readable(Protocol):
    """What a sealed file is read from; binary files and the store's readers qualify."""

    def read(self, size: int, /) -> bytes: ...


def opening(tag: int) -> bytes:
    """The header of a frame that `END` closes."""
    return bytes((tag, _INDEFINITE))


class Reader:
    """Walks a structure that is known beforehand; whatever differs raises MalformedMessage."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._position = 0

    def enter(self, tag: int) -> int | None:
        """Step into an element; the result, for `leave`, is where it ends, or None when a mark will tell."""
        found, length, _ = self._header()
        if found != tag:
            raise MalformedMessage(f"tag {found:#04x} where {tag:#04x} belongs")
        return None if length is None else self._position + length

    def leave(self, end: int | None) -> None:
        if (end is None and self._exactly(2) != END) or (end is not None and self._position != end):
            raise MalformedMessage("something unknown at the end of a structure")

    def expect(self, encoded: bytes) -> None:
        if self._exactly(len(encoded)) != encoded:
            raise MalformedMessage("another structure than CDDS writes")

    def expect_end(self) -> None:
        if self._file.read(1):
            raise MalformedMessage("bytes after the end of the message")

    def element(self) -> bytes:
        """A whole element of definite length, header included."""
        _, length, header = self._header()
        if length is None or length > _ELEMENT_BYTES:
            raise MalformedMessage("a structure without a sensible length")
        return header + self._exactly(length)

    def octets(self) -> Iterator[bytes]:
        """The bytes of an OCTET STRING tagged `[0]`, whether it came as one string or as many."""
        tag, length, _ = self._header()
        if tag == _IMPLICIT_0 and length is not None:
            yield from self._pieces(length)
            return
        if tag != EXPLICIT_0:
            raise MalformedMessage("there is no encrypted content")
        end = None if length is None else self._position + length
        while end is None or self._position < end:
            tag, length, header = self._header()
            if end is None and header == END:
                return
            if tag != OCTET_STRING or length is None:
                raise MalformedMessage("the encrypted content is not made of octet strings")
            yield from self._pieces(length)

    def _header(self) -> tuple[int, int | None, bytes]:
        """Tag, length (None if indefinite) and the bytes of both; the tags in use are one byte long."""
        header = self._exactly(2)
        tag, first = header
        if first < _INDEFINITE:
            return tag, first, header
        if first == _INDEFINITE:
            return tag, None, header
        if first > 0x88:
            raise MalformedMessage("a length of more than 64 bits")
        length = self._exactly(first & 0x7F)
        return tag, int.from_bytes(length), header + length

    def _pieces(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self._exactly(min(length, _PIECE_BYTES))
            length -= len(piece)
            yield piece

    def _exactly(self, size: int) -> bytes:
        """Raises MalformedMessage where the file is too short; a reader may return less than asked at a time."""
        data = bytes(self._file.read(size))
        while len(data) < size:
            more = self._file.read(size - len(data))
            if not more:
                raise MalformedMessage("the file is incomplete")
            data += bytes(more)
        self._position += size
        return data
