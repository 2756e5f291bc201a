"""A schema from a sample of JSON records, for topics that declare none.

Keeps promise 1 for schemas: the sample is pinned (the same offsets give the same records), so the schema is a function of the pin, is stored in it, and what does
not fit it later fails by name. Only what the sample shows is believed: whole numbers are int64, numbers with a point or exponent make the
column double, texts that all are ISO 8601 times make it timestamp[us, UTC] (ns if one is finer), objects are structs and arrays lists. A field that is null, or an empty
array, wherever it occurs has no type and is no column. Kinds that do not mix are refused: the project file must declare what is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import pyarrow as pa

from hindscan.history.formats.json import is_field_name

__all__ = ["infer_schema"]

_TIME: Final = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])[T ](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.(\d{1,9}))?)?(?:Z|[+-]\d\d:?\d\d)?\Z"
)
_INT64: Final = range(-(1 << 63), 1 << 63)
#: Levels that a column may have; a schema of some hundreds could be stored, but not read again.
_LEVELS: Final = 64


class _Seen:
    """What has been seen of one field."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self.fields: dict[str, _Seen] = {}
        self.elements: _Seen | None = None

    def add(self, value: Any, level: int = 0) -> None:
        match value:
            case None:
                pass
            case bool():
                self.kinds.add("bool")
            case int():
                self.kinds.add("int64" if value in _INT64 else "integer beyond int64")
            case float():
                self.kinds.add("double")
            case str():
                time = _TIME.match(value)
                self.kinds.add("string" if time is None else "ns" if len(time[1] or "") > 6 else "us")
            case list() | dict() if level > _LEVELS:
                self.kinds.add(f"nested deeper than {_LEVELS} levels")
            case list():
                self.kinds.add("list")
                self.elements = self.elements or _Seen()
                for item in value:
                    self.elements.add(item, level + 1)
            case dict():
                self.kinds.add("struct")
                for name, item in value.items():
                    self.fields.setdefault(name, _Seen()).add(item, level + 1)

    def type(self, path: str, faults: list[str]) -> pa.DataType | None:
        kinds = self.kinds
        simple: pa.DataType | None = None
        if kinds <= {"us", "ns"} and kinds:
            simple = pa.timestamp("ns" if "ns" in kinds else "us", "UTC")
        elif kinds and kinds <= {"string", "us", "ns"}:
            simple = pa.string()
        elif kinds == {"int64"}:
            simple = pa.int64()
        elif kinds in ({"double"}, {"double", "int64"}):
            simple = pa.float64()
        elif kinds == {"bool"}:
            simple = pa.bool_()
        elif kinds == {"list"} and self.elements is not None:
            element = self.elements.type(f"{path}[...]", faults)
            simple = None if element is None else pa.list_(pa.field("element", element))
        elif kinds == {"struct"}:
            children = _children(self.fields, f"{path}.", faults)
            simple = pa.struct(children) if children else None
        elif kinds:
            shown = {"us": "time", "ns": "time"}
            faults.append(f"{path} is {' and '.join(sorted({shown.get(kind, kind) for kind in kinds}))}")
        return simple


def _children(fields: dict[str, _Seen], prefix: str, faults: list[str]) -> list[pa.Field[Any]]:
    faults += [
        f"{prefix}{name!r} has a quote, backslash or control character in its name"
        for name in fields
        if not is_field_name(name)
    ]
    types = {name: seen.type(f"{prefix}{name}", faults) for name, seen in fields.items()}
    return [pa.field(name, type_) for name, type_ in types.items() if type_ is not None]


def infer_schema(values: Iterable[bytes]) -> tuple[pa.Schema, list[str]]:
    """Infer the columns of JSON records.

    Parameters
    ----------
    values : iterable of bytes
        The sample. Records that are no JSON objects are left out.

    Returns
    -------
    schema, faults
        Columns in the order in which they first occur; and the fields whose kinds do not mix.

    Examples
    --------
    >>> infer_schema([b'{"a": 1, "t": "2018-01-01T00:00:00Z"}', b'{"a": 2.5, "b": null}'])[0].types
    [DataType(double), TimestampType(timestamp[us, tz=UTC])]
    """
    seen = _Seen()
    for value in values:
        try:
            record = msgspec.json.decode(value)
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            seen.add(record)
    faults: list[str] = []
    return pa.schema(_children(seen.fields, "", faults)), faults
