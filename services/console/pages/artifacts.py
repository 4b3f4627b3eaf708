"""The list of exported files, how to open one, downloads, and deletion."""

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import StringConstraints

from services.console.domain import files
from services.console.domain.files import MOST_CHOSEN, Chosen
from services.console.gateway import Away, Refused, passing
from services.console.pages.page import Listing, Signed, Visitor, address_of, render, sources_of

FILTERS: Final = ("source", "type", "text", "job_id", "run_id", "shown")
SHOWN: Final = {"there": "true", "gone": "false", "all": None}
ROWS: Final = 50
"""So that a hundred files are chosen on two pages."""
AT_ONCE: Final = 8
"""Questions about runs at a time, so that a hundred chosen files do not crowd out everybody else."""
FORWARDED: Final = ("range", "if-range")

_UUID: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
Choice = Annotated[str, StringConstraints(pattern=rf"^{_UUID}\.{_UUID}$")]
Selected = Annotated[list[Choice], Query(alias="artifact", min_length=1, max_length=MOST_CHOSEN)]
Picked = Annotated[list[Choice], Form(alias="artifact", min_length=1, max_length=MOST_CHOSEN)]


def router() -> APIRouter:
    """The routes."""
    pages = APIRouter(prefix="/artifacts")

    @pages.get("")
    async def list_artifacts(request: Request, visitor: Signed) -> Response:
        listing = Listing.read(request, FILTERS, default_sort="-stored_at")
        # What a run or a job left is asked for to see all of it; the whole list is for finding something to download.
        shown = listing.value("shown") or ("all" if {"job_id", "run_id"} & listing.parameters.keys() else "there")
        query = {**listing.query, "limit": ROWS, "available": SHOWN.get(shown, SHOWN["there"]), "shown": None}
        found, sources = await asyncio.gather(visitor.get("/artifacts", query), sources_of(visitor))
        return render(
            request, "artifacts/list.html", visitor, artifacts=found, sources=sources, listing=listing, shown=shown,
            most=MOST_CHOSEN,
        )  # fmt: skip

    @pages.get("/{artifact_id:uuid}/download")
    async def download(request: Request, artifact_id: UUID, visitor: Signed) -> Response:
        """The bytes of a part, a manifest or a schema, or the range of them that was asked for."""
        asked = {name: value for name in FORWARDED if (value := request.headers.get(name))}
        headers = {**asked, "Accept-Encoding": "identity"}
        return passing(await visitor.gateway.stream(visitor.token, f"/files/{artifact_id}", headers))

    @pages.get("/{run_id:uuid}/{artifact_id:uuid}")
    async def explain(request: Request, run_id: UUID, artifact_id: UUID, visitor: Signed) -> Response:
        """All about one file: how it is decrypted, what proves it, and what lies beside it."""
        run = await visitor.get(f"/executions/{run_id}")
        artifact = _part_of(run, artifact_id)
        return render(
            request, "artifacts/about.html", visitor, run=run, artifact=artifact,
            encryption=files.encryption(artifact["file_name"]),
            commands=files.reading_commands(artifact["file_name"], artifact["sha256"]),
            fetching=files.fetching_commands(address_of(request), [str(run_id)]),
        )  # fmt: skip

    @pages.get("/{run_id:uuid}/{artifact_id:uuid}/row")
    async def row(request: Request, run_id: UUID, artifact_id: UUID, visitor: Signed) -> Response:
        """A file whose deletion was ordered, as history knows it by now."""
        artifact = _part_of(await visitor.get(f"/executions/{run_id}"), artifact_id)
        withdrawn = artifact["deleted_at"] is None
        return render(request, "artifacts/row.html", visitor, artifact=artifact, withdrawn=withdrawn)

    @pages.get("/download")
    async def list_downloads(request: Request, visitor: Signed, artifact: Selected) -> Response:
        """The chosen files as links, and the commands that fetch their runs."""
        chosen = await _read(visitor, artifact)
        there = [each for each in chosen if each["deleted_at"] is None]
        commands = files.fetching_commands(address_of(request), (each["run_id"] for each in there))
        gone = len(set(artifact)) - len(there)
        return render(request, "artifacts/download.html", visitor, artifacts=there, gone=gone, commands=commands)

    @pages.get("/delete")
    async def ask_to_delete(request: Request, visitor: Signed, artifact: Selected) -> Response:
        return render(request, "artifacts/delete.html", visitor, artifacts=await _read(visitor, artifact))

    @pages.post("/delete")
    async def delete(request: Request, visitor: Signed, artifact: Picked) -> Response:
        """Withdraw files; those that can't be deleted are named with the reason."""
        chosen = await _read(visitor, artifact)
        refused: list[str] = []
        withdrawn: list[dict[str, Any]] = []
        for each in chosen:
            try:
                await visitor.send("DELETE", f"/files/{each['artifact_id']}")
            except Refused as error:
                if error.status in (401, 403):
                    raise
                refused.append(f"{each['file_name']}: {error}")
            except Away:
                refused.append(f"{each['file_name']} and what follows it: the exporter does not answer; try again.")
                break
            else:
                withdrawn.append(each)
        if missing := len(set(artifact)) - len(chosen):
            refused.append(f"{missing} of the chosen files are not known any more.")
        count = len(withdrawn)
        said = f"Deleted {count} file{'' if count == 1 else 's'}." if count else None
        response = render(request, "artifacts/deleted.html", visitor, said=said, refused=refused)
        paths = [f"{each['run_id']}/{each['artifact_id']}" for each in withdrawn]
        response.headers["HX-Trigger"] = orjson.dumps({"files-deleted": paths}).decode()
        return response

    return pages


def _part_of(run: dict[str, Any], artifact_id: UUID) -> dict[str, Any]:
    for artifact in run["artifacts"]:
        if artifact["artifact_id"] == str(artifact_id):
            return artifact
    raise Refused(404, {"detail": "There is no such file."})


async def _read(visitor: Visitor, choices: Iterable[str]) -> list[dict[str, Any]]:
    """The chosen files as they are now, by run; what is not known any more is left out."""
    wanted = {Chosen.read(choice) for choice in choices}
    turns = asyncio.Semaphore(AT_ONCE)

    async def of_run(run_id: UUID) -> list[dict[str, Any]]:
        async with turns:
            try:
                run = await visitor.get(f"/executions/{run_id}")
            except Refused as error:
                if error.status == 404:
                    return []
                raise
        return [each for each in run["artifacts"] if Chosen(run_id, UUID(each["artifact_id"])) in wanted]

    found = await asyncio.gather(*(of_run(run_id) for run_id in sorted({each.run_id for each in wanted})))
    return [artifact for run in found for artifact in run]
