"""Two brokers that speak the Kafka protocol: a small embedded one, and Apache Kafka itself."""

import abc
import asyncio
import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Self
from xml.etree import ElementTree

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import JoinGroupRequest, LeaveGroupRequest

from deploy.local.processes import Child, Output, StartFailed, free_port, read_pid, run_to_end, stop_stale, until_ready

_POM = Path(__file__).parent / "apache_kafka" / "pom.xml"


class Broker(abc.ABC):
    """One broker on 127.0.0.1 whose whole state is one folder; it can be stopped, killed, wiped and started again."""

    def __init__(self, name: str, data: Path, port: int | None, output: Output) -> None:
        self.name = name
        self.data = data.resolve()
        self.port = port or free_port()
        self.started_after_crash = False
        self._output = output
        self._pid_file = self.data / "broker.pid"
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """The address for clients, as `bootstrap_servers`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    async def start(self, within: timedelta = timedelta(seconds=60)) -> None:
        """Return once the broker answers a metadata request; stops a forgotten broker on the same folder first.

        Afterwards `started_after_crash` says whether the last one on this folder ended other than by `stop`. Raises
        StartFailed with the broker's last lines.
        """
        if self._child and self._child.is_running:
            return
        self.data.mkdir(parents=True, exist_ok=True)
        self.started_after_crash = self._pid_file.exists()
        if pid := read_pid(self._pid_file):
            await stop_stale(pid, self.data, signal.SIGTERM)
        self._child = self._child or await self._prepared()
        await self._child.start()
        self._pid_file.write_text(f"{self._child.pid}\n")
        await until_ready(self._child, self._answers, within)

    async def wait(self) -> int:
        """Wait until the broker has ended."""
        if self._child is None:
            raise RuntimeError(f"{self.name} was not started")
        return await self._child.wait()

    async def stop(self, grace: timedelta = timedelta(seconds=30)) -> None:
        """Shut down cleanly; what was acknowledged is there at the next start."""
        if self._child:
            asked = self._child.is_running
            await self._child.stop(grace)
            if asked and await self._child.wait() in self._clean_exits:
                self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the broker as a crash would."""
        if self._child:
            self._child.kill()

    async def wipe(self) -> None:
        """Lose everything the broker had; it must have been stopped or killed."""
        if self._child:
            if self._child.is_running:
                raise RuntimeError(f"{self.name} is running")
            await self._child.stop()
            self._child = None
        await asyncio.to_thread(shutil.rmtree, self.data, ignore_errors=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    _clean_exits: tuple[int, ...] = (0,)

    @abc.abstractmethod
    async def _prepared(self) -> Child:
        """Make the data folder ready and describe the process that serves it."""

    async def _answers(self) -> bool:
        # A plain connection first: aiokafka writes an error to the log for every port that is still closed.
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=5000)
        try:
            await admin.start()
            return bool((await admin.describe_cluster())["brokers"])
        except (KafkaError, OSError):
            return False
        finally:
            await admin.close()


class EmbeddedKafka(Broker):
    """The broker of the `noida-db` package: up in a moment, records in memory, written to disk by a clean stop only."""

    def __init__(self, data: Path, *, port: int | None = None, output: Output = None) -> None:
        super().__init__("embedded-kafka", data, port, output)

    async def forget(self, group: str, member: str) -> None:
        """Take a member that has ended, and will not come back, out of its group: its partitions go to the others.

        By itself the broker keeps them for it as long as it runs, and nobody reads them.
        """
        client = AIOKafkaClient(bootstrap_servers=self.bootstrap)
        try:
            await client.bootstrap()
            [node] = [broker.nodeId for broker in client.cluster.brokers()]
            # Who leaves gives the id that it got when it joined; who joins under the same name takes its place.
            wants = [("roundrobin", ConsumerProtocolMemberMetadata(0, [], b"").encode())]
            joined = await client.send(node, JoinGroupRequest(group, 10_000, 10_000, "", member, "consumer", wants))
            left = await client.send(node, LeaveGroupRequest(group, joined.member_id))
            assert (joined.error_code, left.error_code) == (0, 0), (joined, left)
        finally:
            await client.close()

    async def _prepared(self) -> Child:
        binary = Path(str(files("noida_db"))) / "noida-db"
        if not os.access(binary, os.X_OK):
            binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
        return Child(
            self.name,
            [binary, "start", "--only", "kafka", "--kafka-port", str(self.port), "--data-dir", self.data],
            output=self._output,
            # The loader's note on systems with an older C library, where the broker works all the same.
            ignored_lines=re.compile(r"weak version `GLIBC_"),
            # It keeps its state where it was started when it is told nothing else.
            cwd=self.data,
        )


