"""What becomes of a write when the store is slow, full, read-only, gone, or does not say."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from services.exporter.pipeline.errors import Cancelled, StoreFailed, StoreFull, StoreReadOnly, StoreUnreachable
from services.exporter.pipeline.storage import ObjectStore
from services.exporter.pipeline.transfer import Patience
from tests.exporter.faulty_proxy import (
    Fault,
    FaultyProxy,
    changing_a_byte,
    hanging,
    losing_the_reply,
    refusing,
    resetting,
    slow,
)
from tests.exporter.s3 import Bucket, s3_server, soon
from tests.exporter.test_pipeline_storage import PIECE, content_of, files

KEY = "run/1/0001"
SMALL, LARGE = 1000, 3 * PIECE + 1
CONTENT = content_of(LARGE)

HASTY = Patience(
    connect=timedelta(seconds=1),
    request=timedelta(seconds=3),
    retries=3,
    retry_for=timedelta(seconds=10),
    longest_backoff=timedelta(milliseconds=200),
)
ENDLESS = Patience(request=timedelta(hours=1), retry_for=timedelta(hours=1), retries=10**6)
"""With this, only cancelling ends a write to a store that hangs before the test's own limit."""

CREATE, PART, LAST_PART, COMPLETE = (
    r"^POST .*\?uploads",
    r"^PUT .*partNumber=2",
    r"^PUT .*partNumber=4",
    r"^POST .*ploadId",
)
PUT = r"^PUT /[^?]+ HTTP"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(server: str) -> Bucket:
    return Bucket(server)


