"""What a client hands over of one partition: batches of records, and the events between them.

Keeps the carrying half of promise 2; what events mean is judged in `kafka.log`, for every client alike. A client is told where to begin and then asked again and
again for what comes before an offset; it gives records in the order of the log, and says when it met an event (the end of the log as the broker had it, or an error)
or a record that lies beyond. It leaves nothing out, adds nothing, and waits for a moment only.

`PlainClient` is confluent_kafka's own consumer; `kafka.fast.FastClient` is the same library without a Python object per record.

::

    begin(partition, offset) -> take(end) -> Taken(batch, event | beyond) -> kafka.log.RangeReader
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, cast

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, Message, TopicPartition

from hindscan.kafka.access import Refusals, opened
from hindscan.kafka.cluster import client_config

__all__ = ["HEADERS", "Client", "Event", "Part", "PlainClient", "RawBatch", "Taken", "settings_of"]

Config = Mapping[str, str | int | float | bool]
#: What of a record can be asked for beside offset, time and value.
Part = Literal["keys", "headers"]

#: Type of a batch's headers: any name may come twice, and a value may be null.
HEADERS: Final = pa.list_(pa.field("element", pa.struct([("key", pa.string()), ("value", pa.binary())])))

#: Messages taken from the client at once: as Python objects, so many stay in the processor's cache (10,000 were seen to cost 1.7 times as much each).
CONSUME_MESSAGES: Final = 500
#: How long it may wait for that many: at 0.2 s it was seen to wait to the full.
CONSUME_SECONDS: Final = 0.02

#: What promise 2 rests on; a cluster's own settings cannot override it.
_EXACT: Final[Config] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    # Any other value turns lost records into success: "earliest" gave 900 of 1000 records and a log line.
    "auto.offset.reset": "error",
    # Off by default, and then a flipped byte on the broker's disk is delivered as data. On, it costs nothing measurable.
    "check.crcs": True,
    "allow.auto.create.topics": False,
}
#: Speed, which a cluster's own settings may override. The default back-off of 1000 ms makes a reader sleep four fifths of its time.
_QUICK: Final[Config] = {
    "group.id": "hindscan-reader",  # demanded by the client; assigning creates no group
    "fetch.wait.max.ms": 10,
    "fetch.queue.backoff.ms": 5,
    # One answer of the broker: its records are unpacked at once, and each takes some 400 bytes beside its own.
    "fetch.message.max.bytes": 1024 * 1024,
    # Fetched ahead, beside the answer on its way. More was seen to take memory, and no less processor time.
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 4096,
    # A broker that is back is found again within a second, not ten.
    "reconnect.backoff.max.ms": 1000,
}

#: The plain client uses up a million messages a second at best, and each that waits takes half a kilobyte: a fifth of a worker's memory with small messages.
_PLAIN: Final[Config] = {"queued.min.messages": 20_000}


def settings_of(config: Config, isolation: str) -> dict[str, str | int | float | bool]:
    """Give the properties of a client that reads exactly: a cluster's own, with what exactness needs laid over them."""
    return {**_QUICK, **client_config(config), **_EXACT, "isolation.level": isolation}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RawBatch:
    """Records in the order of their offsets; the arrays have one entry for each."""

    #: int64.
    offsets: np.ndarray[Any, np.dtype[np.int64]]
    #: int64, milliseconds since the epoch; -1 where a record has no time.
    times: np.ndarray[Any, np.dtype[np.int64]]
    #: large_binary; null is a tombstone.
    values: pa.LargeBinaryArray
    #: large_binary; null is a record without a key. None: not asked for.
    keys: pa.LargeBinaryArray | None = None
    #: `HEADERS`; null is a record without headers. None: not asked for.
    headers: pa.ListArray[Any] | None = None

    @classmethod
    def of(cls, records: Sequence[tuple[int, int, bytes | None]]) -> RawBatch:
        """Make a batch of (offset, time, value)."""
        return cls(
            offsets=np.array([offset for offset, _, _ in records], np.int64),
            times=np.array([milliseconds for _, milliseconds, _ in records], np.int64),
            values=pa.array([value for _, _, value in records], pa.large_binary()),
        )

    @classmethod
    def joined(cls, batches: Sequence[RawBatch]) -> RawBatch:
        """Put batches that follow each other together."""
        if len(batches) == 1:
            return batches[0]
        return cls(
            offsets=np.concatenate([batch.offsets for batch in batches]),
            times=np.concatenate([batch.times for batch in batches]),
            values=_joined([batch.values for batch in batches]),
            keys=_joined([batch.keys for batch in batches]),
            headers=_joined([batch.headers for batch in batches]),
        )

    def __len__(self) -> int:
        return len(self.offsets)


