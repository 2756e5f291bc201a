"""The broker inside confluent-kafka, in a child process: for the demo where no real Kafka is installed.

librdkafka carries a small broker for its own tests. It starts in a fraction of a second and carries produce, consume and consumer groups; it is
not Kafka: aborted records are delivered, topics have no ids, look-ups by time and creating topics do not work. So what is read
from it proves nothing (promise 2), manifests say `unverified: mock`, and nothing but `hindscan demo` ever falls back to it. On top of the package.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hindscan.errors import BrokerUnavailable, ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["MockKafka"]

#: The mock cluster lives in whatever process makes it. The end of standard input ends it, as the parent's death does.
_MOCK = """
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])
def returns(name, kind, *arguments):
    function = getattr(lib, name)
    function.restype, function.argtypes = kind, arguments
    return function
P, S, I = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
settings = returns("rd_kafka_conf_new", P)()
# This client only carries the cluster; that it has no servers of its own is no news.
returns("rd_kafka_conf_set", I, P, S, S, S, ctypes.c_size_t)(settings, b"log_level", b"2", None, 0)
client = returns("rd_kafka_new", P, I, P, S, ctypes.c_size_t)(0, settings, None, 0)
cluster = returns("rd_kafka_mock_cluster_new", P, P, I)(client, 1)
returns("rd_kafka_mock_group_initial_rebalance_delay_ms", None, P, ctypes.c_int32)(cluster, 0)
create = returns("rd_kafka_mock_topic_create", I, P, S, I, I)
for topic in sys.argv[2:]:
    name, _, partitions = topic.rpartition("=")
    fault = create(cluster, name.encode(), int(partitions), 1)
    if fault:
        sys.exit(f"mock topic {name}: error {fault}")
print(returns("rd_kafka_mock_cluster_bootstraps", S, P)(cluster).decode(), flush=True)
sys.stdin.read()
"""


class MockKafka:
    """The broker inside confluent-kafka, in a child process, for the length of a `with` block.

    Up in a fraction of a second and good for produce, consume and groups. It is not Kafka: aborted records are
    delivered, topics have no ids, look-ups by time and creating topics do not work, a partition keeps about 5 MiB.

    Parameters
    ----------
    topics : Mapping[str, int]
        Partitions of each topic.

    Attributes
    ----------
    bootstrap : str
        The value for `bootstrap.servers`.
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._topics = dict(topics)
        self._process: subprocess.Popen[str] | None = None
        self.bootstrap = ""

    def __enter__(self) -> Self:
        named = [f"{name}={partitions}" for name, partitions in self._topics.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MOCK, str(_librdkafka()), *named],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.bootstrap = self._process.stdout.readline().strip()
        if not self.bootstrap:
            self.close()
            raise BrokerUnavailable(
                "While starting the mock broker: it must print its address; its process ended without one. "
                "Check the installation of confluent-kafka."
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the broker. May be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _librdkafka() -> Path:
    from importlib.metadata import files

    for file in files("confluent-kafka") or ():
        if "librdkafka" in file.name and file.suffix not in {".h", ".py", ".pyi"}:
            return Path(str(file.locate()))
    raise ServiceUnavailable(
        "While starting the mock broker: the wheel of confluent-kafka must carry librdkafka; it is not among its files. "
        "Install confluent-kafka from its binary wheel."
    )
