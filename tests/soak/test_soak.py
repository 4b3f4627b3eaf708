"""The short version of the soak: two minutes of load and faults, all invariants, purges included."""

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest

from tests.soak.__main__ import soak


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_two_minutes_of_a_bad_week_leave_nothing_wrong(tmp_path: Path) -> None:
    told = tmp_path / "soak.json"
    with TemporaryDirectory(prefix="cdds-soak-", ignore_cleanup_errors=True) as folder:
        good = await soak(timedelta(minutes=2), 11, Path(folder), told)
    report = orjson.loads(told.read_bytes())
    assert good, report["wrong"]
    purged = {name: count for name, count in report["counts"].items() if name.startswith("rows purged")}
    assert purged["rows purged of exporter.outbox"] > 0
    assert purged["rows purged of scheduler.slots"] > 0
