"""The event: a CloudEvents 1.0 value that exists only if it is valid, else all its faults at once (promise 5).

Everything that enters hindscan becomes an `Event` here or is refused here; filters, triggers and the store see
nothing else. Each rule stands below the sentence of the specification it comes from
(https://github.com/cloudevents/spec, cloudevents/spec.md and formats/json-format.md, version 1.0.3).

One event has one form, whichever way it came, so that the same event sent twice is equal and has one digest: its time is in UTC, and its data are as `payload` says.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from hindscan.errors import InvalidEvent
from hindscan.events.attributes import (
    attribute_name_fault,
    disallowed_character,
    format_time,
    is_absolute_uri,
    is_media_type,
    is_uri_reference,
    parse_time,
)
from hindscan.events.payload import JSON, JSON_MEDIA_TYPE, digest, from_base64, one_form, written
from hindscan.events.strict import shown

__all__ = [
    "CORE_ATTRIBUTES",
    "Event",
    "build_each",
    "build_event",
    "event_from_json",
    "invalid_event",
]

#: The attributes the specification defines, in the order in which they are written.
CORE_ATTRIBUTES: Final = ("specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema")

_CORE: Final = frozenset(CORE_ATTRIBUTES)
_REQUIRED: Final = ("id", "source", "type")
_SPECVERSION: Final = "1.0"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One CloudEvent.

    Parameters
    ----------
    id, source, type : str
        As the specification has them; `(source, id)` is the event's identity.
    specversion : str
        "1.0".
    time : datetime | None
        When it happened, aware, kept in UTC to the microsecond (finer digits are cut off, which never lets a run see
        later data). An RFC 3339 string is taken too.
    subject, datacontenttype, dataschema : str | None
        As the specification has them.
    extensions : Mapping[str, str | int | bool]
        All other attributes.
    data : JSON | bytes
        The payload in its one form (see the module); None for none.

    Raises
    ------
    InvalidEvent
        With every fault of the event in `details["faults"]`.
    """

    id: str
    source: str
    type: str
    specversion: str = _SPECVERSION
    time: datetime | None = None
    subject: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: Mapping[str, str | int | bool] = {}
    data: JSON | bytes = None

    def __post_init__(self) -> None:
        faults = _attribute_faults(self)
        put = msgspec.structs.force_setattr
        try:
            put(self, "time", _utc(self.time))
        except ValueError as fault:
            faults.append(f"time: {fault}")
        if not faults or not any(fault.startswith("datacontenttype") for fault in faults):
            try:
                data, media_type = one_form(self.data, self.datacontenttype)
                put(self, "data", data)
                put(self, "datacontenttype", media_type)
            except ValueError as fault:
                faults.append(f"data: {fault}")
        if faults:
            raise invalid_event("building a CloudEvent", faults)
        put(self, "extensions", dict(self.extensions))

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    @property
    def identity(self) -> tuple[str, str]:
        """The pair `(source, id)`: two events that share it are the same event."""
        # "Consumers MAY assume that Events with identical `source` and `id` are duplicates."
        return self.source, self.id

    def attribute(self, name: str) -> str | None:
        """Give an attribute in its canonical string form, or None where the event does not have it."""
        value = getattr(self, name) if name in _CORE else self.extensions.get(name)
        if value is None or type(value) is str:
            return value
        if isinstance(value, bool):
            # As the specification has it: "String encoding: a case-sensitive value of `true` or `false`."
            return "true" if value else "false"
        return format_time(value) if isinstance(value, datetime) else str(value)

    def data_bytes(self) -> bytes | None:
        """Give the data as their media type writes them, or None for none."""
        return written(self.data, self.datacontenttype)

    def data_digest(self) -> str:
        """Digest the data: it tells a repeated event from another one that wrongly has the same identity."""
        return digest(self.data)

    def context(self) -> dict[str, Any]:
        """Give the event in the JSON format, without its data."""
        document: dict[str, Any] = {
            "specversion": self.specversion,
            "id": self.id,
            "source": self.source,
            "type": self.type,
        }
        if self.time is not None:
            document["time"] = format_time(self.time)
        if self.subject is not None:
            document["subject"] = self.subject
        if self.datacontenttype is not None:
            document["datacontenttype"] = self.datacontenttype
        if self.dataschema is not None:
            document["dataschema"] = self.dataschema
        document.update(self.extensions)
        return document

    def to_json(self) -> dict[str, Any]:
        """Give the event in the JSON format, as a mapping."""
        document = self.context()
        if isinstance(self.data, bytes):
            # "If the implementation determines that the type of data is `Binary`, the value MUST be represented as a
            # JSON string expression containing the Base64 encoded binary value, and use the member name
            # `data_base64`."
            document["data_base64"] = base64.b64encode(self.data).decode()
        elif self.data is not None:
            document["data"] = self.data
        return document