class ApacheKafka(Broker):
    """Apache Kafka in KRaft mode: one node, broker and controller, from the jars named in `apache_kafka/pom.xml`.

    Records survive `kill`: Kafka leaves flushing to the operating system, which is still there.
    """

    # The JVM reports SIGTERM as its exit code even after a clean shutdown.
    _clean_exits = (0, 128 + signal.SIGTERM)

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        output: Output = None,
        listeners: Mapping[str, int] = MappingProxyType({}),
        properties: Mapping[str, str] = MappingProxyType({}),
        users: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Beside its own on plain TCP it has `listeners`, by name and port, that `properties` describe.

        `users` are those of SCRAM with their passwords.
        """
        super().__init__("apache-kafka", data, port, output)
        self._controller_port = free_port()
        self._listeners = listeners
        self._more = properties
        self._users = users

    async def _prepared(self) -> Child:
        if missing := missing_for_apache():
            raise StartFailed(self.name, f"cannot start: {missing}")
        jars = await apache_jars(self._output)
        logging = self.data / "log4j2.properties"
        logging.write_text(_LOG4J2)
        properties = self.data / "server.properties"
        properties.write_text(self._properties())
        java = ["java", "-cp", f"{jars}/*", f"-Dlog4j2.configurationFile={logging}", "-Djava.awt.headless=true"]
        if not (self.data / "log" / "meta.properties").exists():
            storage_tool = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(properties), "-g"]
            for user, password in self._users.items():
                storage_tool += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
            # C1 alone and a serial collector start fastest; this runs for a second.
            formatting = [*java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *storage_tool]
            await run_to_end(Child("kafka-storage", formatting, output=self._output), timedelta(minutes=1))
        options = ["-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]
        return Child(self.name, [*java, *options, "kafka.Kafka", str(properties)], output=self._output)

    def _properties(self) -> str:
        own = {"PLAINTEXT": self.port, "CONTROLLER": self._controller_port}
        settings: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in {**own, **self._listeners}.items()),
            "log.dirs": self.data / "log",
            "auto.create.topics.enable": "false",
            # One node: nothing can be replicated.
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # Fewer than 50 files each to open at every start.
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.num.partitions": 4,
            # Kafka waits 3 s for more members before the first assignment of a group.
            "group.initial.rebalance.delay.ms": 0,
            # After a crash, the node is let in again when the session of its former life has run out (9 s by default).
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            # 128 MB by default, a quarter of the heap.
            "log.cleaner.dedupe.buffer.size": 16 << 20,
            **self._more,
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())


def missing_for_apache() -> str | None:
    """What this machine lacks to run Apache Kafka, in one sentence; None when it can."""
    java = shutil.which("java")
    if java is None:
        return "Apache Kafka needs Java 17 or newer, and there is no `java` on the PATH."
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', answer.stderr)
    if version is None or int(version[1]) < 17:
        return f"Apache Kafka needs Java 17 or newer, and `java -version` says {answer.stderr.splitlines()[:1]}."
    if not _jar_folder().exists() and shutil.which("mvn") is None:
        return "Apache Kafka's jars are fetched with Maven, and there is no `mvn` on the PATH."
    return None


async def apache_jars(output: Output = None) -> Path:
    """The folder of Kafka's jars in the user's cache; Maven fills it once per version of Kafka."""
    folder = _jar_folder()
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Filled beside its place and renamed: it is there in full or not at all, whoever else fetches at the same time.
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as unfinished:
        jars = Path(unfinished) / "jars"
        goal = [
            "-Dstyle.color=never",
            "dependency:copy-dependencies",
            f"-DoutputDirectory={jars}",
            "-DincludeScope=runtime",
        ]
        await run_to_end(Child("mvn", ["mvn", "-q", "-B", "-f", _POM, *goal], output=output), timedelta(minutes=10))
        try:
            jars.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    return folder


def kafka_version() -> str:
    """The version of Apache Kafka that the pom names."""
    version = ElementTree.parse(_POM).findtext(".//{*}kafka.version")
    assert version, _POM
    return version


def _jar_folder() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "cdds" / f"kafka-{kafka_version()}"


# Any 16 bytes in base64 will do.
_CLUSTER_ID = "Y2Rkcy1sb2NhbC1rYWZrYQ"

_LOG4J2 = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""
