"""Statements put together from constants, per set of filters: what callers send only ever becomes an argument.

A page costs the rows it shows, wherever it begins, because each order has an index, and its condition is in the
statement or not: `$1 IS NULL OR …` can't be looked up. Rows without a value stand at one end of the index, and are a
part of the list of their own, which a comparison with a value would not find.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, LiteralString
from uuid import UUID

import asyncpg

from services.history.domain.listing import Place, Range
from services.history.store.part import Part
from shared.database import Connection

COUNTED = 10_000
"""More rows than these are not counted but estimated."""
LOOKED_AT = 2000
"""The next rows, at most, among which those of some jobs are looked for."""
LOOKED_UP = 1000
"""More jobs than these are not looked up one by one."""
MERGED = 50
"""More jobs than these are not merged."""
SURELY_MORE = 5 * COUNTED
"""Where PostgreSQL expects more than these, it need not begin to count."""
COUNTING_COST: Final = 20_000.0
"""What counting may cost by PostgreSQL's own measure: reading 5,000 pages here and there, or a million entries of an
index.
"""


class Conditions:
    """What rows have to be, and the arguments of that; of one tenant in any case."""

    def __init__(self, tenant: str) -> None:
        self._texts: list[str] = ["tenant = $1"]
        self._arguments: list[object] = [tenant]

    def add(self, condition: LiteralString, *values: object) -> None:
        """One more condition, with `{}` where each of `values` belongs."""
        begin = len(self._arguments) + 1
        self._texts.append(condition.format(*(f"${number}" for number in range(begin, begin + len(values)))))
        self._arguments += values

    def add_equal(self, column: LiteralString, value: object | None) -> None:
        """`column` has this value, unless that is None."""
        if value is not None:
            self.add(column + " = {}", value)

    def add_any(self, column: LiteralString, values: Sequence[object]) -> None:
        """`column` has one of these values; of a single one, the index behind it keeps its order."""
        if len(values) == 1:
            self.add(column + " = {}", values[0])
        else:
            self.add(column + " = ANY({})", values)

    def add_range(self, column: LiteralString, within: Range) -> None:
        """`column` is in the range."""
        if within.begin is not None:
            self.add(column + " >= {}", within.begin)
        if within.end is not None:
            self.add(column + " < {}", within.end)

    def copy(self) -> "Conditions":
        """The same, to be added to."""
        copied = Conditions("")
        copied._texts, copied._arguments = list(self._texts), list(self._arguments)
        return copied

    def argument(self, value: object) -> str:
        """One more argument, as it is written in the statement."""
        self._arguments.append(value)
        return f"${len(self._arguments)}"

    @property
    def text(self) -> str:
        """What follows WHERE."""
        return " AND ".join(self._texts)

    @property
    def arguments(self) -> Sequence[Any]:
        """The arguments of `text`."""
        return self._arguments


@dataclass(frozen=True, slots=True)
class Index:
    """The columns of an index behind the tenant: the value, the moment where that is not the value, and the id."""

    columns: tuple[LiteralString, ...]
    nullable: bool = False
    """Whether there are rows without the value."""
    valued: bool = True
    """Whether there are rows with it. Who knows that none can be spares PostgreSQL to look at all there are."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A table that lists are of: its primary key, and what is shown of a row."""

    table: LiteralString
    key: tuple[LiteralString, LiteralString]
    shown: LiteralString


class Way(Enum):
    """How the rows of a page are found."""

    WHOLE = auto()
    """As PostgreSQL sees fit."""
    KEYS = auto()
    """As PostgreSQL sees fit, by their keys first.

    For those an index is enough that has what is filtered and sorted on, and the table is read for what is shown.
    """
    ANEW = auto()
    """By keys, too, but found by what they have to be, and all that are so are sorted.

    PostgreSQL takes conditions that go together for independent ones, and would follow the order's index through all
    rows to find the few.
    """
    NEXT = auto()
    """Among the next rows of all jobs, and if a page of these jobs is not there, `ANEW`.

    That half of all jobs had an old label says nothing of how many of the newest runs are theirs.
    """
    MERGED = auto()
    """By the keys of a page of each of some jobs, and the page of those."""


