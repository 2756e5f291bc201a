"""Sending what runs say of themselves: from the outbox to a topic or a webhook.

Keeps promise 4 outwards: every event is sent at least once, under the id that it has in the outbox, those of one run in their order. One sender at a time holds an
outlet, by a lease that ends with its process. What is not acknowledged is tried again, later and later; nothing is given up but what the receiver says is
gone for good (410) and what the outlet's filter cannot decide, and these keep their reason.

::

    outbox -> Sender (filter, encode) -> topic | webhook -> acknowledged -> mark

Points of failure: `outbox.sent` (the receiver has it, nobody noted it), `outbox.marked`.
"""

from __future__ import annotations

import http.client
import logging
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Final

from hindscan import faults
from hindscan.errors import ConfigError, EventError, HindscanError, ServiceUnavailable
from hindscan.events import wire
from hindscan.events.event import event_from_json
from hindscan.events.signature import signature_headers
from hindscan.events.strict import parse_json
from hindscan.runs import outbox
from hindscan.sending import opener

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.events.event import Event
    from hindscan.events.outlet import Outlet
    from hindscan.kafka.writer import TopicWriter
    from hindscan.runs.outbox import Waiting
    from hindscan.runs.store import Store

__all__ = ["Sender"]

#: How long a sender holds an outlet without renewing.
LEASE_SECONDS: Final = 8.0
#: How old the lease may be when an event is sent: with the wait for the answer it is still within it.
RENEW_SECONDS: Final = 2.0
#: How often the outbox is looked at.
LOOK_SECONDS: Final = 0.2
#: The longest pause after failures.
LONGEST_SECONDS: Final = 30.0
#: How long a webhook or broker may take to answer; well within the lease.
ANSWER_SECONDS: Final = 5.0
#: Events that share an acknowledgement of a broker.
BATCH: Final = 200

_logger = logging.getLogger("hindscan.outgoing")


class _Gone(Exception):
    """The receiver wants no more events, ever."""


