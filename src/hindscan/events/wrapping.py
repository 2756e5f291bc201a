"""Records that are not CloudEvents, wrapped as such: which of their fields are the attributes is declared, the record is the data (promises 4 and 5).

Plain records have an identity all the same: where they stand. So a mapping that names no `id` takes the record's position (cluster, topic id, partition,
offset), which is the same however often the record is delivered. What a mapping cannot find is a fault of the record, with all its faults at once; it ends
in quarantine with bytes and position.

How the value of a format is read comes as a function, so that this folder needs no decoder of histories.

::

    Wrapping + value -> read -> document -> wrap -> Event
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import quote

from hindscan import times
from hindscan.events.event import Event, build_event, invalid_event
from hindscan.events.s3 import s3_events
from hindscan.events.strict import parse_json, shown
from hindscan.events.wire import MAX_BODY_BYTES

if TYPE_CHECKING:
    from hindscan.events.path import Path

__all__ = ["FORMATS", "IN_REGISTRY", "UNITS", "AttributeMapping", "ReadValue", "RecordPlace", "Wrapping", "wrap"]

Format: TypeAlias = Literal["json", "avro", "protobuf", "jsonschema", "s3"]
FORMATS: Final = ("cloudevents", "json", "avro", "protobuf", "jsonschema", "s3")
#: Those in the wire format of a schema registry.
IN_REGISTRY: Final = ("avro", "protobuf", "jsonschema")
#: Microseconds of the units in which a record can have its time.
UNITS: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
#: Gives a value as JSON has it; a `ValueError` says why it cannot.
ReadValue: TypeAlias = Callable[[bytes], Any]

_TYPE: Final = "hindscan.record"
#: Attributes that must come about where they are declared; the others may be null, which is absent.
_NEEDED: Final = ("id", "source", "type", "time")


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributeMapping:
    """Where one attribute of the event stands in the record."""

    name: str
    path: Path
    #: Of a time that is a number.
    unit: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wrapping:
    """How records of one format become events.

    Parameters
    ----------
    format : "json", "avro", "protobuf", "jsonschema" or "s3"
        How values are read; "s3" is what S3 says of its objects, by way of Kafka or HTTP, and has a mapping of its own.
    attributes : tuple[AttributeMapping, ...]
        The declared mapping.
    data : Path | None
        What of the record is the event's data; None for all of it.
    registry : str
        Name of the registry that has the schemas.
    confirm : tuple[str, ...]
        SNS topics that may send over HTTP, signed, and whose subscriptions are confirmed when they ask.
    unsigned : bool
        Whether what comes in an envelope of SNS over HTTP is taken without its signature.
    """

    format: Format
    attributes: tuple[AttributeMapping, ...] = ()
    data: Path | None = None
    registry: str = "default"
    confirm: tuple[str, ...] = ()
    unsigned: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordPlace:
    """Where a record stands: its identity, whatever it holds."""

    cluster: str
    topic: str
    topic_id: str
    partition: int
    offset: int

    @property
    def source(self) -> str:
        """The topic, as a reference."""
        return f"/kafka/{quote(self.cluster)}/{quote(self.topic)}"

    @property
    def id(self) -> str:
        """The record, whatever source an event of it names."""
        return f"{self.cluster}/{self.topic_id}/{self.partition}/{self.offset}"


def wrap(
    wrapping: Wrapping, value: bytes | None, place: RecordPlace | None, read: ReadValue = parse_json
) -> list[Event]:
    """Make the events of a record: one, or of a notification of S3 one for each object.

    Parameters
    ----------
    wrapping : Wrapping
        What is declared.
    value : bytes | None
        The record's value; None is null.
    place : RecordPlace | None
        Where it stands; None for what came over HTTP, whose mapping must name the id and the source.
    read : callable
        Reads a value of the format.

    Raises
    ------
    InvalidEvent
        With every fault.
    """
    doing = f"wrapping a record of format {wrapping.format} as a CloudEvent"
    if value is not None and len(value) > MAX_BODY_BYTES:
        raise invalid_event(doing, [f"it must have at most {MAX_BODY_BYTES} bytes, and has {len(value)}"])
    try:
        document = None if value is None else read(value)
    except ValueError as fault:
        raise invalid_event(doing, [str(fault)]) from None
    if wrapping.format == "s3":
        return s3_events(document)
    faults: list[str] = []
    attributes: dict[str, Any] = {"specversion": "1.0", "type": _TYPE}
    if place is not None:
        attributes |= {"id": place.id, "source": place.source}
    for mapping in wrapping.attributes:
        try:
            found = _attribute(mapping, document)
        except ValueError as fault:
            faults.append(f"{mapping.name} from {mapping.path.expression!r}: {fault}")
            continue
        if found is not None:
            attributes[mapping.name] = found
    data = document
    if wrapping.data is not None:
        try:
            data = wrapping.data.search(document)
        except ValueError as fault:
            faults.append(f"data from {wrapping.data.expression!r}: {fault}")
    if faults:
        raise invalid_event(doing, faults)
    return [build_event(attributes | {"datacontenttype": "application/json"}, data, [], doing)]


def _attribute(mapping: AttributeMapping, document: Any) -> Any:
    value = mapping.path.search(document)
    if value is None:
        if mapping.name in _NEEDED:
            raise ValueError("it is null or not there, and this attribute is needed")
        return None
    if mapping.name == "time":
        return times.to_text(_time(value, mapping.unit))
    if mapping.name in ("id", "source", "type", "subject") and type(value) is int:
        # Keys of records are often numbers; an attribute is a text.
        return str(value)
    return value


def _time(value: object, unit: str | None) -> int:
    if isinstance(value, str):
        return times.from_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a time is an ISO 8601 text or a number, not {shown(value)}")  # noqa: TRY004 - collected
    if unit is None:
        raise ValueError(
            f'a time that is a number needs its unit, {{ path = ..., unit = "ms" }} ({", ".join(UNITS)}); it is {shown(value)}'
        )
    micros = round(value * UNITS[unit])
    try:
        times.to_datetime(micros)
    except OverflowError:
        raise ValueError(f"{shown(value)} {unit} is beyond the year 9999") from None
    return micros
