"""Statements put together from constants, per set of filters: what callers send only ever becomes an argument.

A page costs the rows it shows, wherever it begins, because each order has an index, and its condition is in the
statement or not: `$1 IS NULL OR …` can't be looked up. Rows without a value stand at one end of the index, and are a
part of the list of their own, which a comparison with a value would not find.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import asyncpg

from services.history.domain.listing import Place, Range
from services.history.store.part import Part
from shared.database import Connection

COUNTED = 10_000
"""More rows than these are not counted but estimated."""


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


class Reading(Part):
    """Pages of lists, each in one transaction of its tenant."""

    @asynccontextmanager
    async def reading(self, tenant: str) -> AsyncGenerator[Connection]:
        """A transaction that sees only `tenant`'s rows, and plans every statement for its very arguments.

        A plan for any arguments would not leave out the months that are not asked for, and would take a rare state for
        an ordinary one.
        """
        async with self._database.tenant(tenant) as connection:
            await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
            yield connection

    async def page(
        self, connection: Connection, select: LiteralString, only: Conditions, index: Index, *, descending: bool,
        limit: int, after: Place | None, sorted_anew: bool = False,
    ) -> list[asyncpg.Record]:  # fmt: skip
        """At most `limit` rows behind `after`, in the order of `index`; `select` is the statement before its WHERE.

        With `sorted_anew` the rows are found by what they have to be, and sorted: PostgreSQL takes conditions that go
        together for independent ones, and would follow `index` through all rows to find the few.
        """
        rows: list[asyncpg.Record] = []
        for condition, values in _sections(index, after, descending=descending):
            here = only.copy()
            here.add(condition, *values)
            direction = " DESC" if descending else " ASC"
            order = ", ".join(column + direction for column in index.columns)
            found = f"{select} WHERE {here.text}"
            if sorted_anew:
                found = f"SELECT * FROM ({found} OFFSET 0) AS found"
            # A row that gets a value between two statements is in both of their parts.
            shown = {row[index.columns[-1]] for row in rows}
            read = await connection.fetch(f"{found} ORDER BY {order} LIMIT {limit - len(rows)}", *here.arguments)
            rows += [row for row in read if row[index.columns[-1]] not in shown]
            if len(rows) == limit:
                break
        return rows

    async def total(self, connection: Connection, table: LiteralString, only: Conditions) -> tuple[int, bool]:
        """How many rows there are, and whether that is an estimate, as it is of more than `COUNTED`."""
        counted: int = await connection.fetchval(
            f"SELECT count(*) FROM (SELECT FROM {table} WHERE {only.text} LIMIT {COUNTED + 1}) AS counted",
            *only.arguments,
        )
        if counted <= COUNTED:
            return counted, False
        [plan] = await connection.fetchval(
            f"EXPLAIN (FORMAT json) SELECT FROM {table} WHERE {only.text}", *only.arguments
        )
        return max(counted, int(plan["Plan"]["Plan Rows"])), True


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
