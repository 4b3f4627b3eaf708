"""A real S3 server in a process of its own, with a bucket per test."""

import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager

import httpx

from deploy.local.processes import free_port
from services.exporter.pipeline import ObjectStore
from services.exporter.pipeline.transfer import Patience

_SERVER = """
import os, sys, threading
from moto.server import main
# Its standard input ends with the test run, however that ends.
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(sys.argv[1:])
"""


class Bucket:
    """An empty bucket on the server at `server`, which asks for no credentials."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.name = f"test-{uuid.uuid4()}"
        self.http = httpx.Client(base_url=f"{server}/{self.name}", timeout=30)
        self.http.put("").raise_for_status()

    def store(self, through: str | None = None, patience: Patience | None = None) -> ObjectStore:
        """The bucket below `exports/`; `through` is the address of a proxy."""
        options = {"endpoint": through or self.server, "access_key_id": "test", "secret_access_key": "test"}
        return ObjectStore(f"s3://{self.name}/exports", options, patience or Patience())

    def objects(self) -> list[str]:
        """What others see that look into the bucket."""
        return re.findall("<Key>(.*?)</Key>", self.http.get("").raise_for_status().text)

    def open_uploads(self) -> list[str]:
        """The keys of multipart uploads that were neither completed nor aborted."""
        return re.findall("<Key>(.*?)</Key>", self.http.get("?uploads").raise_for_status().text)


def soon(holds: Callable[[], bool]) -> bool:
    """Whether it holds within a minute: what a slow store is asked to abort may be aborted behind its caller."""
    deadline = time.monotonic() + 60
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def s3_server() -> Generator[str]:
    """The address of a server."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", _SERVER, "-p", str(port)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as process:
        try:
            _await(address, process)
            yield address
        finally:
            process.kill()


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(address, timeout=10)
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
