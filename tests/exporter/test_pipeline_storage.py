"""What a store promises, on a folder and on an S3 server."""

import hashlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest

from services.exporter.pipeline.errors import StoreFailed
from services.exporter.pipeline.storage import ObjectStore
from tests.exporter.s3 import Bucket, s3_server, soon

MEBIBYTE = 1024**2
PIECE = 8 * MEBIBYTE


class Place(Protocol):
    """Where a store keeps things, seen from outside."""

    def store(self) -> ObjectStore: ...

    def objects(self) -> list[str]: ...

    def open_uploads(self) -> list[str]: ...


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def store(self) -> ObjectStore:
        return ObjectStore(self.path)

    def objects(self) -> list[str]:
        return [name for name in files(self.path) if "#" not in name]

    def open_uploads(self) -> list[str]:
        return [name for name in files(self.path) if "#" in name]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def content_of(size: int) -> bytes:
    """Bytes of which no two pieces are alike."""
    return b"".join(hashlib.sha256(i.to_bytes(8, "big")).digest() for i in range(size // 32 + 1))[:size]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Folder(tmp_path / "store")
    return Bucket(request.getfixturevalue("server"))


@pytest.fixture
def store(place: Place) -> ObjectStore:
    return place.store()


class TestEveryStore:
    @pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, 2 * PIECE, 3 * PIECE + 1, 5 * PIECE - 1])
    def test_what_was_written_is_read_back(self, store: ObjectStore, place: Place, size: int) -> None:
        content = content_of(size)

        stored = store.write("run/1/0001", (content[i : i + 1_000_003] for i in range(0, size, 1_000_003)))

        assert stored.size == size
        assert stored.sha256 == hashlib.sha256(content).hexdigest()
        assert b"".join(store.read("run/1/0001")) == content
        assert store.exists("run/1/0001")
        assert place.open_uploads() == []

    def test_chunks_may_have_any_size(self, store: ObjectStore) -> None:
        chunks = [b"a" * 1000, b"", content_of(5 * PIECE + 7), b"c"]

        stored = store.write("run/1/0001", iter(chunks))

        assert stored.sha256 == hashlib.sha256(b"".join(chunks)).hexdigest()

    def test_a_range_is_half_open_and_ends_with_the_object(self, store: ObjectStore) -> None:
        content = content_of(2 * PIECE)
        store.write("a", [content])

        for start, end in [(0, 1), (5, 5), (PIECE - 1, PIECE + 1), (1, 2 * PIECE - 1), (7, 99**9), (2 * PIECE, None)]:
            assert b"".join(store.read("a", start, end)) == content[start:end]

    def test_a_missing_object_is_not_found(self, store: ObjectStore) -> None:
        assert not store.exists("run/1/0001")
        with pytest.raises(FileNotFoundError):
            store.read("run/1/0001")

    @pytest.mark.parametrize("size", [10, 5 * PIECE], ids=["one piece", "several pieces"])
    def test_an_error_in_the_stream_passes_through_and_leaves_nothing(
        self, store: ObjectStore, place: Place, size: int
    ) -> None:
        class SourceGone(OSError):
            pass

        def broken() -> Iterator[bytes]:
            yield content_of(size)
            assert not store.exists("run/1/0001")
            assert place.objects() == []
            raise SourceGone

        with pytest.raises(SourceGone):
            store.write("run/1/0001", broken())
        assert place.objects() == []
        assert soon(lambda: place.open_uploads() == [])

    def test_nothing_is_visible_before_the_last_byte(self, store: ObjectStore, place: Place) -> None:
        def chunks() -> Iterator[bytes]:
            for _ in range(6):
                yield bytes(PIECE)
                assert not store.exists("run/1/0001")
            assert place.objects() == []
            assert place.open_uploads() != []
            yield b"x"
            assert not store.exists("run/1/0001")

        store.write("run/1/0001", chunks())

        assert len(place.objects()) == 1

    def test_another_thread_may_make_the_chunks(self, store: ObjectStore) -> None:
        made: queue.Queue[bytes | None] = queue.Queue(maxsize=2)
        content = content_of(3 * PIECE)

        def make() -> None:
            for start in range(0, len(content), MEBIBYTE):
                made.put(content[start : start + MEBIBYTE])
            made.put(None)

        maker = threading.Thread(target=make)
        maker.start()
        stored = store.write("run/1/0001", iter(made.get, None))
        maker.join()

        assert stored.sha256 == hashlib.sha256(content).hexdigest()

    def test_an_object_deleted_while_it_is_read_is_never_just_shorter(self, store: ObjectStore) -> None:
        store.write("run/1/0001", [bytes(2 * PIECE + 1)])
        pieces = store.read("run/1/0001")
        next(pieces)

        store.delete(["run/1/0001"])

        with pytest.raises(StoreFailed, match=r"not there any more|No such file|NoSuchKey"):
            list(pieces)

    def test_deleting_what_is_not_there_is_fine(self, store: ObjectStore) -> None:
        for key in ("run/1/0001", "run/1/0002", "run/2/0001"):
            store.write(key, [b"x"])

        store.delete(["run/1/0001", "run/9/0001", "run/1/0002"])
        store.delete(["run/1/0001"])
        store.delete([])

        assert [store.exists(f"run/{key}") for key in ("1/0001", "1/0002", "2/0001")] == [False, False, True]

    def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(self, store: ObjectStore) -> None:
        keys = ("run/1/0001", "run/1/0002", "run/11/0001", "run/2")
        for key in keys:
            store.write(key, [b"x"])

        store.delete_prefix("run/1")
        store.delete_prefix("run/1")

        assert [store.exists(key) for key in keys] == [False, False, True, True]

    def test_prefixes_name_every_attempt_with_its_newest_object(self, store: ObjectStore) -> None:
        before = datetime.now(UTC) - timedelta(seconds=2)  # S3 tells whole seconds
        for key in ("b/1/0001", "a/1/0001", "a/1/0002", "a/11/0001", "a/2/0001", "a/2/0002", "a/neither"):
            store.write(key, [b"x"])
        store.delete(["a/2/0001", "a/2/0002"])

        found = sorted(store.prefixes())

        assert [(run, attempt) for run, attempt, _ in found] == [("a", "1"), ("a", "11"), ("b", "1")]
        assert all(before <= newest <= datetime.now(UTC) for _, _, newest in found)

    @pytest.mark.parametrize("prefix", ["", "/"])
    def test_the_whole_store_is_no_prefix(self, store: ObjectStore, prefix: str) -> None:
        with pytest.raises(ValueError, match="whole store"):
            store.delete_prefix(prefix)


