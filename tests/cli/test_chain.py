"""What the manifests of a job say together: tables of chains and of data intervals."""

from datetime import UTC, datetime, timedelta

import pytest

from cli.artifacts.chain import Finding, Link, Severity, chain_findings, coverage_findings

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def at(hour: float) -> datetime:
    return DAY + timedelta(hours=hour)


def link(
    name: str, previous: str | None = None, *, run: str | None = None, start: float | None = 0, end: float = 1,
    trigger: str = "schedule", created: float | None = None,
) -> Link:  # fmt: skip
    """A link whose SHA-256 is its name."""
    return Link(
        name=name, run=run or f"run of {name}", sha256=name, previous=previous, slot_key=f"{trigger}:{name}",
        start=None if start is None else at(start), end=at(end),
        created_at=at(created if created is not None else end),
    )  # fmt: skip


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity.value, f"{finding.subject}: {finding.message}") for finding in findings]


A, B, C, D = (
    link(name, previous, end=end)
    for name, previous, end in (("a", None, 1), ("b", "a", 2), ("c", "b", 3), ("d", "c", 4))
)


@pytest.mark.parametrize(
    ("links", "severities", "words"),
    [
        ([], [], []),
        ([A], [], []),
        ([C, A, D, B], [], []),
        ([A, B, B], [], []),
        ([A, C, D], ["failed"], ["c: the manifest before it is missing"]),
        ([A, B, D], ["failed"], ["d: the manifest before it"]),
        ([A, D], ["failed"], ["d: the manifest before it"]),
        ([C, D], ["warning"], ["c: the chain begins in the middle"]),
        ([B, D], ["warning", "failed"], ["b: the chain begins", "d: the manifest before it"]),
        ([A, B, link("b2", "a", end=2.5)], ["failed"], ["b, b2: the chain forks: both follow the same manifest"]),
        ([A, link("a2", end=2)], ["failed"], ["a, a2: the chain forks: both say that none came before"]),
        ([C, link("c2", "b", end=3.5)], ["failed", "warning"], ["c, c2: the chain forks", "begins in the middle"]),
        (
            [A, link("b", "a", run="x"), link("b2", "b", run="x", end=3)],
            ["failed"],
            ["run x has 2 different manifests"],
        ),
    ],
)
def test_chains(links: list[Link], severities: list[str], words: list[str]) -> None:
    found = said(chain_findings(links))

    assert [severity for severity, _ in found] == severities
    assert all(word in text for word, (_, text) in zip(words, found, strict=True)), found


def scheduled(*intervals: tuple[float | None, float]) -> list[Link]:
    return [link(f"s{number}", start=start, end=end) for number, (start, end) in enumerate(intervals)]


def other(trigger: str, start: float | None, end: float, created: float = 9) -> Link:
    return link(f"{trigger}{start}", start=start, end=end, trigger=trigger, created=created)


def text(start: float, end: float) -> str:
    return f"[{at(start).isoformat()[:19]}Z, {at(end).isoformat()[:19]}Z)"


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        (scheduled((0, 1), (1, 2), (2, 3)), []),
        (scheduled((2, 3), (0, 1), (1, 2)), []),
        (scheduled((0, 1), (2, 3)), [("warning", f"{text(1, 2)}: gap")]),
        (scheduled((0, 1), (2, 3), (5, 6)), [("warning", f"{text(1, 2)}: gap"), ("warning", f"{text(3, 5)}: gap")]),
        (scheduled((0, 2), (1, 3)), [("warning", f"{text(1, 2)}: overlap: in s0 and in s1")]),
        # One inside another, and then on from where the greater one ended.
        (scheduled((0, 9), (2, 3), (9, 10)), [("warning", f"{text(2, 3)}: overlap")]),
        # An empty interval has no room for either.
        (scheduled((0, 1), (1, 1), (1, 2)), []),
        # `fixed`: the same question every time.
        (scheduled((0, 1), (0, 1), (0, 1)), [("note", "s1: exports the same"), ("note", "s2: exports the same")]),
        # `all`: from the beginning every time.
        (scheduled((None, 1), (None, 2)), [("note", "schedule: each run exports everything")]),
        (scheduled((None, 1), (1, 2)), []),
        (scheduled((None, 1), (3, 4)), [("warning", f"{text(1, 3)}: gap")]),
        # Who fills a gap is told; the rest stays one.
        (
            [*scheduled((0, 1), (2, 3)), other("backfill", 1, 2)],
            [("note", f"{text(1, 2)}: a gap of the schedule, closed by backfill:backfill1 (backfill1)")],
        ),
        ([*scheduled((0, 1), (2, 3)), other("retry", 0.5, 2.5)], [("note", "closed by retry:")]),
        ([*scheduled((0, 1), (2, 3)), other("immediate", None, 2)], [("note", "closed by immediate:")]),
        (
            [*scheduled((0, 1), (4, 5)), other("manual", 1, 2), other("backfill", 3, 4, created=10)],
            [("note", "closed in part by manual:"), ("warning", f"{text(2, 3)}: gap")],
        ),
        (
            [*scheduled((0, 1), (4, 5)), other("backfill", 2, 3)],
            [("note", "in part"), ("warning", f"{text(1, 2)}: gap"), ("warning", f"{text(3, 4)}: gap")],
        ),
        # Repeating what was exported is what backfills and retries are for.
        ([*scheduled((0, 1), (1, 2)), other("backfill", 0, 2), other("retry", 1, 2)], []),
        # A backfill elsewhere closes nothing.
        ([*scheduled((0, 1), (2, 3)), other("backfill", 5, 6)], [("warning", f"{text(1, 2)}: gap")]),
        # Without a schedule there is nothing to hold against.
        ([other("manual", 0, 1), other("manual", 5, 6)], []),
    ],
)
def test_intervals(links: list[Link], expected: list[tuple[str, str]]) -> None:
    found = said(coverage_findings(links))

    assert [severity for severity, _ in found] == [severity for severity, _ in expected], found
    assert all(word in text for (_, word), (_, text) in zip(expected, found, strict=True)), found


def test_a_gap_is_a_warning_and_a_hole_a_failure() -> None:
    assert {finding.severity for finding in coverage_findings(scheduled((0, 1), (2, 3)))} == {Severity.WARNING}
    assert {finding.severity for finding in chain_findings([A, C])} == {Severity.FAILED}
