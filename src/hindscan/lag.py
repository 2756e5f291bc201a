"""How far each trigger is behind the end of its topics, asked of the brokers when somebody looks.

Compares what the store has recorded (promise 4: the committed offset can only be behind that) with the end that a reader of committed records sees. Answers are kept for
some seconds, so that many who look cost the brokers no more than one; a cluster that does not answer is told of, and holds nobody up for long.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from hindscan.errors import HindscanError
from hindscan.kafka.cluster import describe_topics, find_offsets
from hindscan.runs.figures import Lag
from hindscan.runs.positions import places

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.runs.store import Store

__all__ = ["Lags"]

#: How long an answer is good.
KEPT_SECONDS: Final = 5.0
#: How long a broker may take to answer.
ANSWER_SECONDS: Final = 3.0


class Lags:
    """Looks up how far triggers are behind; safe to call from several threads.

    Parameters
    ----------
    project : Project
        Its triggers listen.
    store : Store
        Has their positions.
    """

    def __init__(self, project: Project, store: Store) -> None:
        self._project, self._store = project, store
        self._turn = threading.Lock()
        self._asked_at = -KEPT_SECONDS
        self._found: tuple[tuple[Lag, ...], dict[str, bool]] = ((), {})

    def look(self) -> tuple[tuple[Lag, ...], dict[str, bool]]:
        """Give the lags, and whether each cluster answers; at most `KEPT_SECONDS` old."""
        with self._turn:
            if time.monotonic() - self._asked_at >= KEPT_SECONDS:
                self._found = self._look()
                self._asked_at = time.monotonic()
            return self._found

    def _look(self) -> tuple[tuple[Lag, ...], dict[str, bool]]:
        listening: dict[str, dict[str, list[str]]] = {}
        for trigger in self._project.triggers.values():
            for source in trigger.sources:
                if source.kind == "kafka":
                    listening.setdefault(source.cluster, {}).setdefault(source.topic, []).append(trigger.name)
        lags: list[Lag] = []
        up: dict[str, bool] = {}
        for cluster, topics in sorted(listening.items()):
            try:
                lags += self._behind(cluster, topics)
                up[cluster] = True
            except HindscanError:
                up[cluster] = False
        return tuple(lags), up

    def _behind(self, cluster: str, topics: dict[str, list[str]]) -> list[Lag]:
        config = self._project.clusters[cluster]
        lags: list[Lag] = []
        for topic, (topic_id, count) in sorted(describe_topics(config, list(topics), ANSWER_SECONDS).items()):
            ends = find_offsets(config, topic, count, "latest", ANSWER_SECONDS)
            for trigger in topics[topic]:
                # Of a partition that is newer than the trigger nothing is recorded yet.
                recorded = {
                    place.partition: place.next_offset
                    for place in places(self._store, trigger)
                    if (place.cluster, place.topic, place.topic_id) == (cluster, topic, topic_id)
                }
                lags += [
                    Lag(
                        trigger=trigger,
                        cluster=cluster,
                        topic=topic,
                        partition=partition,
                        offsets=max(0, end - recorded.get(partition, 0)),
                    )
                    for partition, end in sorted(ends.items())
                ]
        return lags
