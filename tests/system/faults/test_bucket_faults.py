"""An S3 bucket behind a network that loses, delays and refuses: whole files or none, and nothing else in the bucket."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.exporter.faulty_proxy import Fault, FaultyProxy, hanging, losing_the_reply, refusing, resetting, slow
from tests.exporter.s3 import Bucket, s3_server
from tests.system.driver import Tenant, eventually
from tests.system.faults.lab import Lab, failed, submitted
from tests.system.invariants import assert_invariants, assert_same_as_source

pytestmark = pytest.mark.apache

PARTS = "PUT .*/exports/"
FOLDER = "exports/"


@pytest.fixture(scope="module")
async def bucket() -> AsyncIterator[Bucket]:
    with s3_server() as server:
        bucket = Bucket(server)
        yield bucket
        bucket.http.close()


@pytest.fixture(scope="module")
async def network(lab: Lab, bucket: Bucket) -> AsyncIterator[FaultyProxy]:
    """The way to the bucket, in which the exporter keeps its files meanwhile; in the end every invariant holds."""
    with FaultyProxy(bucket.server) as proxy:
        options = {"endpoint": proxy.address, "access_key_id": "test", "secret_access_key": "test"}
        environment = {
            "CDDS_EXPORTER_OBJECTS": f"s3://{bucket.name}/exports",
            "CDDS_EXPORTER_OBJECT_OPTIONS": json.dumps(options),
        }
        await lab.stack.restart("exporter", environment)
        yield proxy
        # The invariants look into the folder: everything that is in the bucket goes there, orphans included.
        store = bucket.store()
        for key in (name.removeprefix(FOLDER) for name in bucket.objects()):
            path = lab.stack.data / "objects" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(await asyncio.to_thread(lambda key=key: list(store.read(key)))))
        assert bucket.open_uploads() == []
        await lab.stack.restart("exporter")
    await assert_invariants(lab.stack)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(losing_the_reply, id="reply-lost"),
        pytest.param(slow(0.3), id="slow", marks=pytest.mark.slow),
        pytest.param(refusing(503, "SlowDown"), id="overloaded", marks=pytest.mark.slow),
        pytest.param(resetting, id="reset", marks=pytest.mark.slow),
    ],
)
async def test_a_passing_fault_of_the_way_to_the_bucket_costs_nothing_but_time(
    lab: Lab, acme: Tenant, network: FaultyProxy, fault: Fault
) -> None:
    network.on(PARTS, fault, times=3)
    try:
        execution = await acme.succeeded(await submitted(acme, "wide"))
    finally:
        network.clear()
    assert len(network.met) >= 3
    assert execution["attempt"] == 1
    await assert_same_as_source(await acme.download(execution), lab.dsn, "SELECT * FROM lab.wide")


@pytest.mark.slow
async def test_a_bucket_that_may_not_be_written_to_fails_the_run_and_says_so(
    acme: Tenant, network: FaultyProxy, bucket: Bucket
) -> None:
    network.on(PARTS, refusing(403, "AccessDenied"))
    try:
        execution = await failed(acme, await submitted(acme, "small", retry={"attempts": 1}))
    finally:
        network.clear()
    assert execution["reason"] == "store_read_only"
    assert execution["message"].startswith("The file store does not allow writing: ")
    assert not [key for key in bucket.objects() if execution["run_id"] in key]


@pytest.mark.slow
async def test_a_run_whose_bucket_hangs_is_cancelled_while_it_does(
    acme: Tenant, network: FaultyProxy, bucket: Bucket
) -> None:
    network.hit.clear()
    network.on(PARTS, hanging)
    try:
        job = await submitted(acme, "small")
        await asyncio.to_thread(network.hit.wait, 60)
        run_id = await acme.run_id(job)
        assert await acme.cancel(run_id)
        (execution,) = await acme.finished(job)
        assert execution["state"] == "cancelled"
    finally:
        network.clear()

    async def gone() -> bool:
        return not [key for key in bucket.objects() if run_id in key]

    await eventually(gone, what="a bucket without bytes of the run")