class Sender:
    """Sends for one outlet.

    Parameters
    ----------
    project : Project
        Where the outlet's cluster is declared.
    store : Store
        Whose outbox.
    outlet : Outlet
        Where to.
    owner : str
        This process, as the lease names it.

    Raises
    ------
    hindscan.errors.ConfigError
        Its cluster is not declared.
    """

    def __init__(self, project: Project, store: Store, outlet: Outlet, *, owner: str) -> None:
        if outlet.topic is not None and outlet.topic.cluster not in project.clusters:
            known = ", ".join(sorted(project.clusters)) or "none"
            raise ConfigError(
                f"Setting up [publish.{outlet.name}]: the Kafka cluster of {outlet} must be declared as [kafka.NAME]. Declared: {known}."
            )
        self._project, self._store, self._outlet, self._owner = project, store, outlet, owner
        self._writer: TopicWriter | None = None
        #: Tries in a row that failed.
        self._failures = 0

    @property
    def pause_seconds(self) -> float:
        """How long it leaves its receiver alone now: longer, the more tries in a row have failed."""
        return min(LOOK_SECONDS * 2.0**self._failures, LONGEST_SECONDS)

    def run(self, shutdown: threading.Event) -> None:
        """Send until the shutdown."""
        while not shutdown.wait(self.pause_seconds):
            try:
                while self.send_due():
                    if shutdown.is_set():
                        return
            except ServiceUnavailable as error:
                self._failures = min(self._failures + 1, 10)
                _logger.warning("outlet %s: %s", self._outlet.name, error)
            except Exception:
                # A thread that ended in silence would leave events unsent for ever; this way it is in the log, and tried again.
                self._failures = min(self._failures + 1, 10)
                _logger.exception("outlet %s: an internal error", self._outlet.name)

    def send_due(self) -> int:
        """Send what is due, if no other process sends for this outlet; give how many were dealt with."""
        waiting = outbox.due(self._store, self._outlet.name, BATCH)
        # Looked at before the lease is asked for: an idle outlet writes nothing.
        if not waiting or not outbox.hold(self._store, self._outlet.name, self._owner, LEASE_SECONDS):
            return 0
        # Asked again: until the lease was taken, its last owner may have sent some of them.
        chosen = self._chosen(outbox.due(self._store, self._outlet.name, BATCH))
        if not chosen:
            return len(waiting)
        return self._to_topic(chosen) if self._outlet.topic is not None else self._to_webhook(chosen)

    def _chosen(self, waiting: list[Waiting]) -> list[tuple[Waiting, Event]]:
        """Leave out, and mark, what the outlet's filter does not want or cannot decide."""
        chosen = []
        for one in waiting:
            try:
                event = event_from_json(parse_json(one.event.encode()), "sending an event of a run")
                wanted = self._outlet.filter is None or self._outlet.filter.matches(event)
            except EventError as fault:
                outbox.mark(self._store, [one.seq], "refused", str(fault))
                _logger.warning("outlet %s: an event of run %s is not sent: %s", self._outlet.name, one.run, fault)
                continue
            if wanted:
                chosen.append((one, event))
            else:
                outbox.mark(self._store, [one.seq], "unmatched")
        return chosen

    def _to_topic(self, chosen: list[tuple[Waiting, Event]]) -> int:
        """Send all, wait for all acknowledgements, mark all; the key is the run, so that its events stay in order."""
        from hindscan.kafka.writer import TopicWriter

        topic = self._outlet.topic
        assert topic is not None
        try:
            if self._writer is None:
                limits = {"message.timeout.ms": int(ANSWER_SECONDS * 1000), "linger.ms": 0}
                self._writer = TopicWriter({**self._project.clusters[topic.cluster], **limits}, topic.topic)
            for one, event in chosen:
                message = wire.encode_kafka(event, self._outlet.mode)
                self._writer.put(one.run.encode(), message.value, message.headers)
            self._writer.flush()
        except HindscanError as error:
            # What was queued is thrown away with the client: it must not come after what is sent again.
            if self._writer is not None:
                self._writer.__exit__(type(error), error, None)
                self._writer = None
            return self._failed(chosen[0][0], str(error))
        self._done([one.seq for one, _ in chosen])
        return len(chosen)

    def _to_webhook(self, chosen: list[tuple[Waiting, Event]]) -> int:
        """Send one after another; a failure ends the round, so that a receiver that is down is asked once and not for every event."""
        renewed = time.monotonic()
        for count, (one, event) in enumerate(chosen):
            if time.monotonic() - renewed > RENEW_SECONDS:
                if not outbox.hold(self._store, self._outlet.name, self._owner, LEASE_SECONDS):
                    return count
                renewed = time.monotonic()
            try:
                self._post(event)
            except _Gone as gone:
                outbox.mark(self._store, [one.seq], "refused", str(gone))
                _logger.warning("outlet %s: an event of run %s is not sent: %s", self._outlet.name, one.run, gone)
            except (OSError, http.client.HTTPException) as error:
                return self._failed(one, f"Sending to {self._outlet.url}: {error}", _asked_to_wait(error))
            else:
                self._done([one.seq])
        return len(chosen)

    def _post(self, event: Event) -> None:
        message = wire.encode_http(event, self._outlet.mode)
        body, secrets = message.body or b"", self._outlet.secrets
        # The id is the event's own: however often it is sent, a receiver that keeps ids sees one.
        proof = signature_headers(secrets, event.id, body, time.time()) if secrets else {}
        request = urllib.request.Request(  # noqa: S310 - the scheme was looked at when the project file was read
            self._outlet.url, data=body, headers={**message.headers, **proof}, method="POST"
        )
        try:
            with opener.open(request, timeout=ANSWER_SECONDS):
                pass
        except urllib.error.HTTPError as answer:
            with answer:
                # "If the delivery target has been retired [...], the HTTP response SHOULD be 410 Gone" (CloudEvents, http-webhook.md, 2.1); all else may pass.
                if answer.code == http.HTTPStatus.GONE:
                    raise _Gone(
                        f"Sending to {self._outlet.url}: it answered 410, it takes no more events. Remove [publish.{self._outlet.name}]."
                    ) from None
            raise

    def _done(self, seqs: list[int]) -> None:
        faults.point("outbox.sent")
        outbox.mark(self._store, seqs)
        faults.point("outbox.marked")
        self._failures = 0

    def _failed(self, first: Waiting, reason: str, at_least: int = 0) -> int:
        """Note that nothing from this event on has been sent, for now."""
        self._failures = min(self._failures + 1, 10)
        outbox.put_off(self._store, first, reason, at_least)
        _logger.warning("outlet %s: trying again: %s", self._outlet.name, reason)
        return 0


def _asked_to_wait(error: Exception) -> int:
    """Tell how long a receiver asked to be left alone, in microseconds: in whole seconds, as those who limit rates have it."""
    asked = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    return int(asked) * 1_000_000 if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0
