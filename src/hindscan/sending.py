"""Sending events as a user would: over HTTP to a dispatcher, or to a topic; and reading a topic's events back for `hindscan match`."""

from __future__ import annotations

import functools
import http.client
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from hindscan.errors import HindscanError, InvalidEvent, NotFound, ServiceUnavailable, UsageError
from hindscan.events import wire
from hindscan.events.signature import signature_headers
from hindscan.events.strict import parse_json

if TYPE_CHECKING:
    from hindscan.config import ClusterSettings, Project
    from hindscan.events.event import Event

__all__ = ["certificate_at", "confirm_subscription", "events_of_topic", "opener", "send_event", "topic_of"]

SECONDS: Final = 30.0
#: How long SNS may take to take a confirmation: it waits 15 s for our answer.
CONFIRM_SECONDS: Final = 10.0
#: What a certificate is never longer than.
CERTIFICATE_BYTES: Final = 65_536


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What is sent goes where the project file says, or nowhere: a redirect would turn a POST into a GET."""

    def redirect_request(self, *_arguments: object) -> None:
        return None


#: No proxy: an event for this machine must not leave it because of a variable in the environment.
opener: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())


def send_event(
    event: Event,
    to: str | None,
    *,
    mode: Literal["structured", "binary"],
    project: Callable[[], Project],
) -> dict[str, Any]:
    """Send one event.

    Parameters
    ----------
    to : str, optional
        ``http://...`` of a dispatcher, or ``kafka:TOPIC``. Default: the dispatcher of the project.
    project : callable
        Loads the project, where it is needed.

    Returns
    -------
    dict
        ``to``, and over HTTP the dispatcher's answer.
    """
    if to is not None and to.startswith("kafka:"):
        return _send_to_topic(event, to, mode, project())
    secrets: tuple[bytes, ...] = ()
    if to is None:
        serve = project().serve
        to, secrets = f"http://{serve.host}:{serve.port}", serve.webhooks.secrets
    if not to.startswith("http://"):
        raise UsageError(
            f"Sending an event to {to!r}: it must be http://HOST:PORT, kafka:TOPIC or kafka:CLUSTER:TOPIC."
        )
    url = to.rstrip("/") + ("" if to.rstrip("/").endswith("/events") else "/events")
    message = wire.encode_http(event, mode)
    # Only the project's own dispatcher is known to share its secrets.
    proof = signature_headers(secrets[:1], str(uuid.uuid4()), message.body or b"", time.time()) if secrets else {}
    request = urllib.request.Request(  # noqa: S310 - the scheme was looked at above
        url, data=message.body or b"", headers={**message.headers, **proof}, method="POST"
    )
    try:
        with opener.open(request, timeout=SECONDS) as answer:
            document = parse_json(answer.read())
    except urllib.error.HTTPError as error:
        raise HindscanError(
            f"Sending an event to {url}: it was refused with {error.code}: {_detail(error.read())}"
        ) from None
    except (urllib.error.URLError, TimeoutError) as error:
        raise ServiceUnavailable(
            f"Sending an event to {url}: a dispatcher must answer; {getattr(error, 'reason', error)}. Start one: `hindscan serve`."
        ) from None
    return {"to": url, **(document if isinstance(document, dict) else {})}


def confirm_subscription(url: str) -> None:
    """Confirm a subscription of SNS at an address that `events.sns.confirm_url` gave; a redirect is not followed.

    Raises
    ------
    hindscan.errors.ServiceUnavailable
        SNS does not answer, or refuses; it asks again by itself.
    """
    try:
        with opener.open(url, timeout=CONFIRM_SECONDS):
            pass
    except (OSError, http.client.HTTPException) as error:
        raise ServiceUnavailable(
            f"Confirming a subscription of SNS: it must answer; {error}. It asks again by itself."
        ) from None


@functools.lru_cache(maxsize=16)
def certificate_at(url: str) -> bytes:
    """Get a certificate of SNS from an address that `events.sns.check_envelope` has found to be one of SNS; a redirect is not followed.

    What an address gives never changes, so each is asked once.

    Raises
    ------
    hindscan.errors.ServiceUnavailable
        SNS does not answer; it sends again by itself.
    """
    try:
        with opener.open(url, timeout=CONFIRM_SECONDS) as answer:
            return bytes(answer.read(CERTIFICATE_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise ServiceUnavailable(
            f"Getting the certificate that SNS signs by: it must answer; {error}. It sends again by itself."
        ) from None


def _detail(body: bytes) -> str:
    try:
        document = parse_json(body)
    except ValueError:
        return body[:200].decode("utf-8", "replace")
    return str(document.get("detail", document)) if isinstance(document, dict) else str(document)


def topic_of(place: str, project: Project) -> tuple[str, str, ClusterSettings]:
    """Find the cluster, the topic and the cluster's settings that ``kafka:TOPIC`` or ``kafka:CLUSTER:TOPIC`` mean.

    Raises
    ------
    hindscan.errors.UsageError
        It is neither.
    hindscan.errors.NotFound
        The cluster is not declared.
    """
    from hindscan.events.declared import parse_source

    try:
        source = parse_source(place)
    except ValueError as error:
        raise UsageError(f"Reading {place!r}: {error}.") from None
    if source.kind != "kafka":
        raise UsageError(f"Reading {place!r}: it must be kafka:TOPIC or kafka:CLUSTER:TOPIC, and is {source}.")
    if source.cluster not in project.clusters:
        known = ", ".join(sorted(project.clusters)) or "none"
        raise NotFound(
            f"Looking up Kafka cluster {source.cluster!r}: it must be declared as [kafka.NAME]. Declared: {known}."
        )
    return source.cluster, source.topic, project.clusters[source.cluster]


def _send_to_topic(event: Event, to: str, mode: Literal["structured", "binary"], project: Project) -> dict[str, Any]:
    from hindscan.kafka.writer import send

    _, topic, config = topic_of(to, project)
    message = wire.encode_kafka(event, mode)
    partition, offset = send(
        config, topic, message.value, key=(event.subject or event.id).encode(), headers=list(message.headers)
    )
    return {"to": to, "partition": partition, "offset": offset}


def events_of_topic(
    place: str,
    project: Project,
    *,
    offsets: Mapping[int, tuple[int | None, int | None]] | None = None,
    since: int | None = None,
    until: int | None = None,
) -> Iterator[tuple[str, Event | InvalidEvent]]:
    """Read the events of a topic, with where each stands; without a range from its beginning to its present end.

    Parameters
    ----------
    offsets : mapping, optional
        By partition, half-open; None is where it begins or ends. Other partitions are not read.
    since, until : int, optional
        Microseconds since the epoch: from and up to the first record, in the order of the log, that is not older.

    Raises
    ------
    hindscan.errors.SourceMissing
        There is no such topic.
    hindscan.errors.UsageError
        Offsets that the topic does not have.
    """
    from hindscan.errors import SourceMissing
    from hindscan.kafka.cluster import describe_topics, find_offsets
    from hindscan.kafka.group import records_between

    _, topic, config = topic_of(place, project)
    described = describe_topics(config, [topic])
    if topic not in described:
        raise SourceMissing(f"Reading {place}: the topic must exist; it does not.", topic=topic)
    partitions = described[topic][1]
    starts = find_offsets(config, topic, partitions, "earliest" if since is None else since)
    ends = find_offsets(config, topic, partitions, "latest" if until is None else until)
    if offsets:
        whole = [find_offsets(config, topic, partitions, at) for at in ("earliest", "latest")]
        _refuse_outside(place, offsets, *whole)
        starts = {at: max(starts[at], start or 0) for at, (start, _) in offsets.items()}
        ends = {at: ends[at] if end is None else min(ends[at], end) for at, (_, end) in offsets.items()}
    for heard in records_between(config, topic, starts, ends):
        where = f"{heard.topic}[{heard.partition}]@{heard.offset}"
        try:
            yield where, wire.parse_kafka(heard.value, heard.headers)
        except InvalidEvent as error:
            yield where, error


def _refuse_outside(
    place: str, offsets: Mapping[int, tuple[int | None, int | None]], first: Mapping[int, int], end: Mapping[int, int]
) -> None:
    faults = []
    for partition, (start, stop) in offsets.items():
        if partition not in end:
            faults.append(f"there is no partition {partition}")
            continue
        faults += [
            f"partition {partition} has offsets {first[partition]} to {end[partition]}, not {bound}"
            for bound in (start, stop)
            if bound is not None and not first[partition] <= bound <= end[partition]
        ]
    if faults:
        raise UsageError(f"Reading {place}: the range must lie in the topic; {'; '.join(faults)}.", faults=faults)
