"""What happened to a run, in plain words."""

from collections.abc import Mapping
from typing import Any

from services.console.domain import words
from services.console.domain.shown import number, size, utc


def told(event: Mapping[str, Any]) -> str:
    """One event as a sentence without its end.

    >>> told({"type": "RunStarted", "actor": None, "body": {"attempt": 2, "worker": "worker-1"}})
    'Attempt 2 started on worker-1'
    >>> told({"type": "SomethingNewHappened", "actor": "ann", "body": {}})
    'Something new happened, by ann'
    """
    body, actor = event["body"], event["actor"]
    match event["type"]:
        case "RunRequested":
            slot = body["slot"]
            return f"Requested for the slot {utc(slot['at'])} ({words.TRIGGERS.get(slot['trigger'], slot['trigger'])})"
        case "RunQueued":
            return "Waiting for a worker"
        case "RunStarted":
            return f"Attempt {body['attempt']} started on {body['worker']}"
        case "RunAttemptFailed":
            return f"Attempt {body['attempt']} failed, another one follows: {body['message'] or body['reason']}"
        case "ArtifactStored":
            part = body["part"]
            return f"Stored {part['file_name']}, {number(part['rows'])} rows, {size(part['size_bytes'])}"
        case "RunSucceeded":
            return f"Finished: {number(body['rows'])} rows in {body['parts']} file{'' if body['parts'] == 1 else 's'}"
        case "RunFailed":
            return f"Failed: {body['message'] or body['reason']}"
        case "RunCancelRequested":
            return f"{actor} asked to cancel it"
        case "RunCancelOrdered":
            return "The worker was told to end it"
        case "RunCancelled":
            return f"Cancelled by {actor or body.get('actor')}"
        case "RunRetryRequested":
            return f"{actor} asked to retry it"
        case "ArtifactDownloaded":
            return f"{actor} downloaded a file"
        case "ArtifactDeleted":
            return "A file expired" if body.get("reason") == "expired" else f"{actor} deleted a file"
        case kind:
            return _spaced(kind) + (f", by {actor}" if actor else "")


def kind(event: Mapping[str, Any]) -> str:
    """What its mark in the timeline looks like: the state of the run that it brings, or `note`."""
    return {
        "RunStarted": "running", "RunSucceeded": "succeeded", "RunFailed": "failed", "RunAttemptFailed": "failed",
        "RunCancelled": "cancelled", "RunCancelRequested": "cancelled",
    }.get(event["type"], "note")  # fmt: skip


def interval(run: Mapping[str, Any]) -> str:
    """Which data a run is about; its end is not part of it.

    >>> interval({"interval_from": None, "interval_to": "2026-04-25T00:00:00Z"})
    'All data before 2026-04-25 00:00:00'
    """
    if run["interval_from"] is None:
        return f"All data before {utc(run['interval_to'])}"
    return f"{utc(run['interval_from'])} to before {utc(run['interval_to'])}"


def _spaced(name: str) -> str:
    text = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
    return text[:1].upper() + text[1:]
