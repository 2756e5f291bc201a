"""Kafka triggers: where each begins, and one listener per cluster for all of them.

Keeps promise 4. A new trigger's first offsets are resolved and stored before its first poll, as explicit numbers: a crash in between moves nothing. A listener reads each
partition from the furthest behind of its triggers; a trigger never decides about what lies before its own start.

::

    triggers -> first offsets (stored once) -> KafkaListener per cluster -> Intake
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from hindscan import faults
from hindscan.errors import ConfigError, SourceMissing
from hindscan.events.kafka import KafkaListener
from hindscan.events.trigger import Source
from hindscan.events.wrapping import IN_REGISTRY, wrap
from hindscan.kafka.cluster import describe_topics, find_offsets
from hindscan.runs.positions import Place, places, start_at, take_over

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.events.received import Unread, Wrapped
    from hindscan.events.trigger import Trigger
    from hindscan.runs.store import Store

    Take = Callable[[Sequence[Unread], Mapping[tuple[str, str, int], int]], object]

__all__ = ["listeners", "resolve_starts", "wrapped_at", "wrapped_by"]


def listeners(project: Project, store: Store, take: Take) -> list[KafkaListener]:
    """Make a listener for each cluster that triggers listen to; their starts are stored when this returns.

    Parameters
    ----------
    take : callable
        What `Intake.take` does, whichever intake is in force.

    Raises
    ------
    hindscan.errors.ConfigError
        A trigger names a cluster that is not declared.
    hindscan.errors.SourceMissing
        A topic does not exist.
    hindscan.errors.BrokerUnavailable
        A cluster does not answer.
    """
    by_cluster: dict[str, dict[str, list[Trigger]]] = {}
    for trigger in project.triggers.values():
        for source in trigger.sources:
            if source.kind == "kafka":
                by_cluster.setdefault(source.cluster, {}).setdefault(source.topic, []).append(trigger)
    unknown = sorted(set(by_cluster) - set(project.clusters))
    if unknown:
        declared = ", ".join(sorted(project.clusters)) or "none"
        raise ConfigError(
            f"Setting up triggers: the Kafka cluster {', '.join(unknown)} must be declared as [kafka.NAME]. Declared: {declared}."
        )
    return [_listener(project, store, take, cluster, topics) for cluster, topics in sorted(by_cluster.items())]


def _listener(
    project: Project, store: Store, take: Take, cluster: str, topics: Mapping[str, list[Trigger]]
) -> KafkaListener:
    config = project.clusters[cluster]
    starts: dict[tuple[str, str, int], int] = {}
    for topic, triggers in topics.items():
        for trigger in triggers:
            for place in resolve_starts(store, config, cluster, topic, trigger):
                starts[trigger.name, place.topic_id, place.partition] = place.start_offset
    faults.point("listening.started")

    def record(batch: list[Unread]) -> None:
        take(batch, starts)

    def position(topic: str, topic_id: str, partition: int) -> int | None:
        found = [
            place.next_offset
            for trigger in topics[topic]
            for place in places(store, trigger.name)
            if (place.cluster, place.topic, place.topic_id, place.partition) == (cluster, topic, topic_id, partition)
        ]
        # A partition or topic that is newer than its triggers is theirs from its beginning.
        return min(found) if len(found) == len(topics[topic]) else None

    return KafkaListener(
        config,
        project.serve.group,
        project.serve.instance,
        list(topics),
        record,
        position,
        cluster=cluster,
        wrapped={topic: wrapped for topic, triggers in topics.items() if (wrapped := wrapped_by(project, triggers[0]))},
    )


def wrapped_by(project: Project, trigger: Trigger) -> Wrapped | None:
    """Say how events are made of what a trigger listens to, if it is no CloudEvents; the records of a topic are alike for all of its triggers.

    Raises
    ------
    hindscan.errors.ConfigError
        The trigger names a registry that is not declared.
    """
    wrapping = trigger.wrapping
    if wrapping is None:
        return None
    if wrapping.format not in IN_REGISTRY:
        return partial(wrap, wrapping)
    from hindscan.history.values import registry_values

    if wrapping.registry not in project.registries:
        declared = ", ".join(sorted(project.registries)) or "none"
        raise ConfigError(
            f"Setting up trigger {trigger.name!r}: the schema registry {wrapping.registry} must be declared as [registry.NAME]. Declared: {declared}."
        )
    return partial(
        wrap, wrapping, read=registry_values(wrapping.format, project.registries[wrapping.registry], wrapping.registry)
    )


def wrapped_at(project: Project, cluster: str, topic: str) -> Wrapped | None:
    """Say how events are made of the records of a topic, by the triggers that listen to it now."""
    source = Source(kind="kafka", cluster=cluster, topic=topic)
    listening = [trigger for trigger in project.triggers.values() if trigger.listens_to(source)]
    return wrapped_by(project, listening[0]) if listening else None


def resolve_starts(
    store: Store, config: Mapping[str, str | int | float | bool], cluster: str, topic: str, trigger: Trigger
) -> list[Place]:
    """Store the first offsets of a trigger in a topic, unless they are stored; give the stored ones.

    Raises
    ------
    hindscan.errors.SourceMissing
        There is no such topic.
    """
    described = describe_topics(config, [topic])
    if topic not in described:
        raise SourceMissing(
            f"Setting up trigger {trigger.name!r}: its topic {topic!r} must exist on cluster {cluster!r}; it does not. Create it, or correct `on`.",
            topic=topic,
        )
    topic_id, count = described[topic]
    if trigger.was:
        take_over(store, trigger.name, trigger.was, cluster, topic)
    known = [place for place in places(store, trigger.name) if (place.cluster, place.topic) == (cluster, topic)]
    here = [place for place in known if place.topic_id == topic_id]
    if here or known:
        # A recreated topic is new to a trigger that is not: nothing in it was decided, so it is read from its beginning.
        return here
    at: Literal["earliest", "latest"] | int = "latest" if trigger.start == "now" else trigger.start
    first = find_offsets(config, topic, count, at)
    starts = [
        Place(
            trigger=trigger.name,
            cluster=cluster,
            topic=topic,
            topic_id=topic_id,
            partition=partition,
            start_offset=offset,
            next_offset=offset,
        )
        for partition, offset in sorted(first.items())
    ]
    return start_at(store, starts)