class Reading(Part):
    """Pages of lists, each in one transaction of its tenant."""

    @asynccontextmanager
    async def reading(self, tenant: str) -> AsyncGenerator[Connection]:
        """A transaction that sees only `tenant`'s rows, and plans every statement for its very arguments.

        A plan for any arguments would not leave out the months that are not asked for, and would take a rare state for
        an ordinary one. Compiling them takes longer than they do.
        """
        async with self._database.tenant(tenant) as connection:
            await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL jit = off")
            yield connection

    async def page(
        self, connection: Connection, listed: Listed, only: Conditions, index: Index, *, descending: bool, limit: int,
        after: Place | None, way: Way = Way.WHOLE, jobs: Sequence[UUID] = (),
    ) -> list[asyncpg.Record]:  # fmt: skip
        """At most `limit` rows behind `after`, in the order of `index`; of `jobs`, if there are any."""
        rows: list[asyncpg.Record] = []
        for condition, values in _sections(index, after, descending=descending):
            here = only.copy()
            here.add(condition, *values)
            # A row that gets a value between two statements is in both of their parts.
            shown = {row[index.columns[-1]] for row in rows}
            direction: LiteralString = " DESC" if descending else " ASC"
            order = "ORDER BY " + ", ".join(column + direction for column in index.columns)
            missing = limit - len(rows)
            read: list[asyncpg.Record] = []
            for one_way in (Way.NEXT, Way.ANEW) if way is Way.NEXT else (way,):
                asked = here.copy()
                statement = _statement(listed, asked, index, order, missing, one_way, jobs)
                read = await connection.fetch(statement, *asked.arguments)
                if len(read) == missing:
                    break
            rows += [row for row in read if row[index.columns[-1]] not in shown]
            if len(rows) == limit:
                break
        return rows

    async def total(self, connection: Connection, table: LiteralString, only: Conditions) -> tuple[int, bool]:
        """How many rows there are, and whether that is an estimate: of more than `COUNTED`, or where it takes long."""
        [explained] = await connection.fetchval(
            f"EXPLAIN (FORMAT json) SELECT FROM {table} WHERE {only.text}", *only.arguments
        )
        expected: int = explained["Plan"]["Plan Rows"]
        if expected > SURELY_MORE or explained["Plan"]["Total Cost"] > COUNTING_COST:
            return expected, True
        counted: int = await connection.fetchval(
            f"SELECT count(*) FROM (SELECT FROM {table} WHERE {only.text} LIMIT {COUNTED + 1}) AS counted",
            *only.arguments,
        )
        return (counted, False) if counted <= COUNTED else (max(counted, expected), True)


def _statement(
    listed: Listed, only: Conditions, index: Index, order: str, limit: int, way: Way, jobs: Sequence[UUID]
) -> str:  # fmt: skip
    """At most `limit` rows of what is `only` so; may add to the arguments."""
    last = f"{order} LIMIT {limit}"
    if jobs and way not in (Way.NEXT, Way.MERGED):
        only.add_any("job_id", jobs)
    if way is Way.WHOLE:
        return f"SELECT {listed.shown} FROM {listed.table} WHERE {only.text} {last}"
    keys = ", ".join(dict.fromkeys((*index.columns, *listed.key)))
    found = f"SELECT {keys} FROM {listed.table} WHERE {only.text}"
    if way is Way.ANEW:
        found = f"SELECT * FROM ({found} OFFSET 0) AS found"
    elif way is Way.NEXT:
        found = f"""SELECT {keys} FROM (
                      SELECT {keys}, job_id FROM {listed.table} WHERE {only.text} {order} LIMIT {LOOKED_AT}
                    ) AS next WHERE job_id = ANY({only.argument(jobs)}::uuid[])"""
    elif way is Way.MERGED:
        found = f"""SELECT found.* FROM unnest({only.argument(jobs)}::uuid[]) AS one
                    CROSS JOIN LATERAL ({found} AND job_id = one {last}) AS found"""
    moment, key = listed.key
    # Not by the index on `key` alone: it leads all over the table, and what was just read of this one is next to it.
    same = f"{moment} = found.{moment} AND ({moment}, {key}) >= row AND ({moment}, {key}) <= row".replace(
        "row", f"(found.{moment}, found.{key})"
    )
    return f"""SELECT shown.* FROM ({found} {last}) AS found
               CROSS JOIN LATERAL (SELECT {listed.shown} FROM {listed.table} WHERE {same} OFFSET 0) AS shown
               {last}"""


def _sections(
    index: Index, after: Place | None, *, descending: bool
) -> Iterator[tuple[LiteralString, Sequence[object]]]:
    """The parts of the list behind the place, in their order: what each has to be, with its arguments.

    Those with the same value are a part of their own: PostgreSQL takes (value, moment, key) > ($1, $2, $3) for as rare
    as value > $1, and would read and sort all that have the greatest value.
    """
    value, rest = index.columns[0], index.columns[1:]
    beyond: LiteralString = " < " if descending else " > "
    if len(rest) == 1:
        if after is None:
            yield index.columns[0] + " IS NOT NULL", ()
        else:
            yield _row(index.columns) + beyond + "({}, {})", (after.value, after.key)
        return
    if index.nullable and descending and after is None:
        yield value + " IS NULL", ()
    if after is not None and after.value is None:
        yield value + " IS NULL AND " + _row(rest) + beyond + "({}, {})", (after.moment, after.key)
    elif after is not None and index.valued:
        yield value + " = {} AND " + _row(rest) + beyond + "({}, {})", (after.value, after.moment, after.key)
        yield value + beyond + "{}", (after.value,)
    if index.valued and (after is None or (after.value is None and descending)):
        yield value + " IS NOT NULL", ()
    if index.nullable and not descending and (after is None or after.value is not None):
        yield value + " IS NULL", ()


def _row(columns: Sequence[LiteralString]) -> LiteralString:
    return "(" + ", ".join(columns) + ")"
