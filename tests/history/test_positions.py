"""Whoever reads on from the last position misses nothing and sees nothing twice, however many write meanwhile."""

import asyncio
from datetime import timedelta
from functools import partial
from random import Random
from uuid import UUID

from services.history.store import Store
from shared.database import Database, outlast
from tests.history.events import delivered, project, streams

PROJECTORS = 4
READERS = 2
BATCHES = 80
"""Of each projector."""
PAGE = 7


async def test_a_reader_that_goes_on_after_what_it_saw_neither_skips_nor_repeats(
    store: Store, database: Database
) -> None:
    random = Random(7)
    batches = [batch for _ in range(30) for batch in delivered(streams(random), random)][: PROJECTORS * BATCHES]
    assert len(batches) == PROJECTORS * BATCHES
    written = False

    async def projector(number: int) -> None:
        for batch in batches[number::PROJECTORS]:
            await outlast(partial(project, store, batch), timedelta(seconds=10))

    async def reader() -> list[tuple[int, UUID]]:
        seen: list[tuple[int, UUID]] = []
        while True:
            last = written
            async with database.transaction() as connection:
                page = await connection.fetch(
                    "SELECT position, event_id FROM events WHERE position > $1 ORDER BY position LIMIT $2",
                    seen[-1][0] if seen else 0,
                    PAGE,
                )
            seen += [(row["position"], row["event_id"]) for row in page]
            if last and not page:
                return seen

    async with asyncio.TaskGroup() as readers:
        reading = [readers.create_task(reader()) for _ in range(READERS)]
        async with asyncio.TaskGroup() as projectors:
            for number in range(PROJECTORS):
                projectors.create_task(projector(number))
        written = True

    async with database.transaction() as connection:
        rows = await connection.fetch("SELECT position, event_id FROM events ORDER BY position")
    there = [(row["position"], row["event_id"]) for row in rows]
    assert len({event_id for _, event_id in there}) == len(there) > PROJECTORS * BATCHES
    for task in reading:
        assert task.result() == there
