"""What events say, in whatever order and however often they come."""

from typing import Any

import pytest

from services.console.domain.news import News

RUN, JOB = "r", "j"


def event(kind: str, attempt: int = 0) -> tuple[str, dict[str, Any]]:
    return kind, {"job_id": JOB, "run_id": RUN, "attempt": attempt}


def tick(attempt: int, sequence: int, percent: float) -> tuple[str, dict[str, Any]]:
    progress = {"attempt": attempt, "sequence": sequence, "percent": percent, "remaining_seconds": 9.0}
    return "RunProgressed", {"job_id": JOB, "run_id": RUN, "progress": progress}


def job(run_id: str | None, state: str = "running", percent: float | None = 10.0) -> dict[str, Any]:
    latest = None if run_id is None else {"id": run_id, "state": state, "percent": percent, "remaining_seconds": None}
    return {"id": JOB, "latest_run": latest}


STARTED = event("RunStarted", 1)


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ([event("RunRequested")], "requested"),
        ([event("RunRequested"), event("RunQueued")], "queued"),
        ([event("RunQueued"), event("RunRequested")], "queued"),
        ([STARTED], "running"),
        ([STARTED, event("RunQueued")], "running"),
        ([STARTED, event("RunAttemptFailed", 1)], "queued"),
        ([event("RunAttemptFailed", 1), STARTED], "queued"),
        ([event("RunAttemptFailed", 1), event("RunStarted", 2)], "running"),
        ([event("RunCancelled", 1), STARTED], "cancelled"),
        ([event("RunSucceeded", 1), event("RunFailed", 2)], "succeeded"),
        ([event("RunFailed", 0), event("RunStarted", 5)], "failed"),
    ],
)
def test_a_run_only_goes_forward(told: list[tuple[str, dict[str, Any]]], state: str) -> None:
    news = News()
    for kind, body in told:
        news.hear(kind, body)
    (standing,) = news.take(10).runs
    assert standing.state == state
    # Told again, nothing has changed.
    assert not any(news.hear(kind, body) for kind, body in told)
    assert not news.waiting


@pytest.mark.parametrize(
    ("told", "percent"),
    [
        ([tick(1, 2, 20.0), tick(1, 1, 10.0)], 20.0),
        ([tick(1, 9, 90.0), event("RunStarted", 2), tick(2, 1, 5.0)], 5.0),
        ([event("RunStarted", 2), tick(2, 1, 5.0), tick(1, 10, 95.0)], 5.0),
    ],
)
def test_the_greatest_attempt_and_sequence_count(told: list[tuple[str, dict[str, Any]]], percent: float) -> None:
    news = News()
    for kind, body in [STARTED, *told]:
        news.hear(kind, body)
    changes = news.take(10)
    (standing,) = changes.runs
    assert standing.progress is not None
    assert standing.progress["percent"] == percent
    assert not changes.ticks


def test_progress_never_touches_a_run_that_has_ended() -> None:
    news = News()
    news.hear(*STARTED)
    news.hear(*tick(1, 1, 10.0))
    news.hear(*event("RunSucceeded", 1))
    assert news.take(10).runs[0].terminal
    assert not news.hear(*tick(1, 2, 20.0))
    assert not news.take(10)


def test_a_tick_alone_is_progress_and_no_news_of_the_job() -> None:
    news = News()
    news.hear(*STARTED)
    news.take(10)
    assert news.hear(*tick(1, 1, 10.0))
    changes = news.take(10)
    assert (changes.jobs, changes.runs, len(changes.ticks)) == ([], [], 1)


def test_files_are_no_news_and_changes_of_jobs_are() -> None:
    news = News()
    assert not news.hear("ArtifactDownloaded", {"job_id": JOB, "run_id": RUN})
    assert not news.hear("CertificateAdded", {"fingerprint": "f"})
    assert news.hear("JobSuspended", {"job_id": JOB})
    assert news.take(10).jobs == [JOB]


def test_many_jobs_are_shown_a_few_at_a_time() -> None:
    news = News()
    for n in range(5):
        news.hear("JobUpdated", {"job_id": str(n)})
    assert news.take(3).jobs == ["0", "1", "2"]
    assert news.waiting
    assert news.take(3).jobs == ["3", "4"]
    assert not news.waiting


def test_a_job_whose_owner_lags_is_completed_and_asked_again() -> None:
    news = News()
    news.hear(*event("RunRequested"))
    assert news.is_behind(job(None))
    assert news.is_behind(job("another"))
    assert not news.is_behind(job(RUN))
    news.hear(*STARTED)
    news.hear(*tick(1, 1, 40.0))
    shown = news.completed(job(RUN, "queued", None))["latest_run"]
    assert (shown["state"], shown["percent"], shown["remaining_seconds"]) == ("running", 40.0, 9.0)
    # It may as well be ahead.
    assert news.completed(job(RUN, "succeeded", None))["latest_run"]["state"] == "succeeded"


def test_runs_that_are_read_count_like_those_that_are_told() -> None:
    news = News()
    read = {"run_id": RUN, "job_id": JOB, "state": "running", "attempt": 1, "progress": tick(1, 3, 30.0)[1]["progress"]}
    news.read(read)
    news.hear(*tick(1, 2, 20.0))
    changes = news.take(10)
    assert changes.jobs == [JOB]
    assert changes.runs[0].progress is not None
    assert changes.runs[0].progress["percent"] == 30.0
