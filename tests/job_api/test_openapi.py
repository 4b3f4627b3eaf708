"""The OpenAPI document is complete, and the service keeps to it, whatever it is sent."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn

from services.job_api import api
from services.job_api.store import Store
from shared.auth import Authenticator
from shared.http import create_app
from shared.jobs import JobSettings
from tests.job_api.conftest import TokenFor
from tests.job_api.jobs import operators_file

HERE = Path(__file__).with_name("openapi")


@asynccontextmanager
async def served(app: Any) -> AsyncGenerator[str]:
    """The base URL of `app` on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", server_header=False))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


def document() -> dict[str, Any]:
    app = create_app("CDDS job_api", None, {}, api.PROBLEMS)
    app.include_router(api.router(cast("Store", None), operators_file()))
    return app.openapi()


OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method.upper()} {path}")
    for path, item in document()["paths"].items()
    for method, operation in item.items()
]
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_operation_tells_all_of_its_answers(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    wanted = {401, 403, 503}
    wanted |= {404} if "{" in path else set()
    wanted |= {400, 412, 428} if method in ("put", "patch", "delete") and path.endswith("{job_id}") else set()
    wanted |= {400, 413, 422} if "requestBody" in operation else set()
    assert {str(status) for status in wanted} <= set(responses)
    for status, answer in responses.items():
        assert answer["description"]
        if status >= "400":
            assert answer["content"] == PROBLEM
    assert operation["security"] == [{"HTTPBearer": []}]
    assert operation["description"]
    names = {parameter["name"] for parameter in operation.get("parameters", ())}
    assert {"If-Match"} <= names or not (method in ("put", "patch", "delete") and path.endswith("{job_id}"))
    if method in ("put", "patch") or (path == "/api/v1/jobs" and method == "post"):
        assert "ETag" in responses["201" if "201" in responses else "200"]["headers"]


def test_submissions_and_previews_have_examples_that_are_settings() -> None:
    paths = document()["paths"]
    for path in ("/api/v1/jobs", "/api/v1/jobs/preview"):
        [content] = paths[path]["post"]["requestBody"]["content"].values()
        for example in content["examples"].values():
            JobSettings.model_validate(example["value"].get("settings", example["value"]))
    shapes = document()["components"]["schemas"]
    assert {"Problem", "FieldError"} <= set(shapes)
    assert not {"HTTPValidationError", "ValidationError"} & set(shapes)


async def test_schemathesis_finds_no_server_error_and_no_breach_of_the_document(
    store: Store, verifier: Authenticator, bearer: TokenFor, certified: None, tmp_path: Path
) -> None:
    app = create_app("CDDS job_api", verifier, {}, api.PROBLEMS)
    app.include_router(api.router(store, operators_file()))
    async with served(app) as address:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "schemathesis.toml",
            "run", f"{address}/openapi.json", "--header", f"Authorization: {bearer()['Authorization']}",
            "--checks", "all", "--mode", "all", "--max-examples", "8", "--generation-deterministic",
            "--workers", "2", "--no-color", "--continue-on-failure", "--warnings", "off",
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "schemathesis_hooks"},
        )  # fmt: skip
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