def event_from_json(document: object, doing: str = "reading a CloudEvent in the JSON format") -> Event:
    """Build the event that a decoded JSON document describes.

    Parameters
    ----------
    document : object
        The decoded document.
    doing : str
        What to say was being done, in the message of a fault.

    Raises
    ------
    InvalidEvent
        With every fault of the document.
    """
    if type(document) is not dict and not isinstance(document, Mapping):
        raise invalid_event(doing, [f"it must be a JSON object, not {shown(document)}"])
    faults: list[str] = []
    # "Unset attributes MAY be encoded to the JSON value of `null`. When decoding attributes and a `null` value is
    # encountered, it MUST be treated as the equivalent of unset or omitted."
    attributes = dict(document)
    if None in attributes.values():
        attributes = {name: value for name, value in document.items() if value is not None}
    data: JSON | bytes = attributes.pop("data", None)
    encoded = attributes.pop("data_base64", None)
    if "data" in document and "data_base64" in document:
        faults.append(
            'data, data_base64: "the presence of the `data` and `data_base64` members is mutually exclusive", and both are present'
        )
    elif encoded is not None:
        try:
            data = from_base64(encoded)
        except ValueError as fault:
            faults.append(f"data_base64: {fault}")
    return build_event(attributes, data, faults, doing)


def build_event(attributes: Mapping[str, Any], data: JSON | bytes, faults: list[str], doing: str) -> Event:
    """Build an event from the attributes a binding found, adding their faults to those it found itself.

    Parameters
    ----------
    attributes : Mapping[str, Any]
        By name, core ones and extensions alike; absent ones are missing.
    data : JSON | bytes
        The payload.
    faults : list[str]
        What was found wrong already; a faulty part is left out of the arguments.
    doing : str
        What to say was being done.

    Raises
    ------
    InvalidEvent
        If there is any fault.
    """
    rest = dict(attributes)
    take = rest.pop
    try:
        event = Event(
            id=take("id", None),
            source=take("source", None),
            type=take("type", None),
            specversion=take("specversion", None),
            time=take("time", None),
            subject=take("subject", None),
            datacontenttype=take("datacontenttype", None),
            dataschema=take("dataschema", None),
            extensions=rest,
            data=data,
        )
    except InvalidEvent as fault:
        raise invalid_event(doing, [*faults, *_faults_of(fault)]) from None
    if faults:
        raise invalid_event(doing, faults)
    return event


def build_each(what: str, found: Sequence[object], make: Callable[[object], Event], doing: str) -> list[Event]:
    """Make an event of each thing that came together: all, or none.

    Raises
    ------
    hindscan.errors.InvalidEvent
        With the faults of all of them, each behind `what` it is and its place.
    """
    events: list[Event] = []
    faults: list[str] = []
    for index, one in enumerate(found):
        try:
            events.append(make(one))
        except InvalidEvent as fault:
            faults += [f"{what} {index}: {text}" for text in _faults_of(fault)]
    if faults:
        raise invalid_event(doing, faults)
    return events


def _faults_of(invalid: InvalidEvent) -> list[str]:
    found = invalid.details["faults"]
    return [str(text) for text in found] if isinstance(found, list) else []


def invalid_event(doing: str, faults: list[str], kind: type[InvalidEvent] = InvalidEvent) -> InvalidEvent:
    """Make the error that names every fault of an event."""
    listed = "; ".join(faults)
    return kind(
        f"While {doing}: it must be a valid CloudEvent of version {_SPECVERSION}; it has {len(faults)} "
        f"{'fault' if len(faults) == 1 else 'faults'}: {listed}. Correct what produces it.",
        faults=faults,
    )


