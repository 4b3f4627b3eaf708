"""How checks are run: at the same time, for a bounded time, and without their faults being anybody else's."""

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import asyncpg
from aiokafka.errors import KafkaError

from cli.broker import NOT_PERMITTED
from cli.doctor.findings import Finding, failed

T = TypeVar("T")

CHECK_SECONDS: Final = 15
"""For one check; all of them go on at the same time."""
CONNECT_SECONDS: Final = 5


async def bounded(
    check: str, about: str, work: Coroutine[Any, Any, Iterable[Finding]], seconds: float = CHECK_SECONDS
) -> list[Finding]:
    """What `work` finds; that it failed, or did not end in time, is a finding."""
    remedy = "see whether the server is overloaded, stopped or unreachable from here"
    try:
        async with asyncio.timeout(seconds):
            return list(await work)
    except TimeoutError:
        message = f"there was no answer within {seconds:g} s"
    except Exception as error:
        message = explained(error)
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            remedy = "look with the role that the services log in with: it owns the schemas"
        if isinstance(error, NOT_PERMITTED):
            remedy = "look as the principal `operator` of `cdds topics acls`; CDDS_KAFKA_USERNAME and the like name it"
    return [failed(check, about, message, remedy)]


async def in_thread(work: Callable[[], T]) -> T:
    """The result of `work` in a thread that nobody waits for at the end of the process, should it hang."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(found: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(found)  # pyright: ignore[reportArgumentType] - None only where T allows it

    def run() -> None:
        found, error = None, None
        try:
            found = work()
        except Exception as raised:
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=run, daemon=True, name="doctor").start()
    return await result


def explained(error: BaseException) -> str:
    """What went wrong, in one line that quotes no DSN."""
    match error:
        case TimeoutError():
            return "there was no answer in time"
        case asyncpg.PostgresError() | KafkaError() | OSError():
            text = " ".join(str(error).split())
            return text or type(error).__name__
        case ValueError() | asyncpg.InterfaceError():
            # The messages of these quote pieces of what they could not read, and that may be a password.
            return "the address can't be read"
        case _:
            return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def address(dsn: str) -> str:
    """Host, port and database of a DSN, for people.

    >>> address("postgresql://anna:secret@db.example:5433/cdds?sslmode=require")
    'db.example:5433/cdds'
    >>> address("postgresql://anna:se/cr@et@db/cdds")
    'an address that can not be read'
    """
    try:
        parts = urlsplit(dsn)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "an address that can not be read"
    if host is None or "@" in parts.path:
        return "an address that can not be read"
    return f"{host}{'' if port is None else f':{port}'}{parts.path}"


def secrets_of(environment: Mapping[str, str], *dsns: str | None) -> list[str]:
    """What must not be shown: passwords in DSNs, and what stands in settings that are secrets."""
    found: set[str] = set()
    for name, value in environment.items():
        if not name.startswith("CDDS_"):
            continue
        if name.endswith(("_POSTGRES",)) or name.startswith("CDDS_SOURCE_"):
            found |= _passwords(value)
        elif name.endswith("_OBJECT_OPTIONS"):
            found |= set(re.findall(r':\s*"([^"]{4,})"', value)) - _addresses(value)
        elif name.endswith(("_KEY", "_TOKEN", "_PASSWORD")) and not value.startswith("/"):
            found.add(value)
    for dsn in dsns:
        found |= _passwords(dsn or "")
    return sorted((secret for secret in found if secret), key=len, reverse=True)


def redacted(text: str, secrets: Iterable[str]) -> str:
    """`text` without the secrets."""
    for secret in secrets:
        text = text.replace(secret, "…")
    return text


def _passwords(dsn: str) -> set[str]:
    quoted = re.findall(r"://[^:/@]*:(.*)@", dsn) + re.findall(r"password=([^&\s]+)", dsn)
    return {form for password in quoted for form in (password, unquote(password))}


def _addresses(options: str) -> set[str]:
    return set(re.findall(r'"(https?://[^"]*)"', options))


def counted(number: int, noun: str) -> str:
    """How many there are of something.

    >>> counted(1, "record"), counted(2000, "record")
    ('1 record', '2,000 records')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def span(duration: timedelta) -> str:
    """A duration for people.

    >>> span(timedelta(seconds=75)), span(timedelta(days=3, hours=2)), span(timedelta(milliseconds=40))
    ('1 min', '3 days', '0 s')
    """
    seconds = abs(duration.total_seconds())
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {'day' if unit == 'days' and number == 1 else unit}"
    return f"{seconds:.0f} s"
