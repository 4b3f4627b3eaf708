"""The OpenAPI document tells all that the service answers."""

from typing import Any, cast

import pytest

from services.history import api
from services.history.domain.listing import ARTIFACT_COLUMNS, EXECUTION_COLUMNS, orders
from services.history.feed import Feed
from services.history.store import Store
from shared.http import create_app


def document() -> dict[str, Any]:
    app = create_app("CDDS history", None, {})
    app.include_router(api.router(cast("Store", None), cast("Feed", None)))
    return app.openapi()


OPERATIONS = [
    pytest.param(path, operation, id=path)
    for path, item in document()["paths"].items()
    for operation in item.values()
]  # fmt: skip


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_every_operation_tells_all_of_its_answers(path: str, operation: dict[str, Any]) -> None:
    wanted = {"200", "401", "403", "422", "503"} | ({"404"} if "{" in path else set())
    assert wanted <= operation["responses"].keys()
    assert operation["tags"]
    assert operation["description"]


@pytest.mark.parametrize(
    ("path", "sorts"),
    [("/api/v1/executions", orders(EXECUTION_COLUMNS)), ("/api/v1/artifacts", orders(ARTIFACT_COLUMNS))],
)
def test_a_list_tells_its_orders(path: str, sorts: tuple[str, ...]) -> None:
    [sort] = [one for one in document()["paths"][path]["get"]["parameters"] if one["name"] == "sort"]
    assert sort["schema"]["enum"] == list(sorts)
    assert sort["schema"]["default"] in sorts


def test_an_audit_tells_that_it_comes_as_a_file_too() -> None:
    answer = document()["paths"]["/api/v1/audit"]["get"]["responses"]["200"]
    assert answer["content"].keys() == {"application/json", "application/jsonl", "text/csv"}
