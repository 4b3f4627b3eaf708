"""Worlds by number: `python -m tests.simulation 1234` replays one, `--seeds 1000` runs many."""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter

from tests.simulation.checks import Wrong, check
from tests.simulation.kernels import Memory
from tests.simulation.world import live


def fault(seed: int) -> str | None:
    """What is wrong in the world of a seed."""
    try:
        check(asyncio.run(live(seed, Memory())))
    except Wrong as wrong:
        return str(wrong)
    return None


def faults(seeds: range) -> Iterator[str]:
    """What is wrong in all these worlds, on all processors."""
    with ProcessPoolExecutor() as processes:
        for found in processes.map(fault, seeds, chunksize=5):
            if found:
                yield found


def main() -> int:
    """Print the faults of the wanted worlds."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay this one")
    parser.add_argument("--seeds", type=int, default=100, help="run the worlds 1 to this one")
    wanted = parser.parse_args()
    seeds = range(1, wanted.seeds + 1) if wanted.seed is None else range(wanted.seed, wanted.seed + 1)
    begun, wrong = perf_counter(), 0
    for found in faults(seeds):
        wrong += 1
        sys.stdout.write(f"{found}\n\n")
    sys.stdout.write(f"{len(seeds)} worlds in {perf_counter() - begun:.0f} s, {wrong} of them wrong\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
