"""CloudEvents on the wire: Kafka records and HTTP messages to `Event` and back, in every mode (promise 5).

The first step of the flow. What cannot be parsed is an `InvalidEvent` with all its faults, never another exception:
the listener quarantines it, the HTTP edge answers with it, a batch as a whole. The rules stand below the sentences of
the specification they come from (cloudevents/bindings/kafka-protocol-binding.md, http-protocol-binding.md,
formats/json-format.md).

===========  ==============================================  ======================================================
mode         Kafka                                           HTTP
===========  ==============================================  ======================================================
structured   ``content-type: application/cloudevents+json``  the same
binary       headers ``ce_NAME``, value is the data          headers ``ce-NAME`` percent-encoded, body is the data
batched      (not defined)                                   ``Content-Type: application/cloudevents-batch+json``
===========  ==============================================  ======================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import unquote_to_bytes

from hindscan.errors import UnknownFormat
from hindscan.events.event import (
    CORE_ATTRIBUTES,
    Event,
    build_each,
    build_event,
    event_from_json,
    invalid_event,
)
from hindscan.events.strict import compact_json, parse_json, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "BATCH_MEDIA_TYPE",
    "MAX_BODY_BYTES",
    "STRUCTURED_MEDIA_TYPE",
    "HttpMessage",
    "KafkaMessage",
    "encode_http",
    "encode_http_batch",
    "encode_kafka",
    "parse_http",
    "parse_kafka",
]

#: Bytes of a body or of a record's value and headers. The specification has consumers accept 64 KiB; more than this
#: is a load, not an event.
MAX_BODY_BYTES: Final = 1 << 20

STRUCTURED_MEDIA_TYPE: Final = "application/cloudevents+json"
BATCH_MEDIA_TYPE: Final = "application/cloudevents-batch+json"

Mode: TypeAlias = Literal["structured", "binary"]

_ANY_STRUCTURED: Final = "application/cloudevents"
_ANY_BATCH: Final = "application/cloudevents-batch"
_UTF8: Final = "; charset=UTF-8"
_KAFKA: Final = "reading a CloudEvent from a Kafka record"
_HTTP: Final = "reading a CloudEvent from an HTTP message"


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaMessage:
    """Value and headers of a Kafka record that carries an event; None is the value of one without data."""

    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpMessage:
    """Headers and body of an HTTP request that carries events."""

    headers: Mapping[str, str]
    body: bytes


def parse_kafka(value: bytes | None, headers: Sequence[tuple[str, bytes | None]] | None) -> Event:
    """Read the event that a Kafka record carries.

    Parameters
    ----------
    value : bytes | None
        The record's value.
    headers : Sequence[tuple[str, bytes | None]] | None
        The record's headers in their order, names repeated or not.

    Raises
    ------
    InvalidEvent
        With every fault, whatever the record holds.
    """
    faults: list[str] = []
    attributes: dict[str, str] = {}
    media_type: str | None = None
    size = len(value or b"")
    for name, encoded in headers or ():
        size += len(name) + len(encoded or b"")
        lower = name.lower()
        if lower != "content-type" and not lower.startswith("ce_"):
            continue
        try:
            # "Both header keys and header values MUST be encoded as UTF-8 strings."
            text = _header_text(encoded)
        except ValueError as fault:
            faults.append(f"header {shown(name)}: {fault}")
            continue
        if lower == "content-type":
            if media_type is not None:
                faults.append("header 'content-type': it must appear at most once")
            media_type = text
        else:
            _put(attributes, name[3:], text, faults)
    if size > MAX_BODY_BYTES:
        raise invalid_event(_KAFKA, [f"it must have at most {MAX_BODY_BYTES} bytes, and has {size}"])
    # "If the header is present and its value is prefixed with the CloudEvents media type `application/cloudevents`
    # (matched case-insensitively), indicating the use of a known event format, the receiver uses _structured_ mode,
    # otherwise it defaults to _binary_ mode."
    if media_type is not None and media_type.lower().startswith(_ANY_STRUCTURED):
        if faults and not attributes:
            raise invalid_event(_KAFKA, faults)
        return _parse_structured(media_type, value, _KAFKA)
    if not attributes and not faults:
        raise invalid_event(_KAFKA, [_not_one(value, media_type, "ce_")], UnknownFormat)
    return _parse_binary(attributes, media_type, value, faults, _KAFKA)


def parse_http(headers: Iterable[tuple[str | bytes, str | bytes]], body: bytes) -> tuple[Event, ...]:
    """Read the events that an HTTP message carries: one, or as many as the batch has.

    Parameters
    ----------
    headers : Iterable[tuple[str | bytes, str | bytes]]
        The message's headers, names in any case, repeated or not.
    body : bytes
        The message's body.

    Raises
    ------
    InvalidEvent
        With every fault of every event; a batch is taken whole or not at all.
    """
    faults: list[str] = []
    attributes: dict[str, str] = {}
    media_type: str | None = None
    for raw_name, raw_value in headers:
        # "per the HTTP specification, header names are case-insensitive."
        name = (raw_name if isinstance(raw_name, str) else raw_name.decode("latin-1")).lower()
        value = raw_value if isinstance(raw_value, str) else raw_value.decode("latin-1")
        if name == "content-type":
            if media_type is not None:
                # Which of the two says how the body is to be read would be a guess, and another reader would guess otherwise.
                raise invalid_event(_HTTP, ["header 'content-type': it must appear at most once"])
            media_type = value.strip(" \t") or None
        elif name.startswith("ce-"):
            try:
                _put(attributes, name[3:], _decode_header(value), faults)
            except ValueError as fault:
                faults.append(f"header {shown(name)}: {fault}")
    if len(body) > MAX_BODY_BYTES:
        raise invalid_event(_HTTP, [f"its body must have at most {MAX_BODY_BYTES} bytes, and has {len(body)}"])
    # "If the value is prefixed with the CloudEvents media type `application/cloudevents` (matched
    # case-insensitively), indicating the use of a known event format, the receiver uses _structured_ mode. If the
    # value is prefixed with `application/cloudevents-batch`, the receiver uses the _batched_ mode. Otherwise it
    # defaults to _binary_ mode."
    if media_type is not None and media_type.lower().startswith(_ANY_BATCH):
        return _parse_batch(media_type, body)
    if media_type is not None and media_type.lower().startswith(_ANY_STRUCTURED):
        return (_parse_structured(media_type, body, _HTTP),)
    if not attributes and not faults:
        raise invalid_event(_HTTP, [_not_one(body, media_type, "ce-")], UnknownFormat)
    return (_parse_binary(attributes, media_type, body, faults, _HTTP),)


def encode_kafka(event: Event, mode: Mode = "structured") -> KafkaMessage:
    """Write an event as a Kafka record."""
    if mode == "structured":
        return KafkaMessage(
            value=compact_json(event.to_json()), headers=(("content-type", (STRUCTURED_MEDIA_TYPE + _UTF8).encode()),)
        )
    headers = [(f"ce_{name}", value.encode()) for name, value in _header_attributes(event)]
    if event.datacontenttype is not None:
        # "the header `content-type` property MUST be mapped directly to the CloudEvents `datacontenttype` attribute."
        headers.append(("content-type", event.datacontenttype.encode()))
    # "In binary mode, the Kafka representation of a CloudEvent with no `data` is a Kafka message with no value."
    return KafkaMessage(value=event.data_bytes(), headers=tuple(headers))


def encode_http(event: Event, mode: Mode = "structured") -> HttpMessage:
    """Write an event as an HTTP message."""
    if mode == "structured":
        return HttpMessage(headers={"content-type": STRUCTURED_MEDIA_TYPE + _UTF8}, body=compact_json(event.to_json()))
    headers = {f"ce-{name}": _encode_header(value) for name, value in _header_attributes(event)}
    if event.datacontenttype is not None:
        headers["content-type"] = event.datacontenttype
    return HttpMessage(headers=headers, body=event.data_bytes() or b"")


def encode_http_batch(events: Iterable[Event]) -> HttpMessage:
    """Write several events as one HTTP message."""
    return HttpMessage(
        headers={"content-type": BATCH_MEDIA_TYPE + _UTF8}, body=compact_json([event.to_json() for event in events])
    )


def _parse_structured(media_type: str, body: bytes | None, doing: str) -> Event:
    _check_format(media_type, STRUCTURED_MEDIA_TYPE, doing)
    if not body:
        raise invalid_event(doing, ["it must hold a JSON document, and is empty"])
    return event_from_json(_document(body, doing), doing)


def _parse_batch(media_type: str, body: bytes) -> tuple[Event, ...]:
    doing = "reading a batch of CloudEvents from an HTTP message"
    _check_format(media_type, BATCH_MEDIA_TYPE, doing)
    documents = _document(body, doing)
    # "The outermost JSON element is a JSON Array, which contains as elements CloudEvents rendered in accordance with
    # the JSON event format specification."
    if not isinstance(documents, list):
        raise invalid_event(doing, [f"it must be a JSON array, not {shown(documents)}"])
    return tuple(build_each("event", documents, event_from_json, doing))


def _parse_binary(
    attributes: dict[str, str], media_type: str | None, body: bytes | None, faults: list[str], doing: str
) -> Event:
    if "datacontenttype" in attributes:
        # "Note that a `ce-datacontenttype` HTTP header MUST NOT also be present in the message."
        del attributes["datacontenttype"]
        faults.append("datacontenttype: it must come as the header content-type, and not as an attribute of its own")
    if media_type is not None:
        attributes["datacontenttype"] = media_type
    return build_event(attributes, body, faults, doing)


def _check_format(media_type: str, expected: str, doing: str) -> None:
    if media_type in (expected, expected + _UTF8):
        return
    name, _, parameters = media_type.partition(";")
    if name.strip().lower() != expected:
        # HTTP 1.1 Web Hooks, 2.2: "If the delivery cannot be accepted because the notification format has not been
        # understood, the service MUST respond with status code 415 Unsupported Media Type."
        raise invalid_event(
            doing,
            [f"the only format that can be read here is {expected}, and it is {shown(media_type)}"],
            UnknownFormat,
        )
    charset = re.search(r'charset="?([^";\s]+)', parameters, re.IGNORECASE)
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        # RFC 8259, 8.1: "JSON text exchanged between systems that are not part of a closed ecosystem MUST be encoded
        # using UTF-8".
        raise invalid_event(doing, [f"JSON must be in UTF-8, and {shown(media_type)} says otherwise"], UnknownFormat)


def _document(body: bytes, doing: str) -> object:
    try:
        return parse_json(body)
    except ValueError as fault:
        raise invalid_event(doing, [str(fault)]) from None


def _not_one(body: bytes | None, media_type: str | None, prefix: str) -> str:
    held = "no value" if body is None else f"{len(body)} bytes"
    return (
        f"it must have content-type {STRUCTURED_MEDIA_TYPE} or headers {prefix}id, {prefix}source, {prefix}type and "
        f"{prefix}specversion; it has neither, but {held} of content-type {shown(media_type) if media_type else 'unknown'}"
    )


def _put(attributes: dict[str, str], name: str, value: str, faults: list[str]) -> None:
    if name in attributes:
        # "Each context attribute MUST only appear at most once in a CloudEvent."
        faults.append(f"{shown(name)}: it must appear at most once")
    attributes[name] = value


def _header_text(encoded: bytes | None) -> str:
    if encoded is None:
        raise ValueError("it has no value")
    try:
        return encoded.decode()
    except UnicodeDecodeError as fault:
        raise ValueError(f"it is not UTF-8: byte 0x{encoded[fault.start]:02x} at {fault.start}") from None


def _header_attributes(event: Event) -> list[tuple[str, str]]:
    names = [name for name in CORE_ATTRIBUTES if name != "datacontenttype"]
    found = ((name, event.attribute(name)) for name in [*names, *event.extensions])
    return [(name, value) for name, value in found if value is not None]


_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TO_ENCODE: Final = re.compile(r"[^\x21\x23\x24\x26-\x7e]")


def _decode_header(value: str) -> str:
    # "HTTP headers MUST only use printable characters from the US-ASCII character set, and are terminated by a CRLF
    # sequence with OPTIONAL whitespace around the header value."
    text = value.strip(" \t")
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f"it must be printable ASCII, the rest percent-encoded, and is {shown(text)}")
    if '"' in text:
        # "any HTTP header value MUST first be unescaped with respect to double-quoted strings [...] including
        # processing backslash escapes within double-quoted values."
        text = _QUOTED.sub(lambda quoted: _ESCAPED.sub(r"\1", quoted[1]), text)
    if "%" not in text:
        return text
    # From the rules: "The following characters MUST be percent-encoded: [...] Percent (U+0025)"
    if _BAD_PERCENT.search(text):
        raise ValueError(f"a percent sign must be followed by two hexadecimal digits, and is not in {shown(text)}")
    try:
        # "A single round of percent-decoding MUST then be performed"
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        # "encoded byte sequences which are invalid in UTF-8 MUST be rejected."
        raise ValueError(f"what it percent-encodes must be UTF-8, and is not in {shown(text)}") from None


def _encode_header(value: str) -> str:
    # "The following characters MUST be percent-encoded: Space (U+0020), Double-quote (U+0022), Percent (U+0025), Any
    # characters outside the printable ASCII range of U+0021-U+007E inclusive".
    return _TO_ENCODE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), value)
