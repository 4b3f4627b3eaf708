import hashlib
import io
import random
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.exporter.pipeline import archive
from services.exporter.pipeline.archive import Part, split
from services.exporter.pipeline.batch import batched
from services.exporter.pipeline.errors import RowTooLarge

WRITTEN = datetime(2026, 3, 1, 12, 30, 8, tzinfo=UTC)


def zips(lines: Iterable[bytes], split_bytes: int | None, header: bytes = b"") -> Iterator[tuple[Part, bytes]]:
    entry = "Interaction-r-{:04}.jsonl".format
    for part in split(batched(lines), entry=entry, split_bytes=split_bytes, modified_at=WRITTEN, header=header):
        yield part, b"".join(part)


def unzipped(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        (name,) = file.namelist()
        return file.read(name)


def incompressible(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size).replace(b"\n", b"\r") + b"\n"


def compressible(size: int, seed: int = 0) -> bytes:
    """Exactly `size` bytes and a line feed, of words, that shrink to about a quarter."""
    words = random.Random(seed).choices((b"order", b"parcel", b"late", b"please", b"help", b"Zoe"), k=size // 4)
    return b" ".join(words).ljust(size)[:size] + b"\n"


def test_one_entry_with_fixed_name_time_and_permissions() -> None:
    ((part, data),) = zips([b'{"a":1}\n', b'{"a":2}\n'], None)

    (entry,) = zipfile.ZipFile(io.BytesIO(data)).infolist()
    assert entry.filename == part.entry == "Interaction-r-0001.jsonl"
    assert entry.date_time == (2026, 3, 1, 12, 30, 8)
    assert entry.external_attr >> 16 == 0o100644
    assert unzipped(data) == b'{"a":1}\n{"a":2}\n'


def test_a_part_counts_and_hashes_what_it_holds() -> None:
    ((part, data),) = zips([b"1\n", b"22\n"], None)

    assert (part.rows, part.plain_bytes, part.zip_bytes) == (2, 5, len(data))
    assert part.plain_sha256 == hashlib.sha256(b"1\n22\n").hexdigest()


def test_no_lines_give_one_part_with_an_empty_file() -> None:
    ((part, data),) = zips([], 1000)

    assert (part.rows, part.plain_bytes) == (0, 0)
    assert unzipped(data) == b""


@settings(deadline=None, max_examples=60)
@given(
    shapes=st.lists(st.tuples(st.sampled_from([compressible, incompressible]), st.integers(0, 40_000)), max_size=60),
    split_bytes=st.integers(1_000, 100_000),
    header=st.sampled_from([b"", b"id,text\n", incompressible(300)]),
)
def test_parts_keep_the_limit_hold_whole_lines_and_every_line_once(
    shapes: Sequence[tuple[Callable[[int, int], bytes], int]], split_bytes: int, header: bytes
) -> None:
    lines = [shape(size, seed) for seed, (shape, size) in enumerate(shapes)]

    parts = list(zips(lines, split_bytes, header))

    contents = [unzipped(data) for _, data in parts]
    assert all(content.startswith(header) for content in contents)
    assert b"".join(content[len(header) :] for content in contents) == b"".join(lines)
    assert sum(part.rows for part, _ in parts) == len(lines)
    assert [part.plain_bytes for part, _ in parts] == [len(content) for content in contents]
    assert all(content.endswith(b"\n") for content in contents if content)
    assert all(len(data) <= split_bytes or part.rows == 1 for part, data in parts)
    assert [part.number for part, _ in parts] == list(range(1, len(parts) + 1))


@pytest.mark.parametrize("make", [compressible, incompressible])
def test_parts_are_full(make: Callable[[int, int], bytes]) -> None:
    lines = [make(1300, seed) for seed in range(20_000)]

    parts = list(zips(lines, 300_000))

    assert len(parts) > 1
    assert all(300_000 - 5_000 < len(data) <= 300_000 for _, data in parts[:-1])


def test_a_line_longer_than_the_limit_is_alone_however_small_it_becomes() -> None:
    lines = [b"1\n", compressible(50_000), b"3\n", b"4\n", incompressible(50_000)]

    parts = list(zips(lines, 20_000))

    assert [part.rows for part, _ in parts] == [1, 1, 2, 1]
    assert len(parts[1][1]) < 20_000 < len(parts[3][1])


def test_a_line_longer_than_a_gibibyte_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_RECORD_BYTES", 1000)

    with pytest.raises(RowTooLarge, match="1001 bytes"):
        list(zips([b"1\n", compressible(1000)], None))


def test_equal_lines_give_equal_zips() -> None:
    lines = [compressible(1300, seed) for seed in range(2_000)]

    assert [data for _, data in zips(lines, 50_000)] == [data for _, data in zips(lines, 50_000)]
