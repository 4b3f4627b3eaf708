"""Requests and answers as the tests of the HTTP edge speak of them."""

from typing import Any

import httpx

from tests.job_api.jobs import WRITTEN

JOBS = "/api/v1/jobs"
RUNS = "/api/v1/runs"
CERTIFICATES = "/api/v1/certificates"


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The body of a problem, which has all that a problem has."""
    body = answer.json()
    assert (answer.status_code, body["type"].rpartition("/")[2]) == (status, slug), body
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


def written(**changes: Any) -> dict[str, Any]:
    """Settings as a person writes them."""
    return {**WRITTEN, **changes}


async def submit(http: httpx.AsyncClient, headers: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    """The answer to an accepted job."""
    answer = await http.post(JOBS, json=written(**changes), headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


def match(job: dict[str, Any]) -> dict[str, str]:
    """The precondition of a change of this version."""
    return {"If-Match": f'"{job["version"]}"'}
