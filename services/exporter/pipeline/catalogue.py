"""What can be exported, as the operator's file and the sources' own catalogues say."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

import psycopg

from services.exporter.pipeline.errors import PipelineError, SourceRefused, SourceUnavailable
from services.exporter.pipeline.source import Column, SourceConnection, connect, describe, pin_output, translation
from shared.observability import log
from shared.sources import DataType, Source, Sources, SourcesInvalid

T = TypeVar("T")

KEPT: Final = timedelta(minutes=1)
"""How long the columns of a type count."""
ERROR_KEPT: Final = timedelta(seconds=10)
"""How long it counts that they could not be read, so that a page that is reloaded does not wait each time."""
ANSWERS_WITHIN: Final = timedelta(seconds=4)
"""For the connection, and again for a statement: somebody is waiting for an HTTP answer."""
_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class ListedType:
    """A type with its columns; without them `error` says why, in a sentence for people."""

    name: str
    definition: DataType
    columns: Sequence[Column] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class ListedSource:
    """A source that a tenant may export from."""

    name: str
    definition: Source
    types: Sequence[ListedType]


class Catalogue:
    """The sources and their columns. Reads in threads of its own, so that a source that hangs holds up nothing else."""

    def __init__(self, sources: Sources, clock: Callable[[], float] = time.monotonic) -> None:
        self.sources = sources
        self._clock = clock
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="catalogue")
        self._known: dict[tuple[str, str], _Kept] = {}

    async def listed(self, tenant: str) -> list[ListedSource]:
        """The sources that `tenant` may export from; never raises for one that can't be reached."""
        visible = self.sources.visible_to(tenant)
        types = await asyncio.gather(*(self.in_thread(lambda name=name: self._types(name)) for name in visible))
        return [
            ListedSource(name, source, tuple(found.values()))
            for (name, source), found in zip(visible.items(), types, strict=True)
        ]

    async def columns(self, source: str, type_: str) -> Sequence[Column]:
        """The columns of a type that exists in the operator's file. Raises SourceUnavailable."""
        found = (await self.in_thread(lambda: self._types(source)))[type_]
        if found.columns is None:
            raise SourceUnavailable(found.error or "")
        return found.columns

    async def in_thread(self, work: Callable[[], T]) -> T:
        """The result of `work`, which may wait for a source."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _types(self, name: str) -> Mapping[str, ListedType]:
        """The types of a source, those that were not looked up lately over one connection."""
        source = self.sources.sources[name]
        now = self._clock()
        known = {key: self._known.get((name, key)) for key in source.types}
        found = {key: kept.type for key, kept in known.items() if kept is not None and now < kept.until}
        missing = {key: definition for key, definition in source.types.items() if key not in found}
        for key, type_ in (_looked_up(name, source, missing) if missing else {}).items():
            kept_for = KEPT if type_.error is None else ERROR_KEPT
            self._known[name, key] = _Kept(now + kept_for.total_seconds(), type_)
            found[key] = type_
        return {key: found[key] for key in source.types}


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    type: ListedType


def _looked_up(name: str, source: Source, types: Mapping[str, DataType]) -> dict[str, ListedType]:
    found: dict[str, ListedType] = {}
    try:
        with closing(connect(source.resolve_dsn(), connect_timeout=int(ANSWERS_WITHIN.total_seconds()))) as connection:
            for key, definition in types.items():
                try:
                    found[key] = ListedType(key, definition, _columns(connection, definition), None)
                except SourceRefused as error:
                    log.warning("type without a table", source=name, type=key, error=str(error))
                    found[key] = ListedType(key, definition, None, "The table or query behind this type can't be read.")
    except (PipelineError, SourcesInvalid, OSError, UnicodeError) as error:
        # The log has what the source says; it may hold names and addresses that are nobody else's business.
        log.warning("source not read", source=name, error=str(error.__cause__ or error))
        away = "The source can't be reached at the moment."
        found |= {key: ListedType(key, types[key], None, away) for key in types if key not in found}
    return found


def _columns(connection: SourceConnection, type_: DataType) -> Sequence[Column]:
    try:
        with connection.transaction():
            pin_output(connection, ANSWERS_WITHIN)
            return describe(connection, type_).columns
    except psycopg.Error as error:
        raise translation(error) from error