class TestFolder:
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return ObjectStore(tmp_path / "store")

    def test_a_path_and_a_url_name_the_same_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "with blank"
        ObjectStore(folder).write("a", [b"1"])

        assert ObjectStore(str(folder)).exists("a")
        assert ObjectStore(folder.as_uri()).exists("a")

    def test_a_killed_writer_leaves_nothing_visible_and_what_it_leaves_can_be_deleted(self, tmp_path: Path) -> None:
        killed = f"""
import os, signal
from pathlib import Path
from services.exporter.pipeline.storage import ObjectStore

def chunks():
    yield bytes(40 * 1024**2)
    os.kill(os.getpid(), signal.SIGKILL)
    yield b""

ObjectStore(Path({str(tmp_path)!r})).write("run/1/0001", chunks())
"""
        assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL

        store = ObjectStore(tmp_path)
        assert files(tmp_path) == ["run/1/0001#1"]
        assert not store.exists("run/1/0001")
        assert [(run, attempt) for run, attempt, _ in store.prefixes()] == [("run", "1")]
        store.delete_prefix("run/1")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["..", "../other", "run/../..", "/etc"])
    def test_what_lies_outside_is_refused(self, store: ObjectStore, name: str) -> None:
        with pytest.raises(ValueError, match="outside"):
            store.delete_prefix(name)
        with pytest.raises(ValueError, match="outside"):
            store.delete([name])

    def test_deleting_the_last_object_removes_its_folders_and_no_others(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        for key in ("a/1/0001", "a/2/0001", "b/1/0001"):
            store.write(key, [b"x"])

        store.delete(["a/1/0001", "b/1/0001"])

        folders = [str(p.relative_to(tmp_path / "store")) for p in (tmp_path / "store").rglob("*") if p.is_dir()]
        assert sorted(folders) == ["a", "a/2"]

    def test_a_store_that_can_not_write_says_so(self, store: ObjectStore, tmp_path: Path) -> None:
        (tmp_path / "store" / "run").write_text("a file where a folder belongs")

        with pytest.raises(StoreFailed, match="run/1/0001"):
            store.write("run/1/0001", [b"x"])

    @pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[:-1] + b"y", lambda b: b + b"y"])
    def test_a_disk_that_returns_other_bytes_is_noticed(self, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
        class Rotting(ObjectStore):
            def _make_durable(self, key: str) -> None:
                super()._make_durable(key)
                path = tmp_path / key
                path.write_bytes(change(path.read_bytes()))

        with pytest.raises(StoreFailed, match="was read back"):
            Rotting(tmp_path).write("run/1/0001", [b"x"])
