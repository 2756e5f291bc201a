"""Envelopes of Amazon SNS: what it wraps around a notification on its way to a webhook, a queue or a topic.

Keeps promises 5 and 12. A notification is taken out of its envelope, by whichever way it came. Over HTTP an envelope must be of a topic that the trigger declares, and
signed by SNS: whoever has an account can have SNS sign what he likes, but not for another's topic. A request to confirm a subscription is no event: it is answered only
where the topic is declared, by one request to a host of SNS itself. Certificates, too, come from hosts of SNS alone, never from an address that the body chooses.

::

    document -> unwrapped -> the notification within
    body -> envelope_in -> check_envelope (topic, certificate, signature)
                        -> confirmation_in -> Confirmation -> confirm_url, for declared topics only
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from hindscan.errors import SignatureRefused
from hindscan.events.strict import parse_json, shown

__all__ = [
    "Confirmation",
    "check_envelope",
    "confirm_url",
    "confirmation_in",
    "envelope_in",
    "signed_text",
    "topic_fault",
    "unwrapped",
]

#: "arn:aws:sns:us-west-2:123456789012:MyTopic"
_TOPIC: Final = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")
_CONFIRMATIONS: Final = ("SubscriptionConfirmation", "UnsubscribeConfirmation")
#: "The key-value pairs, in byte sort order": of notifications, Subject where there is one; and of confirmations.
_SIGNED: Final = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_SIGNED_OF_CONFIRMATIONS: Final = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
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


def envelope_in(body: bytes) -> Mapping[str, Any] | None:
    """Find an envelope of SNS in a body; None: it is none."""
    try:
        document: Any = parse_json(body)
    except ValueError:
        return None  # what it is instead, whoever reads it says
    wraps = isinstance(document, dict) and document.get("Type") in ("Notification", *_CONFIRMATIONS)
    return document if wraps and isinstance(document.get("TopicArn"), str) else None


def check_envelope(
    envelope: Mapping[str, Any] | None, topics: Collection[str], certificate: Callable[[str], bytes]
) -> None:
    """Check that SNS has signed what came over HTTP, for a declared topic.

    Parameters
    ----------
    envelope : mapping or None
        What `envelope_in` gave. None: where topics are declared, what is in no envelope did not come from them.
    topics : collection of str
        The declared topics.
    certificate : callable
        Gives the certificate (PEM) at an https address of SNS.

    Raises
    ------
    SignatureRefused
        It is not; the text says what is missing, not what would be valid.
    """
    if envelope is None:
        if topics:
            raise _refused(
                "it must be an envelope of SNS, because the trigger names SNS topics in `confirm`, and is none"
            )
        return
    if envelope["TopicArn"] not in topics:
        raise _refused(
            f"the SNS topic {shown(envelope['TopicArn'])} must be named in `confirm` of the trigger, and is not"
        )
    algorithm = {"1": "SHA1", "2": "SHA256"}.get(str(envelope.get("SignatureVersion")))
    if algorithm is None:
        raise _refused(f"SignatureVersion must be 1 or 2, and is {shown(envelope.get('SignatureVersion'))}")
    url = envelope.get("SigningCertURL")
    if not isinstance(url, str) or not _is_of_sns(url) or not urlsplit(url).path.endswith(".pem"):
        raise _refused("SigningCertURL must be an https address of SNS that ends with .pem, and is not")
    written = envelope.get("Signature")
    try:
        signature = base64.b64decode(written if isinstance(written, str) else "-", validate=True)
    except (binascii.Error, ValueError):
        raise _refused("Signature must be base64, and is not") from None
    if not _is_valid(certificate(url), signature, signed_text(envelope), algorithm):
        raise _refused("the signature is not valid")


def signed_text(envelope: Mapping[str, Any]) -> bytes:
    """Give what the signature of an envelope is over: names and values of some members, a line each."""
    names = _SIGNED_OF_CONFIRMATIONS if envelope.get("Type") in _CONFIRMATIONS else _SIGNED
    lines = [f"{name}\n{envelope[name]}\n" for name in names if envelope.get(name) is not None]
    return "".join(lines).encode("utf-8", "surrogatepass")


def _is_valid(certificate: bytes, signature: bytes, text: bytes, algorithm: str) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.x509 import load_pem_x509_certificate
    except ModuleNotFoundError:
        raise _refused(
            "signatures are checked by the extra sns, which is not installed: install hindscan[sns]"
        ) from None
    try:
        key = load_pem_x509_certificate(certificate).public_key()
    except ValueError:
        raise _refused("SigningCertURL must give a certificate, and does not") from None
    if not isinstance(key, RSAPublicKey):
        raise _refused("the certificate must be of an RSA key, and is not")
    try:
        key.verify(signature, text, PKCS1v15(), getattr(hashes, algorithm)())
    except InvalidSignature:
        return False
    return True


def _refused(reason: str) -> SignatureRefused:
    return SignatureRefused(
        f"While checking what came from SNS: {reason}. Let SNS send it, without raw delivery; or, where nobody else can reach this address, set `unsigned = true`.",
        scheme="AmazonSNS",
    )


def confirmation_in(envelope: Mapping[str, Any] | None) -> Confirmation | None:
    """Find a request to confirm (or to end) a subscription in what `envelope_in` gave; None: it is none."""
    if envelope is None or envelope["Type"] not in _CONFIRMATIONS:
        return None
    topic, url = envelope["TopicArn"], envelope.get("SubscribeURL")
    return Confirmation(topic=topic, url=url) if isinstance(url, str) else None


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
    if not _is_of_sns(asked.url):
        raise ValueError("SubscribeURL must be an https address of SNS, and is not")
    return asked.url


def _is_of_sns(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" and _HOST.fullmatch(parts.netloc) is not None and url.isascii()


def topic_fault(value: object) -> str | None:
    """Tell why a value is no ARN of an SNS topic, or None."""
    if isinstance(value, str) and _TOPIC.fullmatch(value):
        return None
    return f"it names SNS topics as arn:aws:sns:REGION:ACCOUNT:NAME, not {shown(value)}"
