"""`make bench-export`: a whole export beside its limit, a raw COPY, and beside what people would use instead.

All ways read rows of one tenant from the same server, in turns. Only the export describes the rows, compresses and
seals them, waits for the disk and reads its output back; the others are spared whatever they could leave out. Two
programs that write plain JSON Lines would take minutes: they get fewer rows and one turn, and every comparison is one
of rows per second. Afterwards the export runs alone on few, as many and more rows, to see what memory it needs.
"""

import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final

import typer
import uvloop

from bench.export_check import count_lines, count_sealed_lines, make_recipient
from bench.export_source import Described, Slice, describe, load
from bench.export_ways import (
    copy_to_nowhere,
    export_to_folder,
    run_shell_pipeline,
    run_sling,
    sling_program,
    sling_version,
)
from bench.harness import Measured, measured_beside, median, out, print_result, print_table, server_cpu_seconds
from deploy.local.postgres import EmbeddedPostgres

FEW_ROWS: Final = 100_000
"""The least that memory is measured with."""

GOALS: Final[Mapping[str, float]] = {"copy": 0.6, "shell": 4, "dlt": 5, "sling": 5}
"""How many times as fast as each way an export is meant to be, at least."""

MEMORY_GOAL_MIB: Final = 256

OURS: Final = "export"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to get the rows of `slice` out: `run` does it and says how many, if it knows.

    `count` looks at the output afterwards, outside of the measurement.
    """

    title: str
    slice: Slice
    turns: int
    run: Callable[[], int | None]
    count: Callable[[], int] | None


@dataclass(frozen=True, slots=True)
class Costs:
    """What the turns of a way cost so far."""

    client: list[Measured[int | None]] = field(default_factory=list[Measured[int | None]])
    server_cpu_seconds: list[float] = field(default_factory=list[float])


def main(
    rows: Annotated[int, typer.Option(min=1, help="How many interactions to export.")] = 2_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Each figure is the median of so many.")] = 5,
    shell_rows: Annotated[int | None, typer.Option(min=1, help="How many the shell pipeline gets if not all.")] = None,
    other_rows: Annotated[int, typer.Option(min=1, help="How many of them dlt and sling get, once.")] = 200_000,
    memory_rows: Annotated[int, typer.Option(min=0, help="The most that memory is measured with; 0: not.")] = 5_000_000,
) -> None:
    """Measure an export on a PostgreSQL started for it."""
    memory = sorted({FEW_ROWS, rows, memory_rows}) if memory_rows else []
    uvloop.run(_main(rows, rounds, min(shell_rows or rows, rows), min(other_rows, rows), memory))


async def _main(rows: int, rounds: int, shell_rows: int, other_rows: int, memory_rows: Sequence[int]) -> None:
    with TemporaryDirectory(prefix="cdds-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        certificate, key = folder / "recipient.pem", folder / "recipient.key"
        make_recipient(certificate, key)
        async with EmbeddedPostgres(folder / "postgres") as postgres:
            dsn = postgres.dsn()
            sizes = sorted({rows, shell_rows, other_rows, *memory_rows})
            out.print(f"Loading {sizes[-1]:,} interactions …")
            await measured_beside(load, dsn, sizes[-1])
            source = (await measured_beside(describe, dsn, sizes)).value
            out.print(f"A row has {source.columns} columns, and {source.json_bytes_per_row:,.0f} bytes as JSON Lines.")
            slices = source.slices

            ways = {
                "copy": _copy(dsn, slices[rows], rounds),
                **_shell(dsn, folder, slices[shell_rows], rounds, certificate, key),
                OURS: _ours(dsn, folder, slices[rows], rounds, certificate, key),
                **_dlt(dsn, folder, slices[other_rows]),
                **_sling(dsn, folder, slices[other_rows]),
            }
            costs = {way: Costs() for way in ways}
            for number in range(rounds):
                out.print(f"Round {number + 1} of {rounds} …")
                for name, way in ways.items():
                    if number < way.turns:
                        await _turn(way, costs[name], postgres.pid, last=number + 1 == way.turns)

            peaks: dict[int, float] = {}
            for size in memory_rows:
                way = _ours(dsn, folder, slices[size], 1, certificate, key)
                out.print(f"{way.slice.rows:,} rows by the export alone …")
                alone = Costs()
                await _turn(way, alone, postgres.pid, last=False)
                peaks[size] = alone.client[0].peak_rss_mib
    _report(ways, costs, peaks, source)


async def _turn(way: Way, costs: Costs, server: int | None, *, last: bool) -> None:
    """Measure once; the output of the last turn is looked at."""
    before = server_cpu_seconds(server)
    costs.client.append(await measured_beside(way.run))
    costs.server_cpu_seconds.append(server_cpu_seconds(server) - before)
    counted = {costs.client[-1].value} - {None}
    if last and way.count is not None:
        counted.add((await measured_beside(way.count)).value)
    if counted - {way.slice.rows}:
        raise RuntimeError(f"{way.title}: {counted} rows instead of {way.slice.rows}")


# --- the ways this machine has ----------------------------------------------------------------------------------------


def _copy(dsn: str, rows: Slice, turns: int) -> Way:
    return Way("raw COPY to nowhere", rows, turns, partial(copy_to_nowhere, dsn, rows), None)


def _ours(dsn: str, folder: Path, rows: Slice, turns: int, certificate: Path, key: Path) -> Way:
    objects = folder / "export"
    run = partial(export_to_folder, dsn, rows, certificate, objects)
    count = partial(count_sealed_lines, objects, key) if shutil.which("openssl") else None
    return Way("this export", rows, turns, run, count)


def _shell(dsn: str, folder: Path, rows: Slice, turns: int, certificate: Path, key: Path) -> dict[str, Way]:
    if missing := [program for program in ("zip", "openssl") if shutil.which(program) is None]:
        out.print(f"The shell pipeline is left out: there is no {' and no '.join(missing)} here.")
        return {}
    target = folder / "shell"
    target.mkdir()
    run = partial(run_shell_pipeline, dsn, rows, certificate, target)
    title = "psql | zip -6 | openssl"
    return {"shell": Way(title, rows, turns, run, partial(count_sealed_lines, target, key))}


def _dlt(dsn: str, folder: Path, rows: Slice) -> dict[str, Way]:
    if missing := [name for name in ("dlt", "connectorx", "pyarrow") if find_spec(name) is None]:
        out.print(f"dlt is left out: there is no package {' and no '.join(missing)} here.")
        return {}
    from bench.export_dlt import VERSION, run_dlt

    target = folder / "dlt"
    run, count = partial(run_dlt, dsn, rows, target), partial(count_lines, target, "rows/bench/interactions/*.jsonl")
    return {"dlt": Way(f"dlt {VERSION}", rows, 1, run, count)}


def _sling(dsn: str, folder: Path, rows: Slice) -> dict[str, Way]:
    if (program := sling_program()) is None:
        out.print("sling is left out: there is no program sling here.")
        return {}
    target = folder / "sling"
    target.mkdir()
    title = f"sling {sling_version(program, target)}"
    run = partial(run_sling, program, dsn, rows, target)
    return {"sling": Way(title, rows, 1, run, partial(count_lines, target, "rows.jsonl"))}


# --- what was seen ----------------------------------------------------------------------------------------------------


def _report(ways: Mapping[str, Way], costs: Mapping[str, Costs], peaks: Mapping[int, float], source: Described) -> None:
    medians = {name: median(cost.client) for name, cost in costs.items()}
    rates = {name: ways[name].slice.rows / cost.seconds for name, cost in medians.items()}
    print_table(
        "Speed, medians",
        ("", "turns", "rows", "s", "rows/s", "MB/s of JSON"),
        [
            (
                way.title, f"{way.turns}", f"{way.slice.rows:,}", f"{medians[name].seconds:.2f}", f"{rates[name]:,.0f}",
                f"{rates[name] * source.json_bytes_per_row / 1e6:,.1f}",
            )
            for name, way in ways.items()
        ],
    )  # fmt: skip
    print_table(
        "Cost, CPU seconds for a million rows",
        ("", "client", "server", "peak MiB"),
        [
            (
                way.title, f"{medians[name].cpu_seconds / way.slice.rows * 1e6:.1f}",
                f"{statistics.median(costs[name].server_cpu_seconds) / way.slice.rows * 1e6:.1f}",
                f"{medians[name].peak_rss_mib:.0f}",
            )
            for name, way in ways.items()
        ],
    )  # fmt: skip
    ratios = {name: rates[OURS] / rate for name, rate in rates.items() if name != OURS}
    rows = ways[OURS].slice.rows
    peak = max(medians[OURS].peak_rss_mib, peaks.get(rows, 0))
    all_peaks = {**peaks, rows: peak}
    figures = [
        (f"{ratio:.2f} × the rate of {ways[name].title}", f"≥ {GOALS[name]}", ratio >= GOALS[name])
        for name, ratio in ratios.items()
    ]
    figures += [
        (f"{mib:.0f} MiB at most for {size:,} rows", f"≤ {MEMORY_GOAL_MIB}", mib <= MEMORY_GOAL_MIB)
        for size, mib in sorted(all_peaks.items())
    ]
    print_table(
        "This export", ("", "goal", ""), [(figure, goal, "met" if met else "short") for figure, goal, met in figures]
    )
    print_result(
        {
            "rows_per_s": rates[OURS],
            **{f"ratio_{name}": ratio for name, ratio in ratios.items()},
            "peak_rss_mib": peak,
            **{f"peak_rss_mib_{_abbreviated(size)}": mib for size, mib in peaks.items() if size != rows},
        }
    )


def _abbreviated(number: int) -> str:
    """
    >>> _abbreviated(5_000_000), _abbreviated(100_000), _abbreviated(1_500)
    ('5m', '100k', '1500')
    """
    for suffix, size in (("m", 1_000_000), ("k", 1_000)):
        if number % size == 0:
            return f"{number // size}{suffix}"
    return f"{number}"


if __name__ == "__main__":
    typer.run(main)
