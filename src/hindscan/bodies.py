"""Bodies that are no CloudEvents: what a trigger that listens to http makes of them.

Serves promises 5 and 12. Only a trigger that says what its bodies are takes any; what Amazon SNS sends must be signed by it for a declared topic, and a subscription is
confirmed where its topic is declared, at an address of SNS: nothing else that stands in a body is ever asked.

::

    POST /triggers/NAME/events -> Bodies.received -> Received -> Intake.take
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hindscan.errors import NotFound, UsageError
from hindscan.events.received import received_over_http
from hindscan.events.sns import Confirmation, check_envelope, confirm_url, confirmation_in, envelope_in
from hindscan.events.trigger import Source
from hindscan.listening import wrapped_by
from hindscan.sending import certificate_at, confirm_subscription

if TYPE_CHECKING:
    from collections.abc import Collection

    from hindscan.config import Project
    from hindscan.events.received import Received, Wrapped

__all__ = ["Bodies"]

_logger = logging.getLogger("hindscan.bodies")


class Bodies:
    """Reads bodies as the triggers of one edition of a project declare them; safe to call from several threads.

    Parameters
    ----------
    project : Project
        As loaded.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._wrappings: dict[str, Wrapped | None] = {}

    def received(self, trigger: str, body: bytes) -> list[Received]:
        """Give the events of a body; none where it asked for a subscription, which is confirmed then.

        Raises
        ------
        hindscan.errors.NotFound
            No such trigger takes bodies.
        hindscan.errors.SignatureRefused
            It does not come from SNS, and must.
        hindscan.errors.UsageError
            The subscription is of a topic that is not declared, or cannot be confirmed.
        hindscan.errors.InvalidEvent
            It is not what the trigger declares.
        """
        wrapped, wrapping = self._wrapped(trigger), self._project.triggers[trigger].wrapping
        if wrapping is not None and wrapping.format == "s3":
            envelope = envelope_in(body)
            asked = confirmation_in(envelope)
            if not wrapping.unsigned:
                check_envelope(envelope, wrapping.confirm, certificate_at)
            if asked is not None:
                _confirm(asked, trigger, wrapping.confirm)
                return []
        return [received_over_http(event, trigger) for event in wrapped(body, None)]

    def _wrapped(self, trigger: str) -> Wrapped:
        if trigger not in self._wrappings:
            found = self._project.triggers.get(trigger)
            if found is not None and found.wrapping is not None and found.listens_to(Source(kind="http")):
                self._wrappings[trigger] = wrapped_by(self._project, found)
        made = self._wrappings.get(trigger)
        if made is None:
            raise NotFound(
                f"Receiving a body for trigger {trigger!r}: it must listen to http and say what its bodies are, by `event` or `format`; there is none of this "
                "name that does. CloudEvents are posted to /events.",
                trigger=trigger,
            )
        return made


def _confirm(asked: Confirmation, trigger: str, declared: Collection[str]) -> None:
    try:
        url = confirm_url(asked, declared)
    except ValueError as fault:
        raise UsageError(f"Confirming a subscription for trigger {trigger}: {fault}.") from None
    confirm_subscription(url)
    _logger.info("confirmed the subscription of %s for trigger %s", asked.topic, trigger)
