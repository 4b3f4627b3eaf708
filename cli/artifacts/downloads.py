"""Downloads that go on where they broke.

A download keeps what it has under `NAME.part` and asks for the rest (RFC 9110, Range with If-Range: a service that
has another file by then, or that knows no ranges, sends all of it). The hash says whether it is the right file before
it gets its name.
"""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import httpx

from cli.artifacts.unnamed import publish
from cli.client import CHUNK_BYTES, Client, Interrupted
from cli.console import Advance, Exit, Failure


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of the service; what is stored has this size and SHA-256."""

    id: str
    name: str
    size: int
    sha256: str


def download(client: Client, remote: Remote, folder: Path, advance: Advance) -> Path:
    """Bring a file into the folder; it has its name only when it is complete and its SHA-256 is right."""
    temporary = folder / f"{remote.name}.part"
    with temporary.open("ab+") as file:
        partial = _Partial(file, advance)
        partial.resume(remote.size)
        kept = partial.size
        _complete(client, partial, remote)
        if kept and partial.sha256 != remote.sha256:  # what was kept may have been damaged here
            partial.restart()
            _complete(client, partial, remote)
        file.flush()
        os.fsync(file.fileno())
    if partial.sha256 != remote.sha256:
        temporary.unlink()
        raise Failure(
            f"{remote.name}: what the service sends has another SHA-256 than it should; nothing was kept: try"
            " again, then tell the operator",
            Exit.VERIFICATION,
        )
    final = folder / remote.name
    publish(temporary, final)
    return final


def _complete(client: Client, partial: "_Partial", remote: Remote) -> None:
    pauses, before = client.pauses(), partial.size
    while partial.size < remote.size:
        try:
            _append(client, partial, remote)
        except (httpx.TransportError, Interrupted) as error:
            if partial.size >= before + CHUNK_BYTES:
                pauses, before = client.pauses(), partial.size
            client.wait(next(pauses), error)


def _append(client: Client, partial: "_Partial", remote: Remote) -> None:
    have = partial.size
    headers = {"Range": f"bytes={have}-", "If-Range": f'"{remote.sha256}"'} if have else {}
    with client.open(f"/files/{remote.id}", headers=headers) as answer:
        continues = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and (answer.status_code == 416 or (answer.status_code == 206 and not continues)):
            partial.restart()
            raise Interrupted("it does not have the rest of the file")
        client.check(answer, remote.name)
        if have and answer.status_code != 206:
            partial.restart()
        for chunk in answer.iter_raw():  # as it comes: a larger one that is waited for is lost with the connection
            if partial.size + len(chunk) > remote.size:
                partial.restart()
                raise Failure(
                    f"{remote.name}: the service sends more than the {remote.size} bytes that it should: tell its"
                    " operator",
                    Exit.VERIFICATION,
                )
            partial.add(chunk)
    if partial.size < remote.size:
        raise Interrupted(f"{remote.name} ended after {partial.size} of {remote.size} bytes")


class _Partial:
    """A file that grows at its end, and the SHA-256 of what it holds."""

    def __init__(self, file: BinaryIO, advance: Advance) -> None:
        self._file = file
        self._advance = advance
        self._digest = sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def resume(self, limit: int) -> None:
        """Take up what an earlier call left, unless that is more than the file will have."""
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            self._count(chunk)
        if self.size > limit:
            self.restart()

    def add(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._count(chunk)

    def restart(self) -> None:
        """Begin again with nothing."""
        self._file.truncate(0)
        self._advance(-self.size)
        self._digest = sha256()
        self.size = 0

    def _count(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.size += len(chunk)
        self._advance(len(chunk))
