"""What the benchmarks share: work measured in a process of its own, the CPU time of servers, tables and a last line."""

import asyncio
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, ParamSpec, TypeVar

import orjson
from rich.console import Console
from rich.table import Table

P = ParamSpec("P")
T = TypeVar("T")

out: Final = Console(highlight=False)


@dataclass(frozen=True, slots=True)
class Measured(Generic[T]):
    """What a function returned and what it cost, with the processes it waited for; memory is the largest one's."""

    value: T
    seconds: float
    cpu_seconds: float
    peak_rss_mib: float


def measured(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Measured[T]:
    """Call `function` in a fresh process, so that its CPU time and peak memory are its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, function, *args, **kwargs).result()


async def measured_beside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Measured[T]:
    """`measured`, while the event loop goes on."""
    return await asyncio.to_thread(measured, function, *args, **kwargs)


def _measure(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Measured[T]:
    started, cpu = time.monotonic(), _cpu_seconds()
    value = function(*args, **kwargs)
    return Measured(value, time.monotonic() - started, _cpu_seconds() - cpu, _peak_rss_mib())


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _peak_rss_mib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB elsewhere
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    if Path("/proc").exists():
        # Linux lets ru_maxrss survive exec, so a child's would begin at what its parent had.
        own = server_peak_rss_mib(os.getpid())
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 2**20)


def server_peak_rss_mib(pid: int | None) -> float:
    """The most memory that a process has had so far, without its descendants; NaN without /proc."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def server_cpu_seconds(pid: int | None) -> float:
    """CPU time so far of a process and all its descendants, ended ones included; NaN without /proc."""
    if pid is None or not Path("/proc").exists():
        return float("nan")
    stats = dict(_stats())
    family = {pid}
    for child in sorted(stats):
        parent, _, _ = stats[child]
        if parent in family:
            family.add(child)
    living = sum(own for number, (_, own, _) in stats.items() if number in family)
    ended = sum(waited for number, (_, _, waited) in stats.items() if number in family)
    return (living + ended) / os.sysconf("SC_CLK_TCK")


def _stats() -> Iterable[tuple[int, tuple[int, int, int]]]:
    """Process id, and its (parent, ticks of its own, ticks of children that ended): proc(5)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            yield (
                int(entry.name),
                (int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])),
            )


def median(results: Sequence[Measured[T]]) -> Measured[T]:
    """The result of median duration (the lower one of an even number), with the greatest memory of all."""
    middle = statistics.median_low(result.seconds for result in results)
    chosen = next(result for result in results if result.seconds == middle)
    return Measured(chosen.value, chosen.seconds, chosen.cpu_seconds, max(r.peak_rss_mib for r in results))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for people; the first column is left-aligned."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def print_result(result: Mapping[str, object]) -> None:
    """The last line of a benchmark, for programs: one JSON object, its numbers rounded."""
    print(orjson.dumps(_rounded(result)).decode())


def _rounded(value: object) -> object:
    match value:
        case float():
            return round(value, 3)
        case Mapping():
            return {name: _rounded(inner) for name, inner in value.items()}
        case list():
            return [_rounded(inner) for inner in value]
        case _:
            return value
