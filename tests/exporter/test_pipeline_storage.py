import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.exporter.pipeline.errors import StoreFailed
from services.exporter.pipeline.storage import ObjectStore

MEBIBYTE = 1024**2


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "store")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_was_written_is_read_back_from_any_offset(store: ObjectStore) -> None:
    chunks = [b"a" * 1000, b"", b"b" * (20 * MEBIBYTE), b"c"]
    content = b"".join(chunks)

    stored = store.write("run/1/0001", iter(chunks))

    assert stored.size == len(content)
    assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert b"".join(store.read("run/1/0001")) == content
    assert b"".join(store.read("run/1/0001", offset=999)) == content[999:]
    assert b"".join(store.read("run/1/0001", offset=len(content))) == b""


def test_a_path_and_a_url_name_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with blank"
    ObjectStore(folder).write("a", [b"1"])

    assert ObjectStore(str(folder)).exists("a")
    assert ObjectStore(folder.as_uri()).exists("a")


def test_an_empty_object_exists(store: ObjectStore) -> None:
    assert store.write("empty", []).size == 0
    assert store.exists("empty")
    assert list(store.read("empty")) == []


def test_a_missing_object_is_not_found(store: ObjectStore) -> None:
    assert not store.exists("run/1/0001")
    with pytest.raises(FileNotFoundError):
        store.read("run/1/0001")


@pytest.mark.parametrize("size", [10, 30 * MEBIBYTE], ids=["one piece", "several pieces"])
def test_an_error_in_the_stream_passes_through_and_leaves_nothing(
    store: ObjectStore, tmp_path: Path, size: int
) -> None:
    class SourceGone(Exception):
        pass

    def broken() -> Iterator[bytes]:
        yield b"x" * size
        assert not store.exists("run/1/0001")
        raise SourceGone

    with pytest.raises(SourceGone):
        store.write("run/1/0001", broken())
    assert files(tmp_path) == []


def test_a_killed_writer_leaves_nothing_visible_and_what_it_leaves_can_be_deleted(tmp_path: Path) -> None:
    killed = f"""
import os, signal
from pathlib import Path
from services.exporter.pipeline.storage import ObjectStore

def chunks():
    yield bytes(30 * 1024**2)
    os.kill(os.getpid(), signal.SIGKILL)
    yield b""

ObjectStore(Path({str(tmp_path)!r})).write("run/1/0001", chunks())
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL

    store = ObjectStore(tmp_path)
    assert files(tmp_path) != []
    assert not store.exists("run/1/0001")
    store.delete_prefix("run/1")
    assert files(tmp_path) == []


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(store: ObjectStore) -> None:
    for key in ("run/1/0001", "run/1/0002", "run/11/0001", "run/2"):
        store.write(key, [b"x"])

    store.delete_prefix("run/1")
    store.delete_prefix("run/1")

    assert [store.exists(key) for key in ("run/1/0001", "run/1/0002", "run/11/0001", "run/2")] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("prefix", ["", "/", "..", "../other", "run/../..", "/etc"])
def test_a_prefix_outside_the_store_is_refused(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(ValueError, match=r"outside|whole store"):
        store.delete_prefix(prefix)


def test_a_store_that_can_not_write_says_so(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "store" / "run").write_text("a file where a folder belongs")

    with pytest.raises(StoreFailed, match="run/1/0001"):
        store.write("run/1/0001", [b"x"])


def test_bytes_that_changed_on_the_way_are_noticed(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "read", lambda _: iter([b"y"]))

    with pytest.raises(StoreFailed, match="was read back"):
        store.write("run/1/0001", [b"x"])
