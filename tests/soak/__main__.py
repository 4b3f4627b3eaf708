"""`python -m tests.soak --minutes 20 --seed 7`: exit code 1 when anything was wrong or grew."""

import argparse
import asyncio
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from bench.harness import out
from tests.soak import archive, check, report
from tests.soak.faults import Faults
from tests.soak.growth import judge
from tests.soak.load import Load
from tests.soak.samples import Samples, tolerance_of
from tests.soak.world import world


async def soak(lasting: timedelta, seed: int, folder: Path, to: Path) -> bool:
    """One run; says whether it was good."""
    retention = max(lasting / 5, timedelta(seconds=40))
    async with world(folder, retention) as made:
        await archive.begin(made)
        out.print(f"{lasting.total_seconds():g} s of load and faults by the seed {seed}, kept for {retention}")
        samples = Samples(made)
        measuring = asyncio.create_task(samples.run())
        began = time.monotonic()
        async with Load(made, seed).running():
            failing = asyncio.create_task(Faults(made, seed).run())
            done, _ = await asyncio.wait({measuring, failing}, timeout=lasting.total_seconds())
            for task in done:
                task.result()
            failing.cancel()
            await asyncio.gather(failing, return_exceptions=True)
        out.print("load and faults have stopped")
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)
        lasted = timedelta(seconds=time.monotonic() - began)
        try:
            await check.settle(made, seed)
            out.print("at rest")
            await check.check(made)
        except (AssertionError, httpx.TransportError):
            made.wrong.append(f"the check broke off:\n{traceback.format_exc(limit=-5)}")
        verdicts = [judge(name, points, tolerance_of(name)) for name, points in sorted(samples.series.items())]
        return report.tell(made, samples, verdicts, seed=seed, lasted=lasted, to=to)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--to", type=Path, default=Path("soak.json"), help="the file of the report")
    read = parser.parse_args(arguments)
    # Not under a folder closed to the account PostgreSQL runs as when root starts it.
    with TemporaryDirectory(prefix="cdds-soak-", ignore_cleanup_errors=True) as folder:
        good = asyncio.run(soak(timedelta(minutes=read.minutes), read.seed, Path(folder), read.to))
        if not good:
            output = Path(folder) / "output.log"
            read.to.with_suffix(".log").write_bytes(output.read_bytes() if output.exists() else b"")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
