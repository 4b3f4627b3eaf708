"""A certificate that is valid when a run is requested, and not any more when its turn comes."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from tests.system.driver import Tenant, eventually, tenant
from tests.system.faults.lab import Gate, Lab, failed, submitted
from tests.system.invariants import assert_invariants

pytestmark = pytest.mark.apache


async def test_a_run_whose_certificate_expires_while_it_waits_fails_and_says_what_to_do(lab: Lab, acme: Tenant) -> None:
    async with AsyncExitStack() as gate:
        await gate.enter_async_context(lab.closed(Gate.BEGIN))
        await submitted(acme, "silent")
        await lab.waiting("advisory")
        async with tenant(lab.stack, "brief", valid_for=timedelta(seconds=6)) as brief:
            job = await submitted(brief, "small")
            run_id = await brief.run_id(job)
            expires = brief.recipient.certificate.not_valid_after_utc

            async def expired() -> bool:
                return datetime.now(UTC) > expires

            await eventually(expired, what="the certificate's end")
            await lab.reaches(run_id, "queued")
            await gate.aclose()
            execution = await failed(brief, job)
    assert (execution["reason"], execution["attempt"]) == ("certificate_required", 1)
    assert execution["message"] == (
        f"No valid certificate to encrypt for: the last one expired on {expires:%Y-%m-%d at %H:%M:%S} UTC. "
        "Add a current one, then retry the run."
    )
    await assert_invariants(lab.stack)
