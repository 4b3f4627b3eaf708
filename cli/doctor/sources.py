"""The sources: reachable from here, with the tables and columns that the operator's file names.

An extraction is entered as the exporter enters it, so what it would refuse is refused here; no rows are read.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from cli.doctor.checking import CONNECT_SECONDS, address, bounded, in_thread
from cli.doctor.configuration import Read
from cli.doctor.findings import Finding, failed, ok
from cli.installation import Installation
from shared.sources import DataType, Source, Sources, SourcesInvalid

CHECK: Final = "sources"
STATEMENT: Final = timedelta(seconds=5)


async def check(installation: Installation, settings: Read) -> list[Finding]:
    """Every source that the exporter's file names; none where its settings are not known."""
    if settings.exporter is None:
        return []
    try:
        sources = Sources.load(settings.exporter.sources)
    except SourcesInvalid:
        return []  # the configuration says so
    found = await asyncio.gather(
        *(
            bounded(CHECK, name, in_thread(partial(_source, name, source, demo=installation.is_local)))
            for name, source in sources.sources.items()
        )
    )
    return [finding for findings in found for finding in findings]


def _source(name: str, source: Source, *, demo: bool) -> list[Finding]:
    try:
        dsn = source.resolve_dsn()
    except (SourcesInvalid, OSError, UnicodeError) as error:
        remedy = "set it where this command and the exporter run"
        return [failed(CHECK, name, str(error), remedy)]
    problems: dict[str, tuple[str, bool]] = {}
    for type_, definition in source.types.items():
        if (problem := _problem(dsn, definition)) is not None:
            problems[type_] = problem
            if problem[1]:
                break
    where = address(dsn) if "://" in dsn else "it"
    if not problems:
        types = ", ".join(source.types)
        return [ok(CHECK, name, f"{where} has the tables and columns of {types}")]
    return list(_findings(name, where, problems, demo=demo))


def _findings(name: str, where: str, problems: Mapping[str, tuple[str, bool]], *, demo: bool) -> Iterable[Finding]:
    away = next((problem for problem, is_away in problems.values() if is_away), None)
    if away is not None:
        remedy = (
            f"see that the source runs and lets the exporter's role connect; its DSN is a reference in sources.{name}"
        )
        if "certificate" in away or "SSL" in away:
            remedy = (
                f"correct sslmode, sslrootcert, sslcert and sslkey in the DSN of sources.{name}, or its server's TLS"
            )
        yield failed(CHECK, name, f"{where} can't be read: {away}", remedy)
        return
    for type_, (problem, _) in problems.items():
        remedy = f"correct sources.{name}.types.{type_} in the file of sources, or grant SELECT to the exporter's role"
        if demo:
            remedy = f"`cdds up --demo-data` makes the demo's tables; otherwise {remedy}"
        yield failed(CHECK, name, f"{type_}: {problem}", remedy)


def _problem(dsn: str, type_: DataType) -> tuple[str, bool] | None:
    """Why rows of this type can't be exported, and whether the whole source is away."""
    # Brings the pipeline along, which would delay every other command.
    from services.exporter.pipeline.errors import PipelineError, SourceUnavailable
    from services.exporter.pipeline.extract import Extraction, Query

    query = Query(
        dsn=dsn,
        type=type_,
        tenant="",
        interval_from=None,
        interval_to=datetime.now(UTC),
        media_types=() if type_.media_type_column is not None else None,
        attachments=True,
        statement_timeout=STATEMENT,
        connect_timeout=timedelta(seconds=CONNECT_SECONDS),
    )
    try:
        with Extraction(query):
            return None
    except PipelineError as error:
        is_away = isinstance(error, SourceUnavailable)
        # The pipeline leaves out what libpq says, which is nobody's business but the operator's.
        said = error.__cause__ if is_away and error.__cause__ is not None else error
        return " ".join(str(said).split()), is_away
