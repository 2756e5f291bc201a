"""Envelopes of Amazon SNS: what it wraps around a notification on its way to a webhook, a queue or a topic.

Keeps promises 5 and 12. A notification is taken out of its envelope, by whichever way it came. A request to confirm a subscription is no event: it is answered only
where the trigger declares the SNS topic, and then by one request to a host of SNS itself, never to an address that the body chooses.

::

    document -> unwrapped -> the notification within
    body -> confirmation_in -> Confirmation -> confirm_url, for declared topics only
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from hindscan.events.strict import parse_json, shown

__all__ = ["Confirmation", "confirm_url", "confirmation_in", "topic_fault", "unwrapped"]

#: "arn:aws:sns:us-west-2:123456789012:MyTopic"
_TOPIC: Final = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")
_HOST: Final = re.compile(r"sns\.[a-z0-9-]+\.amazonaws\.com(\.cn)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmation:
    """A request of SNS to confirm a subscription."""

    topic: str
    url: str


def unwrapped(document: object) -> object:
    """Give the message within an envelope of SNS, read as JSON; anything else as it is.

    Raises
    ------
    ValueError
        The message is not JSON.
    """
    if (
        not isinstance(document, Mapping)
        or document.get("Type") != "Notification"
        or not isinstance(document.get("TopicArn"), str)
        or not isinstance(document.get("Message"), str)
    ):
        return document
    try:
        return parse_json(document["Message"].encode("utf-8", "surrogatepass"))
    except ValueError as fault:
        raise ValueError(f"Message of the SNS envelope: {fault}") from None


def confirmation_in(body: bytes) -> Confirmation | None:
    """Find a request to confirm (or to end) a subscription in a body; None: it is none."""
    try:
        document: Any = parse_json(body)
    except ValueError:
        return None  # what it is instead, whoever reads it says
    if not isinstance(document, dict) or document.get("Type") not in (
        "SubscriptionConfirmation",
        "UnsubscribeConfirmation",
    ):
        return None
    topic, url = document.get("TopicArn"), document.get("SubscribeURL")
    return Confirmation(topic=topic, url=url) if isinstance(topic, str) and isinstance(url, str) else None


def confirm_url(asked: Confirmation, declared: Collection[str]) -> str:
    """Give the address that confirms a subscription.

    Parameters
    ----------
    declared : collection of str
        SNS topics whose subscriptions are confirmed.

    Raises
    ------
    ValueError
        It is not to be confirmed; the text is the reason.
    """
    if asked.topic not in declared:
        raise ValueError(
            f"the SNS topic {shown(asked.topic)} must be named in `confirm` of the trigger, and is not; name it and have SNS ask again, or confirm by hand"
        )
    parts = urlsplit(asked.url)
    if parts.scheme != "https" or not _HOST.fullmatch(parts.netloc) or not asked.url.isascii():
        raise ValueError("SubscribeURL must be an https address of SNS, and is not")
    return asked.url


def topic_fault(value: object) -> str | None:
    """Tell why a value is no ARN of an SNS topic, or None."""
    if isinstance(value, str) and _TOPIC.fullmatch(value):
        return None
    return f"it names SNS topics as arn:aws:sns:REGION:ACCOUNT:NAME, not {shown(value)}"
