"""What can go wrong with files on this machine, as one line that says what to do."""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from cli.console import Failure

_REMEDIES: Final = {
    errno.ENOSPC: "the disk is full: make room, or choose another folder with --into",
    errno.EDQUOT: "your disk quota is used up: make room, or choose another folder with --into",
    errno.EFBIG: "the file is larger than this file system or your limits allow: choose another folder with --into",
    errno.EACCES: "permission denied: check who may read or write it",
    errno.EPERM: "permission denied: check who may read or write it",
    errno.EROFS: "the file system is read-only: choose another folder with --into",
    errno.ENOENT: "there is no such file or folder: check the path",
    errno.ENOTDIR: "a part of the path is a file: check the path",
    errno.EISDIR: "it is a folder: name the file",
    errno.EEXIST: "it exists: remove it, or choose another folder with --into",
    errno.EIO: "the disk reports an error: check it, then try again",
}


def explained(error: OSError, what: object = None) -> Failure:
    """The failure to show for an error of the operating system about `what`."""
    subject = what if what is not None else error.filename2 or error.filename
    reason = _REMEDIES.get(error.errno or 0, error.strerror or str(error))
    return Failure(f"{subject}: {reason}" if subject else reason)


@contextmanager
def one_line() -> Generator[None]:
    """Whatever the operating system refuses inside becomes a Failure."""
    try:
        yield
    except OSError as error:
        raise explained(error) from error
