"""The way in from Kafka: what triggers listen to, handed on in batches and committed only when it is recorded (promise 4).

A listener is one member of a consumer group for the trigger topics of one cluster. Where it begins is what the store says, never what the group committed:
offsets are stored with the events, in their transaction, and committed to the group afterwards only so that its lag can be seen. What `record` has not
taken is not lost: if the store is away the listener stays in the group, holds its partitions and tries again. No record is skipped: an offset that is gone,
a topic that is gone, another listener of the same name end it with the error.

The thread that polls only reads and records; it never executes a job, so no job can push it out of its group.

::

    broker -> poll -> Unread, Unread, ... -> record(batch) -> commit
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from hindscan.errors import DataLost, HindscanError, SourceChanged, SourceMissing
from hindscan.events.received import Received, Unread, Wrapped, received_from_kafka
from hindscan.kafka.cluster import MOCK_TOPIC_ID, describe_topics, find_offsets
from hindscan.kafka.group import GroupConsumer, Heard

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from types import TracebackType

__all__ = ["KafkaListener"]

#: Records of one batch: enough to share a transaction, few enough to be recorded in a moment.
MAX_BATCH_RECORDS: Final = 1000
#: Bytes after which a batch is full.
MAX_BATCH_BYTES: Final = 8 << 20

#: How long one wait for a record may take, and so how long a stop may be unnoticed.
_POLL_SECONDS: Final = 0.1
#: How often it is asked whether the topics are still the same ones.
_PROBE_SECONDS: Final = 10.0
_FIRST_RETRY_SECONDS: Final = 0.1
_LAST_RETRY_SECONDS: Final = 5.0

_LOG = logging.getLogger("hindscan.events.kafka")


class KafkaListener:
    """Listens to trigger topics in a thread of its own, while entered.

    Parameters
    ----------
    config : Mapping[str, str | int | float | bool]
        librdkafka properties of the cluster.
    group : str
        The consumer group.
    instance_id : str
        Name of this member: a restart under the same name takes its partitions over at once; a second one at the same time ends the first.
    topics : Collection[str]
        What to listen to.
    record : Callable[[list[Unread]], object]
        Reads a batch and stores it durably, the records of a partition in the order of their offsets; may be called again with the same ones. A retryable error is
        tried again until it succeeds; any other ends the listener.
    positions : Callable[[str, str, int], int | None]
        Tells, for topic, topic id and partition, the offset of the first record that is not recorded; None if nothing is known of the
        partition, which is then read from its beginning.
    cluster : str
        Name of the cluster in the project file.
    wrapped : Mapping[str, Wrapped], optional
        How events are made of the records of topics that hold no CloudEvents. What it raises beside `InvalidEvent` is treated as what `record` raises.

    Raises
    ------
    SourceMissing
        On entering: a topic does not exist.
    BrokerUnavailable
        On entering: no broker answers.
    """

    def __init__(
        self,
        config: Mapping[str, str | int | float | bool],
        group: str,
        instance_id: str,
        topics: Collection[str],
        record: Callable[[list[Unread]], object],
        positions: Callable[[str, str, int], int | None],
        cluster: str = "default",
        wrapped: Mapping[str, Wrapped] | None = None,
    ) -> None:
        self._config = config
        self._group = group
        self._instance_id = instance_id
        self._topics = tuple(sorted(set(topics)))
        self._record = record
        self._positions = positions
        #: Name of the cluster in the project file.
        self.cluster = cluster
        self._wrapped = dict(wrapped or {})
        self._ids: dict[str, str] = {}
        self._assigned: list[tuple[str, int]] = []
        self._ahead: deque[Heard] = deque()
        self._stopping = threading.Event()
        self._placed = threading.Event()
        self._thread: threading.Thread | None = None
        self._probed = 0.0
        #: What ended it, if anything did.
        self.error: HindscanError | None = None

    def __enter__(self) -> Self:
        self._ids = self._describe()
        self._probed = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"listen-{self.cluster}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What it is called where faults are told."""
        return f"kafka {self.cluster}"

    @property
    def alive(self) -> bool:
        """Whether it listens: it was entered, not closed, and no error ended it."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Stop after the batch in hand, and leave the group."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def join(self, timeout_seconds: float | None = None) -> None:
        """Wait until it has ended.

        Raises
        ------
        HindscanError
            The error that ended it.
        """
        if self._thread is not None:
            self._thread.join(timeout_seconds)
        if self.error is not None:
            raise self.error

    def wait_placed(self, timeout_seconds: float) -> bool:
        """Wait until it has been given partitions, or none, and reads them; tell whether it has."""
        return self._placed.wait(timeout_seconds)

    # --- The thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            # The broker inside confluent-kafka knows no static members.
            instance_id = None if MOCK_TOPIC_ID in self._ids.values() else self._instance_id
            consumer = GroupConsumer(self._config, self._group, instance_id, self._topics)
            try:
                self._listen(consumer)
            finally:
                consumer.close()
        except HindscanError as error:
            self.error = error
            _LOG.error("%s", error)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, and it has no other way out of the thread
            _LOG.exception("listening to %s", ", ".join(self._topics))
            self.error = HindscanError(
                f"While listening to {', '.join(self._topics)}: what records the events must not raise anything but errors of "
                f"hindscan; it raised {type(error).__name__}: {error}. This is a fault of hindscan: please report it with the log."
            )
            self.error.__cause__ = error

    def _listen(self, consumer: GroupConsumer) -> None:
        while not self._stopping.is_set():
            assigned = consumer.take_assignment()
            if assigned is not None:
                self._assigned = assigned
                self._until_it_works(consumer, lambda: self._place(consumer))
            elif time.monotonic() - self._probed > _PROBE_SECONDS:
                self._until_it_works(consumer, lambda: self._probe(consumer))
            batch = self._gather(consumer)
            if batch:
                unread = [self._unread(heard) for heard in batch]
                if self._until_it_works(consumer, partial(self._record, unread)):
                    consumer.commit({(heard.topic, heard.partition): heard.offset + 1 for heard in batch})

    def _gather(self, consumer: GroupConsumer) -> list[Heard]:
        """Wait for a first record, and take what else is there already: a lone event is not kept waiting for others."""
        batch: list[Heard] = []
        size_bytes = 0
        while len(batch) < MAX_BATCH_RECORDS and size_bytes < MAX_BATCH_BYTES:
            heard = self._ahead.popleft() if self._ahead else consumer.poll(0 if batch else _POLL_SECONDS)
            if heard is None:
                break
            batch.append(heard)
            size_bytes += heard.size_bytes
        return batch

    def _until_it_works(self, consumer: GroupConsumer, action: Callable[[], object]) -> bool:
        """Try until it succeeds, staying in the group and getting no records meanwhile; tell whether it did before the stop."""
        wait_seconds = _FIRST_RETRY_SECONDS
        held = False
        try:
            while not self._stopping.is_set():
                try:
                    action()
                except HindscanError as error:
                    if not error.retryable:
                        raise
                    _LOG.warning("trying again in %.1f s: %s", wait_seconds, error)
                else:
                    return True
                if not held:
                    consumer.hold()
                    held = True
                self._wait(consumer, wait_seconds)
                wait_seconds = min(2 * wait_seconds, _LAST_RETRY_SECONDS)
        finally:
            if held:
                consumer.go_on()
        return False

    def _wait(self, consumer: GroupConsumer, seconds: float) -> None:
        """Wait, but poll: a member that does not would be put out of its group."""
        until = time.monotonic() + seconds
        while not self._stopping.is_set() and time.monotonic() < until:
            heard = consumer.poll(_POLL_SECONDS)
            if heard is not None:
                # Handed over while the hold took effect; it comes next, so that order is kept.
                self._ahead.append(heard)

    def _unread(self, heard: Heard) -> Unread:
        return Unread(
            body=heard.value,
            headers=heard.headers,
            key=heard.key,
            cluster=self.cluster,
            topic=heard.topic,
            topic_id=self._ids.get(heard.topic),
            partition=heard.partition,
            offset=heard.offset,
            record_time=heard.time,
            read=partial(self._received, heard),
        )

    def _received(self, heard: Heard) -> list[Received]:
        return received_from_kafka(
            heard.value,
            heard.headers,
            key=heard.key,
            cluster=self.cluster,
            topic=heard.topic,
            topic_id=self._ids.get(heard.topic),
            partition=heard.partition,
            offset=heard.offset,
            record_time=heard.time,
            wrapped=self._wrapped.get(heard.topic),
        )

    # --- Where it begins ----------------------------------------------------------------------------------------------

    def _place(self, consumer: GroupConsumer) -> None:
        # While the store was away the group may have moved again.
        newer = consumer.take_assignment()
        self._assigned = self._assigned if newer is None else newer
        self._ids = self._describe()
        self._ahead.clear()
        offsets: dict[tuple[str, int], int] = {}
        for topic in sorted({topic for topic, _ in self._assigned}):
            mine = [partition for name, partition in self._assigned if name == topic]
            first = find_offsets(self._config, topic, max(mine) + 1, "earliest")
            end = find_offsets(self._config, topic, max(mine) + 1, "latest")
            for partition in mine:
                stored = self._positions(topic, self._ids[topic], partition)
                offsets[topic, partition] = first[partition] if stored is None else stored
                self._check(topic, partition, offsets[topic, partition], first[partition], end[partition])
        consumer.place(offsets)
        self._placed.set()
        _LOG.info("listening from %s", ", ".join(f"{topic}[{part}]:{at}" for (topic, part), at in offsets.items()))

    def _check(self, topic: str, partition: int, offset: int, first: int, end: int) -> None:
        if offset < first:
            raise DataLost(
                f"While taking up {topic}[{partition}]: the records from offset {offset} on must still be there, because they are not "
                f"recorded yet; the partition now begins at {first}, so {first - offset} are gone by retention; nothing was skipped. To go on from what is "
                "left, give the triggers of the topic another name; and let the topic keep its records longer.",
                topic=topic,
                partition=partition,
                offset=offset,
                first=first,
            )
        if offset > end:
            raise SourceChanged(
                f"While taking up {topic}[{partition}]: it must reach to offset {offset}, because what stood before is recorded; "
                f"it ends at {end}, so it was truncated; nothing was skipped. To go on from what is left, give the triggers of the topic another name.",
                topic=topic,
                partition=partition,
                offset=offset,
                end=end,
            )

    def _probe(self, consumer: GroupConsumer) -> None:
        """Notice a topic that was deleted and made again: a live consumer would read on in the new one from where the old one was."""
        self._probed = time.monotonic()
        if self._describe() != self._ids:
            _LOG.warning("a topic was made anew: taking up %s again", ", ".join(self._topics))
            self._place(consumer)

    def _describe(self) -> dict[str, str]:
        found = describe_topics(self._config, self._topics)
        missing = [topic for topic in self._topics if topic not in found]
        if missing:
            raise SourceMissing(
                f"While listening to {', '.join(self._topics)}: every topic must exist; the broker at "
                f"{self._config.get('bootstrap.servers')} has no {', '.join(missing)}. Create it, or correct `on` of the trigger.",
                topics=missing,
            )
        return {topic: topic_id for topic, (topic_id, _) in found.items()}
