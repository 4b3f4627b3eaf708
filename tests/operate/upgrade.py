"""`make rehearse-upgrade`: from an older version to this one and back, under load; `--from` names its commit.

Same database, same broker: the older version's services run, then `cdds migrate` of this one, then one service after
the other is replaced, old and new side by side, every invariant is checked, and everything goes back to the older
version on the new schema.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.local import data
from deploy.local.stack import SOURCES_DATABASE, Options
from tests.brokers import kind_of_broker
from tests.operate.rolling import VersionedStack, load_of, roll
from tests.system.driver import fetch, tenant
from tests.system.invariants import assert_invariants

HERE = Path(__file__).parents[2]
DEFAULT = "26fe8a2"


async def rehearse(old: Path, folder: Path) -> None:
    """Upgrade and go back; raises AssertionError when something was lost."""
    options = Options(folder / "data", kafka=kind_of_broker())
    said(f"Kafka: {options.kafka}")
    async with VersionedStack(options, old, folder / "services.log") as stack:
        await data.create_schema(stack.dsn(SOURCES_DATABASE))
        await data.load_interactions(stack.dsn(SOURCES_DATABASE), "ucs", rows=200)
        async with (
            tenant(stack, "acme") as acme, tenant(stack, "globex") as globex, tenant(stack, "initech") as initech,
        ):  # fmt: skip
            tenants = (acme, globex, initech)
            for name, to in (("upgrade", HERE), ("rollback", old)):
                started = time.monotonic()
                async with load_of(*tenants) as load:
                    if to == HERE:
                        await migrate(stack.dsn())
                    await roll(stack, to)
                took = time.monotonic() - started
                await load.assert_all_succeeded(stack)
                await assert_invariants(stack)
                said(f"{name}: {len(load.accepted)} jobs in {took:.0f} s, each one run, each succeeded, none dead")
            [runs] = await fetch(stack, "SELECT count(*) AS known FROM exporter.runs")
            [shown] = await fetch(stack, "SELECT count(*) AS known FROM history.executions WHERE state <> 'skipped'")
            assert runs == shown
            said(f"history shows all {shown['known']} runs, also those by hand")


async def migrate(dsn: str) -> None:
    """This version's, as an operator does it first."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "cli", "migrate", "--postgres", dsn, cwd=HERE)
    assert await process.wait() == 0


def said(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="revision", default=DEFAULT)
    revision: str = parser.parse_args().revision
    with TemporaryDirectory(prefix="cdds-upgrade-", ignore_cleanup_errors=True) as folder:
        old = Path(folder) / "old"
        git = ["git", "-C", str(HERE)]
        subprocess.run([*git, "worktree", "add", "--detach", "--quiet", str(old), revision], check=True)
        try:
            said(f"from {revision} to this version")
            asyncio.run(rehearse(old, Path(folder)))
        except BaseException:
            log = Path(folder) / "services.log"
            if log.exists():
                os.write(2, log.read_bytes()[-20_000:])
            raise
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(old)], check=False)


if __name__ == "__main__":
    main()
