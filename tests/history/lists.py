"""Runs that differ in everything lists are filtered and sorted by, and lists read page by page."""

from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import httpx

from services.history.store import Store
from shared.events import Event, Question, RunRequested, Slot, Trigger
from tests.history.events import START, Run, project

HOUR = timedelta(hours=1)


def request(
    run: Run, *, title: str = "Interactions", source: str = "ucs", type: str = "interaction",
    trigger: Trigger = Trigger.SCHEDULE, data: tuple[datetime | None, datetime] = (START - HOUR, START),
    version: int = 1, slot_at: datetime = START,
) -> RunRequested:  # fmt: skip
    """What the scheduler asked for."""
    known = run.requested()
    asked = known.question.model_dump() | {
        "source": source, "type": type, "interval_from": data[0], "interval_to": data[1],
    }  # fmt: skip
    slot = Slot(key=f"{trigger}:{run.run_id}", at=slot_at, trigger=trigger)
    return known.model_copy(
        update={"title": title, "question": Question(**asked), "slot": slot, "job_version": version}
    )


def fleet(random: Random, size: int, tenant: str = "t1") -> list[Event]:
    """Runs in all states, many of which share values and moments."""
    events: list[Event] = []
    jobs = [uuid4() for _ in range(4)]
    for _ in range(size):
        run = Run(tenant, random.choice(jobs), START + random.randint(0, 5) * timedelta(days=9))
        told: dict[str, Any] = {
            "title": random.choice(["Äpfel", "apples", "Zebras", "äpfel"]), "source": random.choice(["ucs", "crm"]),
            "type": random.choice(["interaction", "contact"]),
        }  # fmt: skip
        events.append(request(run, trigger=random.choice(list(Trigger)), **told))
        match random.randint(0, 5):
            case 0:
                pass
            case 1:
                events.append(run.queued())
            case 2:
                events += [run.queued(), run.started(), run.progressed()]
            case 3:
                events += [run.queued(), run.started(), run.failed()]
            case 4:
                events += [run.queued(), run.cancelled()]
            case _:
                events += [run.queued(), run.started()]
                run.now += timedelta(seconds=random.randint(0, 2))
                *files, end = run.succeeded(parts=random.randint(1, 2))
                if random.random() < 0.3:
                    told = dict.fromkeys(told)  # by an older exporter
                events += [file.model_copy(update=told) for file in files]
                rows = random.randint(0, 3)
                events.append(end.model_copy(update={"rows": rows, "bytes": rows * 1000}))
    return events


async def page(
    client: httpx.AsyncClient, path: str, headers: dict[str, str], **query: Any
) -> tuple[list[dict[str, Any]], str | None]:
    """The items of one page, and its `next`."""
    answer = await client.get(f"/api/v1/{path}", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert len(body["items"]) <= query.get("limit", 50)
    return body["items"], body["next"]


async def pages(client: httpx.AsyncClient, path: str, headers: dict[str, str], **query: Any) -> list[dict[str, Any]]:
    """The items of all pages."""
    items, more = await page(client, path, headers, **query)
    while more is not None:
        found, more = await page(client, path, headers, **query, after=more)
        items += found
    return items


async def add(store: Store, count: int, **where: Any) -> list[UUID]:
    """So many more runs that were only asked for."""
    runs = [Run(**where) for _ in range(count)]
    await project(store, [request(run) for run in runs])
    return [run.run_id for run in runs]
