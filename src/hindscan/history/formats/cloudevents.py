"""CloudEvents to columns: format `cloudevents`, structured and binary mode.

Keeps promise 2 for events: what an event is, is decided by `events.wire`, as for those that start runs, so that a record is never an event here and none there. Its
attributes are the columns `ce_NAME`, as the headers of binary mode are called; the members of its data, which must be a JSON object or absent, are columns by
their own names, decoded by the strict JSON decoder from the bytes that came. Events are read one by one: tens of thousands a second.

A record without a value is an event without data if its headers say that it is an event, and a tombstone otherwise.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import msgspec
import numpy as np
import pyarrow as pa

from hindscan.errors import InvalidEvent
from hindscan.events.event import Event
from hindscan.events.wire import parse_kafka
from hindscan.history.formats.decoder import BadValue, Headers
from hindscan.history.formats.json import JsonDecoder, json_column_faults
from hindscan.history.infer import infer_schema

__all__ = ["CloudEventsDecoder", "cloudevents_column_faults", "cloudevents_columns", "valueless_events"]

#: Begins the columns of attributes.
PREFIX: Final = "ce_"
_TIME: Final = "ce_time"
_TIME_TYPE: Final = pa.timestamp("us", "UTC")
#: Those that every event has; of the others a sample shows which there are.
_ALWAYS: Final = ("id", "source", "type")
_OPTIONAL: Final = ("subject", "time", "datacontenttype", "dataschema")
_WHOLE: Final = re.compile("-?[0-9]+")
_BOOLEANS: Final = {"true": True, "false": False}

RawHeaders = Sequence[tuple[str, bytes | None]] | None


class _Data(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw(b"{}")


_data = msgspec.json.Decoder(_Data)


def cloudevents_column_faults(schema: pa.Schema) -> list[tuple[str, str]]:
    """Find the declared columns that an event cannot give, as (field, text)."""
    faults = json_column_faults(pa.schema([each for each in schema if not each.name.startswith(PREFIX)]))
    for each in schema:
        if not each.name.startswith(PREFIX):
            continue
        if each.name == _TIME:
            if not pa.types.is_timestamp(each.type):
                faults.append((f"columns.{each.name}", f"must be a timestamp, found {each.type}"))
        elif not (pa.types.is_string(each.type) or pa.types.is_boolean(each.type) or pa.types.is_integer(each.type)):
            faults.append(
                (f"columns.{each.name}", f"must be string, bool or an integer, as attributes are; found {each.type}")
            )
    return faults


def cloudevents_columns(records: Iterable[tuple[bytes | None, RawHeaders]]) -> tuple[pa.Schema, list[str]]:
    """Infer columns from a sample of records; those that are no events are left out.

    Returns
    -------
    schema, faults
        Attributes, then members of the data; and the members whose kinds do not mix.
    """
    seen: set[str] = set()
    data = []
    for value, headers in records:
        try:
            event = parse_kafka(value, headers)
        except InvalidEvent:
            continue
        seen |= {*_ALWAYS, *(name for name in _OPTIONAL if event.attribute(name) is not None), *event.extensions}
        raw = _data_of(event, value, headers)
        data += [] if raw is None else [raw]
    known = [*_ALWAYS, *_OPTIONAL]
    names = [name for name in known if name in seen] + sorted(seen - set(known))
    members, faults = infer_schema(data)
    attributes = [pa.field(PREFIX + name, _TIME_TYPE if name == "time" else pa.string()) for name in names]
    taken = {each.name for each in attributes}
    return pa.schema([*attributes, *(each for each in members if each.name not in taken)]), faults


def valueless_events(values: pa.LargeBinaryArray, headers: Headers) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell which records have no value and are events all the same."""
    found = np.zeros(len(values), bool)
    for at in np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)):
        found[at] = any(name.lower() == "ce_specversion" for name, _ in _pairs(headers[int(at)]) or ())
    return found


def _pairs(one: Any) -> RawHeaders:
    each = one.as_py()
    return None if each is None else [(pair["key"], pair["value"]) for pair in each]


