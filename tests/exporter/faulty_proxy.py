"""A proxy that does to HTTP requests what networks and servers do."""

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

Fault = Callable[["Exchange"], Awaitable[None]]
"""What happens to a request instead of its being forwarded."""

_NO_WAIT: Final = struct.pack("ii", 1, 0)


class Exchange:
    """A request whose head was read, and everything that can be done with it."""

    def __init__(self, proxy: "FaultyProxy", head: bytes, client: asyncio.StreamReader, out: asyncio.StreamWriter):
        self.proxy = proxy
        self.line = head.partition(b"\r\n")[0].decode()
        self._head = head
        self._client = client
        self._out = out
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        self._length = int(length.group(1)) if length else 0

    async def forwarded(self) -> bytes:
        """The server's reply, which the client does not have yet."""
        body = await self._client.readexactly(self._length)
        reader, writer = await asyncio.open_connection(*self.proxy.upstream)
        try:
            writer.write(self._head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + body)
            return await reader.read()
        finally:
            writer.close()

    async def answer(self, reply: bytes) -> None:
        self._out.write(reply)
        await self._out.drain()

    async def refuse(self, status: int, code: str) -> None:
        """Answer as S3 does when it will not."""
        await self._client.readexactly(self._length)
        body = f"<Error><Code>{code}</Code><Message>As the test wanted.</Message></Error>".encode()
        await self.answer(
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        )

    async def reset(self, after: float = 0.5) -> None:
        """Read a part of the body, then reset the connection."""
        await self._client.readexactly(int(self._length * after))
        self._out.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_WAIT)
        self._out.transport.abort()


class FaultyProxy:
    """Forwards requests to `server`; those whose first line matches a rule meet its fault, as often as it says.

    Runs in a thread, because the store blocks the one that tests run in.
    """

    def __init__(self, server: str) -> None:
        address = urlsplit(server)
        self.upstream = (str(address.hostname), int(address.port or 80))
        self.seen: list[str] = []
        """The first line of every request."""
        self.met: list[str] = []
        """The first line of every request that met a fault."""
        self.hit = threading.Event()
        self._rules: list[tuple[re.Pattern[str], Fault, int]] = []
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._ended = asyncio.Event()
        self._clients: set[asyncio.Task[None] | None] = set()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    def on(self, pattern: str, fault: Fault, times: int = 10**9) -> None:
        """Requests like `PUT /bucket/key?partNumber=2` that `pattern` is found in meet the fault."""
        self._rules.append((re.compile(pattern), fault, times))

    def clear(self) -> None:
        self._rules.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._serve_client, "127.0.0.1", 0, limit=2**16)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._listening.set()
        await self._ended.wait()
        server.close()
        clients = asyncio.all_tasks() - {asyncio.current_task()}
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(asyncio.current_task())  # asyncio itself would forget those that hang
        try:
            exchange = Exchange(self, await reader.readuntil(b"\r\n\r\n"), reader, writer)
            self.seen.append(exchange.line)
            if (fault := self._fault(exchange.line)) is not None:
                self.met.append(exchange.line)
                self.hit.set()
                await fault(exchange)
            else:
                await exchange.answer(await exchange.forwarded())
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went, or the test is over
        finally:
            writer.close()

    def _fault(self, line: str) -> Fault | None:
        for number, (pattern, fault, times) in enumerate(self._rules):
            if times and pattern.search(line):
                self._rules[number] = (pattern, fault, times - 1)
                return fault
        return None


def refusing(status: int, code: str) -> Fault:
    return lambda exchange: exchange.refuse(status, code)


async def resetting(exchange: Exchange) -> None:
    await exchange.reset()


async def losing_the_reply(exchange: Exchange) -> None:
    """The server does it; nobody learns of it."""
    await exchange.forwarded()


async def hanging(_: Exchange) -> None:
    """Take no more bytes and answer nothing."""
    await asyncio.Event().wait()


def slow(seconds: float) -> Fault:
    async def answer_late(exchange: Exchange) -> None:
        reply = await exchange.forwarded()
        await asyncio.sleep(seconds)
        await exchange.answer(reply)

    return answer_late


async def changing_a_byte(exchange: Exchange) -> None:
    """The reply, but with another last byte."""
    reply = await exchange.forwarded()
    await exchange.answer(reply[:-1] + bytes([reply[-1] ^ 1]))
