"""Column types as text: what a declared schema says, and how a pin carries one.

Keeps promise 1 for schemas: what rows look like is pinned with the data, and what does not fit it later fails by the column's name instead of
changing in silence. The little language is Arrow's own way of printing types, so that what an error or a pin shows can be pasted into the
project file::

    int64    double    string    bool    binary    date32    timestamp[us, UTC]    decimal128(12, 2)
    list<int64>    struct<street: string, number: int32>    int64 not null

Stands between the project file and both kinds of history.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final, cast

import pyarrow as pa

__all__ = [
    "column_faults",
    "described",
    "parse_type",
    "schema_from_columns",
    "schema_from_text",
    "schema_to_text",
]

_SIMPLE: Final[dict[str, pa.DataType]] = {
    "bool": pa.bool_(),
    "boolean": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float": pa.float32(),
    "float32": pa.float32(),
    "double": pa.float64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "date32": pa.date32(),
    "time32[s]": pa.time32("s"),
    "time32[ms]": pa.time32("ms"),
    "time64[us]": pa.time64("us"),
    "time64[ns]": pa.time64("ns"),
}
_UNITS: Final = ("s", "ms", "us", "ns")
_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*|\d+|[\[\]<>(),:=])")

#: What a time column may be.


def parse_type(text: str) -> pa.Field[Any]:
    """Read one type.

    Returns
    -------
    pyarrow.Field
        Nameless; its nullability is what `not null` said.

    Raises
    ------
    ValueError
        The text is no type, with what was expected.

    Examples
    --------
    >>> parse_type("list<timestamp[us, UTC]> not null").type
    ListType(list<element: timestamp[us, tz=UTC]>)
    """
    tokens = _tokens(text)
    field = _Parser(text, tokens).field("")
    if tokens:
        raise ValueError(
            f"must be a column type such as int64 or timestamp[us, UTC], found {text!r} (left over: {' '.join(tokens)})"
        )
    return field


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"must be a column type such as int64 or timestamp[us, UTC], found {text!r}")
        tokens.append(match[1])
        at = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens of one type."""

    def __init__(self, text: str, tokens: list[str]) -> None:
        self._text = text
        self._tokens = tokens

    def field(self, name: str) -> pa.Field[Any]:
        kind = self._type()
        if self._tokens[:2] == ["not", "null"]:
            del self._tokens[:2]
            return pa.field(name, kind, nullable=False)
        return pa.field(name, kind)

    def _next(self, *wanted: str) -> str:
        found = self._tokens.pop(0) if self._tokens else "its end"
        if wanted and found not in wanted:
            raise ValueError(
                f"must be a column type; in {self._text!r}, {' or '.join(wanted)} is expected, found {found}"
            )
        return found

    def _type(self) -> pa.DataType:
        word = self._next()
        if word == "date32" and self._tokens[:3] == ["[", "day", "]"]:  # as Arrow prints it
            del self._tokens[:3]
        if word in ("time32", "time64") and self._tokens[:1] == ["["]:
            word += "".join(self._tokens[:3])
            del self._tokens[:3]
        if word in _SIMPLE:
            return _SIMPLE[word]
        match word:
            case "timestamp":
                return self._timestamp()
            case "decimal128" | "decimal" | "decimal256":
                self._next("(")
                digits = self._number()
                self._next(",")
                scale = self._number()
                self._next(")")
                return pa.decimal256(digits, scale) if word == "decimal256" else pa.decimal128(digits, scale)
            case "list":
                self._next("<")
                if self._tokens[1:2] == [":"]:  # Arrow prints the name of the element
                    del self._tokens[:2]
                element = self.field("element")
                self._next(">")
                return pa.list_(element)
            case "struct":
                return self._struct()
        known = ", ".join([*_SIMPLE, "timestamp[us, UTC]", "decimal128(p, s)", "list<T>", "struct<name: T>"])
        raise ValueError(f"must be a column type, found {word!r} in {self._text!r}; known: {known}")

    def _timestamp(self) -> pa.DataType:
        if self._tokens[:1] != ["["]:
            return pa.timestamp("us", "UTC")
        self._next("[")
        unit = self._next(*_UNITS)
        zone = None
        if self._next(",", "]") == ",":
            if self._tokens[:2] == ["tz", "="]:  # as Arrow prints it
                del self._tokens[:2]
            zone = self._next("UTC")
            self._next("]")
        # One of a closed set of words, which the type stubs want spelled out one by one.
        made: pa.DataType = pa.timestamp(cast(Any, unit), zone)
        return made

    def _struct(self) -> pa.DataType:
        self._next("<")
        fields: list[pa.Field[Any]] = []
        while True:
            name = self._next()
            if not re.match(r"[A-Za-z_]", name):
                raise ValueError(
                    f"must be a column type; in {self._text!r}, the name of a field is expected, found {name}"
                )
            self._next(":")
            fields.append(self.field(name))
            if self._next(",", ">") == ">":
                return pa.struct(fields)

    def _number(self) -> int:
        word = self._next()
        if not word.isdecimal():
            raise ValueError(f"must be a column type; in {self._text!r}, a number is expected, found {word}")
        return int(word)


def column_faults(columns: object) -> list[tuple[str, str]]:
    """Find all that is wrong with a `columns` table of the project file, as (field, text)."""
    if not isinstance(columns, Mapping) or not columns:
        return [("columns", f"must be a table of column names and types, found {columns!r}")]
    faults = []
    for name, text in columns.items():
        try:
            parse_type(text) if isinstance(text, str) else _refuse(text)
        except ValueError as fault:
            faults.append((f"columns.{name}", str(fault)))
    return faults


def _refuse(text: object) -> None:
    raise ValueError(f"must be a column type as text, such as int64, found {text!r}")


def schema_from_columns(columns: Mapping[str, str]) -> pa.Schema:
    """Make the schema of a declared `columns` table.

    Raises
    ------
    ValueError
        A type is none; see `column_faults` for all of them.
    """
    return pa.schema([parse_type(text).with_name(name) for name, text in columns.items()])


def schema_to_text(schema: pa.Schema) -> str:
    """Give a schema as base64 of its Arrow IPC form, without metadata."""
    bare = pa.schema([field.remove_metadata() for field in schema])
    return base64.b64encode(bare.serialize().to_pybytes()).decode("ascii")


def schema_from_text(text: str) -> pa.Schema:
    """Take a schema out of a pin."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def described(schema: pa.Schema) -> list[list[object]]:
    """Tell a schema in JSON values that stay the same from one version of Arrow to the next, for keys."""
    return [[field.name, str(field.type), field.nullable] for field in schema]