def _data_of(event: Event, value: bytes | None, headers: RawHeaders) -> bytes | None:
    """Give the bytes of an event's data as JSON; None if it is no object."""
    if event.data is None:
        return b"{}"
    if not isinstance(event.data, dict):
        return None
    structured = any(
        name.lower() == "content-type" and (text or b"").lower().startswith(b"application/cloudevents")
        for name, text in headers or ()
    )
    return bytes(_data.decode(value or b"").data) if structured else value


class CloudEventsDecoder:
    """Decodes records that carry events to columns of one schema.

    Parameters
    ----------
    schema : pyarrow.Schema
        The columns to decode, and no others.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._attributes = [each for each in schema if each.name.startswith(PREFIX)]
        members = [each for each in schema if not each.name.startswith(PREFIX)]
        self._members = JsonDecoder(pa.schema(members)) if members else None

    def decode(self, values: pa.LargeBinaryArray, headers: Headers | None = None) -> tuple[pa.Table, list[BadValue]]:
        """Decode values, null where a record has none, and headers; see `Decoder`."""
        assert headers is not None
        bad: dict[int, BadValue] = {}
        attributes: list[list[Any]] = []
        data: list[bytes] = []
        places: list[int] = []
        for at, (value, one) in enumerate(zip(values.to_pylist(), headers, strict=True)):
            pairs = _pairs(one)
            try:
                event = parse_kafka(value, pairs)
                row = [_attribute(event, each) for each in self._attributes]
            except InvalidEvent as fault:
                found = fault.details.get("faults") or [str(fault)]
                bad[at] = BadValue(index=at, field="", reason="; ".join(map(str, cast(list[Any], found))))
                continue
            except ValueError as fault:
                field, reason = fault.args
                bad[at] = BadValue(index=at, field=field, reason=reason)
                continue
            raw = _data_of(event, value, pairs) if self._members is not None else b"{}"
            if raw is None:
                bad[at] = BadValue(
                    index=at, field="data", reason="must be a JSON object, so that its members are columns"
                )
                continue
            attributes.append(row)
            data.append(raw)
            places.append(at)
        return self._table(attributes, data, places, bad)

    def _table(
        self, attributes: list[list[Any]], data: list[bytes], places: list[int], bad: dict[int, BadValue]
    ) -> tuple[pa.Table, list[BadValue]]:
        columns: dict[str, Any] = {}
        kept = np.arange(len(places))
        if self._members is not None:
            table, wrong = self._members.decode(pa.array(data, pa.large_binary()))
            for fault in wrong:
                at = places[fault.index]
                bad[at] = BadValue(index=at, field=fault.field, reason=fault.reason)
            kept = np.delete(kept, [fault.index for fault in wrong])
            columns = {name: table.column(name) for name in table.schema.names}
        for at, each in enumerate(self._attributes):
            columns[each.name] = pa.array([attributes[row][at] for row in kept], each.type)
        whole = pa.Table.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)
        return whole, [bad[at] for at in sorted(bad)]


def _attribute(event: Event, column: pa.Field[Any]) -> Any:
    """Give an attribute as its column has it; raises ValueError(field, reason)."""
    name = column.name.removeprefix(PREFIX)
    found: Any = event.time if name == "time" else event.attribute(name)
    if found is None:
        if not column.nullable:
            raise ValueError(column.name, "is required, and the event does not have it")
        return None
    try:
        if isinstance(found, dt.datetime):
            # Finer than the column is an error, as in every format.
            return pa.scalar(found, _TIME_TYPE).cast(column.type).as_py()
        if pa.types.is_boolean(column.type):
            return _BOOLEANS[found]
        if pa.types.is_integer(column.type):
            if not _WHOLE.fullmatch(found):
                raise ValueError("no whole number as an event writes one")
            return pa.scalar(int(found), column.type).as_py()
    except (KeyError, ValueError, OverflowError, pa.ArrowException) as fault:
        raise ValueError(column.name, f"must be {column.type}, found {found!r}") from fault
    return found
