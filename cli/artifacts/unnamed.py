"""Files with plaintext that exist under a name only when they are complete and proved.

On Linux the file has no name at all until then (`O_TMPFILE`, open(2)): whatever ends the process, a power cut
included, leaves nothing. Where the file system can't do that, it has a hidden name that is removed on any failure.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

_MODE: Final = 0o600
"""Exported rows are personal data; whoever wants to share them says so."""


class Unnamed:
    """A file being written; see `unnamed`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hidden: Path | None = None
        self._descriptor = self._open()
        self._file = os.fdopen(self._descriptor, "wb")

    def write(self, content: bytes) -> None:
        self._file.write(content)

    def publish(self, name: str, *, replace: bool) -> Path:
        """Give the file its name, durably. Raises FileExistsError unless it may replace what is there."""
        self._file.flush()
        os.fsync(self._descriptor)
        final = self._folder / name
        if replace:
            temporary = self._hidden or self._link(self._folder / _hidden_name())
            self._hidden = temporary
            os.replace(temporary, final)
        else:
            self._link(final)
        self._discard()
        _sync_folder(self._folder)
        return final

    def close(self) -> None:
        """Forget the file; what was published stays."""
        with suppress(OSError):  # what could not be written is not wanted any more
            self._file.close()
        self._discard()

    def _open(self) -> int:
        anonymous: int | None = getattr(os, "O_TMPFILE", None)
        if anonymous is not None and Path("/proc/self/fd").exists():
            # File systems without it answer in several ways; a reason that counts comes back with the next open.
            with suppress(OSError):
                return os.open(self._folder, os.O_WRONLY | anonymous, _MODE)
        self._hidden = self._folder / _hidden_name()
        return os.open(self._hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)

    def _link(self, name: Path) -> Path:
        if self._hidden is not None:
            os.link(self._hidden, name)
        else:
            # linkat(2) follows the link of /proc only when asked, and Python asks only when given a folder.
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.link(f"/proc/self/fd/{self._descriptor}", name.name, src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                os.close(folder)
        return name

    def _discard(self) -> None:
        if self._hidden is not None:
            self._hidden.unlink(missing_ok=True)
            self._hidden = None


@contextmanager
def unnamed(folder: Path) -> Generator[Unnamed]:
    """A file in `folder` that is gone afterwards, unless it was published."""
    file = Unnamed(folder)
    try:
        yield file
    finally:
        file.close()


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file by one with this content, durably: after a crash there is the old one or the new one."""
    temporary = path.with_name(_hidden_name())
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def publish(temporary: Path, final: Path) -> None:
    """Move a complete, flushed file to its name, durably."""
    os.replace(temporary, final)
    _sync_folder(final.parent)


def _hidden_name() -> str:
    return f".cdds-{token_hex(8)}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
