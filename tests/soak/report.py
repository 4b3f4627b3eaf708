"""What a run says: a table for people, a file for programs."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import orjson

from bench.harness import out, print_table
from tests.soak.growth import Judgement, Verdict
from tests.soak.samples import Samples, tolerance_of
from tests.soak.world import World

JUDGED_FROM = timedelta(minutes=10)
"""Shorter runs are all warm-up: their growth is shown and does not count."""

MAIN = ("memory", "connections", "queue", "kept in all", "objects", "bytes")
"""The series that the table shows even when they are flat."""


def tell(
    world: World, samples: Samples, verdicts: Sequence[Verdict], *, seed: int, lasted: timedelta, to: Path
) -> bool:
    """Print and write the report; says whether the run was good."""
    counts = lasted >= JUDGED_FROM
    shown = [v for v in verdicts if v.judgement is not Judgement.FLAT or v.name.startswith(MAIN)]
    growing = [v.name for v in verdicts if v.judgement is Judgement.GROWS]
    print_table(
        f"{lasted.total_seconds() / 60:.0f} minutes, seed {seed}: growth",
        ("series", "size", "first half", "second half", "may", "judgement"),
        [
            (v.name, f"{v.size:,.1f}", f"{v.first:+,.1f}", f"{v.second:+,.1f}", f"{v.allowed:,.1f}", v.judgement)
            for v in sorted(shown, key=lambda v: (v.judgement is not Judgement.GROWS, v.name))
        ],
    )
    out.print(f"{len(verdicts) - len(shown)} more series are flat; all are in {to}")
    print_table("What happened", ("what", "times"), [(k, f"{v:,}") for k, v in sorted(world.counts.items())])
    good = not world.wrong and not (growing and counts)
    for sentence in world.wrong:
        out.print(f"WRONG: {sentence}", markup=False)
    if growing:
        out.print(f"{'GROWS' if counts else 'grows (too short a run to count)'}: {', '.join(growing)}", markup=False)
    out.print("good" if good else "not good")
    to.write_bytes(
        orjson.dumps(
            {
                "good": good, "seed": seed, "seconds": lasted.total_seconds(),
                "wrong": world.wrong, "counts": world.counts,
                "growth": [
                    {"series": v.name, "size": v.size, "first_half": v.first, "second_half": v.second,
                     "allowed": v.allowed, "judgement": v.judgement, "why": tolerance_of(v.name).why}
                    for v in verdicts
                ],
                "samples": samples.series,
            },
            option=orjson.OPT_INDENT_2,
        )
    )  # fmt: skip
    return good