@pytest.fixture
def proxy(server: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(server) as proxy:
        yield proxy


@pytest.fixture
def store(bucket: Bucket, proxy: FaultyProxy) -> ObjectStore:
    return bucket.store(through=proxy.address, patience=HASTY)


REQUESTS = [(SMALL, PUT), *((LARGE, request) for request in (CREATE, PART, LAST_PART, COMPLETE))]
"""The size of an object, and a request of its upload."""


class TestPassingFaults:
    """They end in success after a few retries."""

    @pytest.mark.parametrize(("size", "request_"), REQUESTS)
    @pytest.mark.parametrize(
        "fault",
        [refusing(503, "SlowDown"), refusing(500, "InternalError"), resetting, losing_the_reply, slow(0.5)],
        ids=["overloaded", "error", "reset", "reply lost", "slow"],
    )
    def test_what_goes_wrong_once_is_repeated(
        self, store: ObjectStore, bucket: Bucket, proxy: FaultyProxy, size: int, request_: str, fault: Fault
    ) -> None:
        proxy.on(request_, fault, times=1)

        stored = store.write(KEY, [CONTENT[:size]])

        assert len(proxy.met) == 1
        assert stored.size == size
        assert b"".join(bucket.store().read(KEY)) == CONTENT[:size]
        # A repeated CreateMultipartUpload whose first answer was lost leaves an upload for the lifecycle rule.
        assert len(bucket.open_uploads()) <= (request_ == CREATE)

    @pytest.mark.parametrize(("size", "request_"), [(SMALL, PUT), (LARGE, COMPLETE)])
    def test_a_request_that_takes_too_long_is_repeated(
        self, store: ObjectStore, proxy: FaultyProxy, size: int, request_: str
    ) -> None:
        proxy.on(request_, hanging, times=1)

        assert store.write(KEY, [CONTENT[:size]]).size == size
        assert len(proxy.met) == 1

    def test_a_store_that_forgot_the_upload_it_completed_is_believed_for_what_it_returns(
        self, store: ObjectStore, bucket: Bucket, proxy: FaultyProxy
    ) -> None:
        proxy.on(COMPLETE, losing_the_reply, times=1)
        proxy.on(COMPLETE, refusing(404, "NoSuchUpload"))

        assert store.write(KEY, [CONTENT]).size == LARGE

        assert len(proxy.met) >= 2
        assert bucket.open_uploads() == []

    def test_reading_and_deleting_are_repeated_too(
        self, store: ObjectStore, bucket: Bucket, proxy: FaultyProxy
    ) -> None:
        store.write(KEY, [CONTENT])
        for fault in (resetting, losing_the_reply, refusing(503, "SlowDown")):
            proxy.on("^(GET|HEAD)", fault, times=1)

        assert b"".join(store.read(KEY)) == CONTENT
        assert len(proxy.met) == 3
        proxy.on("^(DELETE|POST)", refusing(503, "SlowDown"), times=1)
        store.delete([KEY])
        assert len(proxy.met) == 4
        assert bucket.objects() == []


REFUSALS: list[tuple[Fault, type[StoreFailed], str]] = [
    (refusing(507, "XMinioStorageFull"), StoreFull, "The file store is full: run/1/0001: XMinioStorageFull"),
    (refusing(507, "Other"), StoreFull, "The file store is full"),
    (refusing(403, "AccessDenied"), StoreReadOnly, "The file store does not allow writing: run/1/0001: AccessDenied"),
    (refusing(503, "SlowDown"), StoreFailed, "overloaded and asks to try again later \\(SlowDown\\)"),
    (refusing(500, "InternalError"), StoreFailed, "answered InternalError"),
    (resetting, StoreUnreachable, "could not be reached, or broke off"),
    (hanging, StoreUnreachable, "could not be reached, or broke off"),
]


class TestLastingFaults:
    """They end in StoreFailed with a reason, and leave nothing."""

    @pytest.mark.parametrize(
        ("fault", "error", "reason", "size", "request_"),
        [
            (*refusal, *request)
            for refusal in REFUSALS
            for request in (REQUESTS if refusal[0] is not hanging else REQUESTS[:3:2])
        ],
    )
    def test_a_store_that_does_not_take_it(
        self,
        store: ObjectStore,
        bucket: Bucket,
        proxy: FaultyProxy,
        size: int,
        request_: str,
        fault: Fault,
        error: type[StoreFailed],
        reason: str,
    ) -> None:
        proxy.on(request_, fault)

        with pytest.raises(StoreFailed, match=reason) as failure:
            store.write(KEY, [CONTENT[:size]])

        assert type(failure.value) is error
        assert "://" not in str(failure.value)
        assert len(proxy.met) <= 2 * (HASTY.retries + 1)
        assert bucket.objects() == []
        assert soon(lambda: bucket.open_uploads() == [])

    def test_a_server_that_is_away(self, bucket: Bucket, server: str) -> None:
        with FaultyProxy(server) as gone:
            store = bucket.store(through=gone.address, patience=HASTY)

        with pytest.raises(StoreUnreachable):
            store.write(KEY, [CONTENT])
        with pytest.raises(StoreUnreachable):
            store.read(KEY)
        with pytest.raises(StoreUnreachable):
            store.exists(KEY)
        with pytest.raises(StoreUnreachable):
            store.delete([KEY])
        with pytest.raises(StoreUnreachable):
            store.delete_prefix("run/1")
        with pytest.raises(StoreUnreachable):
            list(store.prefixes())

    def test_a_server_that_goes_away_in_the_middle(
        self, bucket: Bucket, proxy: FaultyProxy, store: ObjectStore
    ) -> None:
        def chunks() -> Iterator[bytes]:
            yield CONTENT
            proxy.on(".", resetting)
            yield CONTENT

        with pytest.raises(StoreUnreachable):
            store.write(KEY, chunks())
        assert bucket.objects() == []

    def test_a_bucket_that_does_not_exist(self, server: str) -> None:
        options = {"endpoint": server, "access_key_id": "x", "secret_access_key": "x"}

        with pytest.raises(StoreFailed, match="the bucket does not exist"):
            ObjectStore("s3://missing", options).write(KEY, [b"x"])

    @pytest.mark.parametrize("size", [SMALL, LARGE])
    def test_a_store_that_returns_other_bytes_is_noticed(
        self, store: ObjectStore, proxy: FaultyProxy, size: int
    ) -> None:
        proxy.on("^GET", changing_a_byte, times=1)

        with pytest.raises(StoreFailed, match="was read back"):
            store.write(KEY, [CONTENT[:size]])
        assert len(proxy.met) == 1

    def test_a_reader_never_gets_fewer_bytes_silently(self, store: ObjectStore, proxy: FaultyProxy) -> None:
        store.write(KEY, [CONTENT])
        pieces = store.read(KEY)
        next(pieces)
        proxy.on("^GET", resetting)

        with pytest.raises(StoreUnreachable):
            list(pieces)


class TestCancelling:
    """It takes effect whatever the store does; the store here would hang for hours."""

    @pytest.fixture
    def store(self, bucket: Bucket, proxy: FaultyProxy) -> ObjectStore:
        return bucket.store(through=proxy.address, patience=ENDLESS)

    @pytest.mark.parametrize(
        ("size", "request_"), [*REQUESTS, (LARGE, "^PUT .*partNumber=3"), (LARGE, "^HEAD"), (LARGE, "^GET")]
    )
    def test_a_request_that_hangs(
        self, store: ObjectStore, bucket: Bucket, proxy: FaultyProxy, size: int, request_: str
    ) -> None:
        proxy.on(request_, hanging)

        with pytest.raises(Cancelled):
            store.write(KEY, [CONTENT[:size]], proxy.hit.is_set)

        # What is given up while the upload is being closed is left to the lifecycle rule.
        left = request_ in {LAST_PART, COMPLETE}
        assert soon(lambda: len(bucket.open_uploads()) == left)

    def test_a_store_that_hangs_altogether(self, store: ObjectStore, bucket: Bucket, proxy: FaultyProxy) -> None:
        """The upload can't be aborted then, but is as soon as the store is back, without anybody waiting."""
        proxy.on(PART, hanging)
        proxy.on("^DELETE", refusing(503, "SlowDown"))
        with pytest.raises(Cancelled):
            store.write(KEY, [CONTENT], proxy.hit.is_set)
        assert bucket.open_uploads() != []

        proxy.clear()

        assert soon(lambda: bucket.open_uploads() == [])

    @pytest.mark.parametrize("fault", [hanging, refusing(503, "SlowDown"), slow(0.3)], ids=["hangs", "full", "slow"])
    def test_chunks_that_raise_abort_the_upload(
        self, store: ObjectStore, bucket: Bucket, proxy: FaultyProxy, fault: Fault
    ) -> None:
        class SourceGone(Exception):
            pass

        def chunks() -> Iterator[bytes]:
            yield CONTENT
            assert proxy.hit.wait(60)
            raise SourceGone

        proxy.on(PART, fault)

        with pytest.raises(SourceGone):
            store.write(KEY, chunks())
        assert bucket.objects() == []
        assert soon(lambda: bucket.open_uploads() == [])

    def test_a_folder_is_left_empty(self, tmp_path: Path) -> None:
        stop = threading.Event()

        def chunks() -> Iterator[bytes]:
            yield CONTENT
            stop.set()
            yield CONTENT

        with pytest.raises(Cancelled):
            ObjectStore(tmp_path).write(KEY, chunks(), stop.is_set)
        assert soon(lambda: files(tmp_path) == [])


class TestFolderFaults:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        """A file system of 20 MiB."""
        place = tmp_path / "disk"
        place.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(place)], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip(f"may not mount: {mounted.stderr.decode().strip()}")
        yield place
        subprocess.run(["umount", str(place)], check=True)

    @pytest.mark.parametrize("size", [21 * 1024**2, LARGE], ids=["in the first batch", "in the second"])
    def test_a_full_file_system(self, disk: Path, size: int) -> None:
        with pytest.raises(StoreFull, match="No space left"):
            ObjectStore(disk).write(KEY, [CONTENT[:size]])
        assert soon(lambda: files(disk) == [])

    def test_a_read_only_file_system(self, disk: Path) -> None:
        store = ObjectStore(disk)
        store.write(KEY, [b"x"])
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

        with pytest.raises(StoreReadOnly, match="Read-only"):
            store.write("run/2/0001", [b"x"])
        with pytest.raises(StoreReadOnly, match="Read-only"):
            store.delete([KEY])
        with pytest.raises(StoreReadOnly, match="Read-only"):
            store.delete_prefix("run/1")
        assert b"".join(store.read(KEY)) == b"x"

    @pytest.mark.parametrize(
        ("before", "error"),
        [
            (f"resource.setrlimit(resource.RLIMIT_FSIZE, ({PIECE}, {PIECE}))", "StoreFull"),
            ("os.chmod(folder, 0o555); os.getuid() or os.setuid(65534)", "StoreReadOnly"),
        ],
        ids=["file size limit", "no permission"],
    )
    def test_a_process_that_may_not_write_so_much_or_there(self, tmp_path: Path, before: str, error: str) -> None:
        """What needs no mount, in a process of its own because it can't be undone."""
        script = f"""
import os, resource, signal
from services.exporter.pipeline.storage import ObjectStore
from services.exporter.pipeline.errors import StoreFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = "store"
os.mkdir(folder)
store = ObjectStore(folder)
{before}
try:
    store.write({KEY!r}, [bytes({LARGE})])
except StoreFailed as failure:
    print(type(failure).__name__, flush=True)
# A thread of obstore that still holds a piece would abort the interpreter while that is ending.
os._exit(0)
"""
        ended = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ended.stdout.split() == [error]
        assert files(tmp_path) == []