def _joined(arrays: Sequence[Any]) -> Any:
    """Put arrays together that are either all there or all not."""
    # Arrow's own pool keeps what was freed, of which megabytes would come together for every batch.
    return None if arrays[0] is None else pa.concat_arrays(arrays, pa.system_memory_pool())


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What a client says instead of a record."""

    #: librdkafka's code.
    code: int
    offset: int | None
    text: str
    #: Said of the topic, and not of the client's connections.
    of_topic: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What was taken at once. Neither event nor beyond: there was no more for the moment, or the batch is full."""

    batch: RawBatch
    #: Met after the records of the batch.
    event: Event | None = None
    #: A record at or beyond the end was met; it stays with the client.
    beyond: bool = False


class Client(Protocol):
    """One connection that reads one partition at a time."""

    #: What brokers did not accept of it; looked at while nothing comes.
    refusals: Refusals
    #: What it can give beside offset, time and value.
    gives: frozenset[Part]

    def begin(self, partition: int, offset: int) -> None:
        """Turn to a partition, from this offset on; what was fetched before is forgotten."""
        ...

    def take(self, end: int, parts: Collection[Part] = ()) -> Taken:
        """Give what has come of offsets below `end`, up to the first event; waits for some ten milliseconds at most."""
        ...

    def close(self) -> None:
        """Let go of the connections. May be called twice."""
        ...


class PlainClient:
    """confluent_kafka's consumer, tuned.

    Parameters
    ----------
    config : mapping
        librdkafka properties of the cluster.
    topic : str
        The topic.
    isolation : str
        Which records are visible.
    """

    gives: frozenset[Part] = frozenset(("keys", "headers"))

    def __init__(self, config: Config, topic: str, isolation: str) -> None:
        self._topic = topic
        self.refusals = Refusals()
        settings = settings_of({**_PLAIN, **config}, isolation)
        self._consumer = opened(Consumer, {**settings, "error_cb": self.refusals})
        #: Taken from the client, and not given yet.
        self._left: list[Message] = []

    def begin(self, partition: int, offset: int) -> None:
        """Turn to a partition; see `Client.begin`."""
        self._left = []
        self._consumer.assign([TopicPartition(self._topic, partition, offset)])

    def take(self, end: int, parts: Collection[Part] = ()) -> Taken:
        """Give what has come; see `Client.take`."""
        # Functions of the class, mapped: a loop in Python takes twice as long over each.
        messages = self._left or self._consumer.consume(CONSUME_MESSAGES, CONSUME_SECONDS)
        count = len(messages)
        if any(map(Message.error, messages)):
            count = next(index for index, message in enumerate(messages) if message.error() is not None)
        offsets = np.fromiter(map(Message.offset, messages[:count]), np.int64, count)
        beyond = bool(count) and int(offsets[-1]) >= end
        if beyond:
            count = int(np.argmax(offsets >= end))
        event = _event(messages[count]) if not beyond and count < len(messages) else None
        records, self._left = messages[:count], messages[count + (event is not None) :]
        batch = RawBatch(
            offsets=offsets[:count],
            times=np.array([milliseconds for _, milliseconds in map(Message.timestamp, records)], np.int64),
            values=_binary(list(map(Message.value, records))),
            keys=_binary(list(map(Message.key, records))) if "keys" in parts else None,
            headers=_headers(records) if "headers" in parts else None,
        )
        return Taken(batch=batch, event=event, beyond=beyond)

    def close(self) -> None:
        """Let go of the connections."""
        self._left = []
        self._consumer.close()


def _binary(values: list[bytes | None]) -> pa.LargeBinaryArray:
    """Make an array of values; where none is null, over their bytes as Python joins them, which was seen to take a third of the time of Arrow's own way."""
    try:
        content = b"".join(cast("list[bytes]", values))
    except TypeError:
        return pa.array(values, pa.large_binary())
    places = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, cast("list[bytes]", values)), np.int64, len(values)), out=places[1:])
    array = pa.Array.from_buffers(
        pa.large_binary(), len(values), [None, pa.py_buffer(places.data), pa.py_buffer(content)]
    )
    return cast("pa.LargeBinaryArray", array)


def _headers(messages: Sequence[Message]) -> pa.ListArray[Any]:
    return cast("pa.ListArray[Any]", pa.array([message.headers() for message in messages], HEADERS))


def _event(message: Message) -> Event:
    error = message.error()
    assert error is not None
    return Event(code=error.code(), offset=message.offset(), text=str(error), of_topic=message.topic() is not None)
