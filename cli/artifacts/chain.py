"""What the manifests of one job say together: whether one is missing, and whether the data is.

Each manifest names the SHA-256 of the one before it, so a removed or exchanged one leaves a hole. Only the beginning
and the end of a chain can be cut off unseen: whoever keeps a part of the files has to know where that part begins.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeVar

from shared.clock import utc_text


class Severity(StrEnum):
    """FAILED is never to be ignored, WARNING only with a reason, NOTE explains."""

    FAILED = "failed"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person should know about `subject`, a file or a data interval."""

    severity: Severity
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class Link:
    """A succeeded run as its manifest tells it; the data interval is half-open, `start` None means the beginning."""

    name: str
    run: str
    sha256: str
    previous: str | None
    slot_key: str
    start: datetime | None
    end: datetime
    created_at: datetime

    @property
    def trigger(self) -> str:
        """Why it ran: `schedule`, `backfill`, `retry` …"""
        return self.slot_key.partition(":")[0]


_Key = TypeVar("_Key")

SCHEDULED: Final = "schedule"


def chain_findings(links: Sequence[Link]) -> list[Finding]:
    """Holes and forks in the chain of one job's manifests."""
    distinct = {link.sha256: link for link in links}
    ordered = sorted(distinct.values(), key=lambda link: (link.created_at, link.name))
    return [*_doubles(ordered), *_forks(ordered), *_holes(ordered)]


def _doubles(ordered: Iterable[Link]) -> Iterable[Finding]:
    by_run = _grouped((link.run, link) for link in ordered)
    for run, twins in by_run.items():
        if len(twins) > 1:
            yield _failed(_names(twins), f"run {run} has {len(twins)} different manifests; only one can be real")


def _forks(ordered: Iterable[Link]) -> Iterable[Finding]:
    by_previous = _grouped((link.previous, link) for link in ordered)
    for previous, followers in by_previous.items():
        if len(followers) > 1:
            same = "both say that none came before them" if previous is None else "both follow the same manifest"
            yield _failed(_names(followers), f"the chain forks: {same}; ask the operator which one is real")


def _holes(ordered: Sequence[Link]) -> Iterable[Finding]:
    known = {link.sha256 for link in ordered}
    reported: set[str] = set()
    for number, link in enumerate(ordered):
        if link.previous is None or link.previous in known or link.previous in reported:
            continue
        reported.add(link.previous)
        if number == 0:
            yield Finding(
                Severity.WARNING, link.name,
                "the chain begins in the middle: an earlier manifest exists that is not here, so what came before is"
                " not checked",
            )  # fmt: skip
        else:
            yield _failed(
                link.name,
                "the manifest before it is missing or was altered: fetch it"
                " (`cdds artifacts fetch --job JOB --manifests-only`), or ask the operator for it",
            )


def coverage_findings(links: Sequence[Link]) -> list[Finding]:
    """Gaps and overlaps between the data intervals of one job's scheduled runs.

    Backfills, retries and runs by hand may fill gaps, and repeat what is there. Runs that export everything up to
    their slot overlap by intent, and so do runs that always ask for the same interval.
    """
    distinct = list({link.sha256: link for link in links}.values())
    scheduled = sorted((link for link in distinct if link.trigger == SCHEDULED), key=_interval)
    others = [link for link in distinct if link.trigger != SCHEDULED]
    findings: list[Finding] = []
    reached: datetime | None = None
    before: Link | None = None
    for link in scheduled:
        if reached is None or before is None:
            reached, before = link.end, link
            continue
        if link.start is None:
            pass
        elif _interval(link) == _interval(before):
            findings.append(Finding(Severity.NOTE, link.name, f"exports the same interval as {before.name}"))
        elif link.start < reached:
            overlap = interval_text(link.start, min(link.end, reached))
            findings.append(Finding(Severity.WARNING, overlap, f"overlap: in {before.name} and in {link.name}"))
        elif link.start > reached:
            findings += _gap(reached, link.start, others)
        if link.end >= reached:
            reached, before = link.end, link
    if sum(link.start is None for link in scheduled) > 1:
        findings.append(Finding(Severity.NOTE, "schedule", "each run exports everything up to its slot"))
    return findings


def _gap(start: datetime, end: datetime, others: Sequence[Link]) -> Iterable[Finding]:
    """What is left of a gap after the runs that were not scheduled, and which of those helped."""
    left = [(start, end)]
    used: list[Link] = []
    for link in sorted(others, key=lambda other: other.created_at):
        rest: list[tuple[datetime, datetime]] = []
        for low, high in left:
            begin, stop = max(low, link.start or low), min(high, link.end)
            if begin >= stop:
                rest.append((low, high))
                continue
            used += [] if link in used else [link]
            rest += [piece for piece in ((low, begin), (stop, high)) if piece[0] < piece[1]]
        left = rest
    if used:
        by = ", ".join(f"{link.slot_key} ({link.name})" for link in used)
        how = "in part by" if left else "by"
        yield Finding(Severity.NOTE, interval_text(start, end), f"a gap of the schedule, closed {how} {by}")
    for low, high in sorted(left):
        yield Finding(
            Severity.WARNING, interval_text(low, high),
            "gap: no run exported it; a backfill of this interval closes it",
        )  # fmt: skip


def interval_text(start: datetime | None, end: datetime) -> str:
    """A half-open interval for people.

    >>> from datetime import UTC
    >>> interval_text(None, datetime(2026, 3, 1, tzinfo=UTC))
    '[…, 2026-03-01T00:00:00Z)'
    """
    return f"[{'…' if start is None else utc_text(start)}, {utc_text(end)})"


def _interval(link: Link) -> tuple[bool, datetime, datetime]:
    """Sorts those from the beginning first."""
    return link.start is not None, link.start or link.end, link.end


def _failed(subject: str, message: str) -> Finding:
    return Finding(Severity.FAILED, subject, message)


def _names(links: Iterable[Link]) -> str:
    return ", ".join(link.name for link in links)


def _grouped(pairs: Iterable[tuple[_Key, Link]]) -> dict[_Key, list[Link]]:
    groups: dict[_Key, list[Link]] = defaultdict(list)
    for key, link in pairs:
        groups[key].append(link)
    return groups