def _attribute_faults(event: Any) -> list[str]:
    faults: list[str] = []
    if (
        _is_plain(event.id) and _is_plain(event.type) and _is_plain(event.source) and event.specversion == _SPECVERSION
        and event.datacontenttype == JSON_MEDIA_TYPE and event.subject is None and event.dataschema is None
        and _is_reference(event.source)
    ):  # fmt: skip
        # What nearly all events have, and nothing of it wrong.
        if event.extensions:
            _check_extensions(event.extensions, faults)
        return faults
    for name in _REQUIRED:
        # "The following attributes are REQUIRED to be present in all CloudEvents"; id, type: "MUST be a non-empty
        # string"; source: "MUST be a non-empty URI-reference".
        value = getattr(event, name)
        if _is_plain(value):
            continue
        if value is None:
            faults.append(f"{name}: it is required and missing")
        else:
            _check_text(name, value, faults)
    for name in ("subject", "datacontenttype", "dataschema"):
        # "If present, MUST be a non-empty string"; "If present, MUST be a non-empty URI".
        value = getattr(event, name)
        if value is not None and not _is_plain(value):
            _check_text(name, value, faults)
    # "Compliant event producers MUST use a value of `1.0` when referring to this version of the specification."
    if event.specversion is None:
        faults.append("specversion: it is required and missing")
    elif event.specversion != _SPECVERSION:
        faults.append(f"specversion: it must be {_SPECVERSION!r}, and is {shown(event.specversion)}")
    if isinstance(event.source, str) and event.source and not _is_reference(event.source):
        # "`URI-reference` as defined in RFC 3986 Section 4.1."
        faults.append(f"source: it must be a URI-reference (RFC 3986, 4.1), and is {shown(event.source)}")
    if isinstance(event.dataschema, str) and event.dataschema and not is_absolute_uri(event.dataschema):
        # "`Absolute URI` as defined in RFC 3986 Section 4.3", which has a scheme and no fragment.
        faults.append(
            f"dataschema: it must be an absolute URI without a fragment (RFC 3986, 4.3), and is {shown(event.dataschema)}"
        )
    if isinstance(event.datacontenttype, str) and event.datacontenttype and not is_media_type(event.datacontenttype):
        # "If present, MUST adhere to the format specified in RFC 2046".
        faults.append(f"datacontenttype: it must be a media type (RFC 2046), and is {shown(event.datacontenttype)}")
    if event.extensions:
        _check_extensions(event.extensions, faults)
    return faults


def _is_reference(source: str) -> bool:
    # A source has many events; what is longer than most is not kept.
    return _known_reference(source) if len(source) <= _KEPT_CHARACTERS else is_uri_reference(source)


_known_reference = lru_cache(maxsize=4096)(is_uri_reference)
_KEPT_CHARACTERS: Final = 256


def _check_extensions(extensions: Any, faults: list[str]) -> None:
    if type(extensions) is not dict and not isinstance(extensions, Mapping):
        faults.append(f"extensions: they must be a mapping, and are {shown(extensions)}")
        return
    for name, value in extensions.items():
        # "Extension attributes MUST follow the same naming convention and use the same type system as standard
        # attributes."
        wrong = attribute_name_fault(name)
        if wrong is not None:
            faults.append(f"extension {shown(name)}: {wrong}")
            continue
        if name in _CORE:
            # "Each context attribute MUST only appear at most once in a CloudEvent."
            faults.append(f"extension {name}: it is an attribute of every event, and must not appear twice")
        elif _is_plain(value):
            continue
        elif isinstance(value, str):
            _check_text(f"extension {name}", value, faults, empty=True)
        elif type(value) is int:
            # "A whole number in the range -2,147,483,648 to +2,147,483,647 inclusive."
            if not -(2**31) <= value < 2**31:
                faults.append(f"extension {name}: a whole number must fit 32 bits, and it is {shown(value)}")
        elif type(value) is not bool:
            # "All context attribute values MUST be of one of the types listed above."
            faults.append(f"extension {name}: it must be a string, a whole number or a boolean, and is {shown(value)}")


def _is_plain(value: object) -> bool:
    """Tell quickly that a value is what nearly all are: a string of printable ASCII."""
    return type(value) is str and value != "" and value.isascii() and value.isprintable()


def _check_text(name: str, value: object, faults: list[str], empty: bool = False) -> None:
    if not isinstance(value, str):
        faults.append(f"{name}: it must be a string, and is {shown(value)}")
    elif not value:
        if not empty:
            faults.append(f"{name}: it must not be empty")
    else:
        found = disallowed_character(value)
        if found is not None:
            faults.append(f"{name}: the character {found[0]} is not allowed, and stands at {found[1]}")


def _utc(time: object) -> datetime | None:
    if time is None:
        return None
    if isinstance(time, str):
        return parse_time(time)
    if not isinstance(time, datetime):
        raise ValueError(f"it must be a time, and is {shown(time)}")  # noqa: TRY004 - collected
    if time.tzinfo is None:
        raise ValueError("it must have an offset from UTC, and has none")
    try:
        return time.astimezone(UTC)
    except OverflowError as fault:
        raise ValueError("it lies outside of the years 1 to 9999 in UTC") from fault
