"""Avro schemas: what columns they give, how one is read as another, and what the engines are told.

Keeps promise 2 for Avro: every type is supported or refused by name, and resolution follows the specification's rules for schema evolution but one:
two logical types that differ are refused where the specification ignores them (milliseconds read as microseconds would be wrong by a thousand in silence).

==================================  ====================================================
Avro                                column
==================================  ====================================================
boolean, int, long, float, double   bool, int32, int64, float, double
bytes, fixed, string                binary, binary, string
enum                                string
array, record                       list, struct
map                                 list<struct<key: string, value: T>>, in the record's order
[null, T], [T, null]                T, which may be null
date; time-millis, -micros          date32; time32[ms], time64[us]
timestamp-millis, -micros, -nanos   timestamp[ms, UTC], [us, UTC], [ns, UTC]
local-timestamp-...                 timestamp[...] without a zone
decimal                             decimal128 up to 38 digits, decimal256 up to 76
uuid                                string
==================================  ====================================================

Refused: null alone, unions of several types, recursive records, duration, arrays whose items take no bytes (a few bytes could ask for any amount of memory).

::

    schema text -> parse_avro -> AvroType -> arrow_type (columns), resolution_faults (writer to reader)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

__all__ = [
    "AvroField",
    "AvroType",
    "arrow_type",
    "default_value",
    "matching",
    "parse_avro",
    "reading_of",
    "resolution_faults",
]

_PRIMITIVE: Final[dict[str, pa.DataType]] = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
#: Logical types with a column type of their own, by the Avro type below. What is not listed is ignored, as the specification demands.
_LOGICAL: Final[dict[tuple[str, str], pa.DataType]] = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): pa.time32("ms"),
    ("long", "time-micros"): pa.time64("us"),
    ("long", "timestamp-millis"): pa.timestamp("ms", "UTC"),
    ("long", "timestamp-micros"): pa.timestamp("us", "UTC"),
    ("long", "timestamp-nanos"): pa.timestamp("ns", "UTC"),
    ("long", "local-timestamp-millis"): pa.timestamp("ms"),
    ("long", "local-timestamp-micros"): pa.timestamp("us"),
    ("long", "local-timestamp-nanos"): pa.timestamp("ns"),
}
#: "A writer's X is promoted to a reader's Y."
_PROMOTIONS: Final = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}
_UUID_BYTES: Final = 16
_NAME: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class AvroType:
    """One type of a schema, names resolved."""

    #: A primitive type, fixed, enum, array, map or record; or "refused".
    kind: str
    #: Why it can be no column.
    refusal: str = ""
    #: Places of null and of the type in a union of the two; None: no union.
    null_at: int | None = None
    logical: str | None = None
    precision: int = 0
    scale: int = 0
    size: int = 0
    symbols: tuple[str, ...] = ()
    #: Symbol that stands for those a reader does not know.
    fallback: str | None = None
    #: Of an array's items or a map's values.
    items: AvroType | None = None
    fields: tuple[AvroField, ...] = ()
    #: Unqualified names it goes by: its own and its aliases.
    names: frozenset[str] = frozenset()
    #: The schema without logical types and with names of its own, as engines take it.
    plain: Any = field(default=None, repr=False, compare=False)

    @property
    def nullable(self) -> bool:
        """Whether it may be null."""
        return self.null_at is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class AvroField:
    """One field of a record."""

    name: str
    type: AvroType
    aliases: tuple[str, ...] = ()
    #: The default as JSON text; None where there is none.
    default: str | None = None


def parse_avro(texts: Sequence[str]) -> AvroType:
    """Read a schema.

    Parameters
    ----------
    texts : sequence of str
        The schemas it refers to, each after those it refers to itself, and at last the schema.

    Raises
    ------
    ValueError
        It is none, with what is wrong; or it is not of a record.
    """
    parser = _Parser()
    made: AvroType | None = None
    for text in texts:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as fault:
            raise ValueError(f"must be an Avro schema in JSON: {fault}") from fault
        try:
            made = parser.type(document, "", ())
        except (KeyError, TypeError, AttributeError, RecursionError) as fault:
            raise ValueError(f"must be an Avro schema; it lacks or mistakes {fault}") from fault
    if made is None or made.kind != "record" or made.nullable:
        found = made.refusal or made.kind if made is not None else "nothing"
        raise ValueError(f"must be an Avro record, so that its fields are columns; found {found}")
    return made


class _Parser:
    """One reading of a schema and those it refers to."""

    def __init__(self) -> None:
        self._named: dict[str, tuple[Mapping[str, Any], str]] = {}
        self._count = 0

    def type(self, schema: Any, space: str, inside: tuple[tuple[str, str], ...]) -> AvroType:
        """Read a type within a namespace and the records around it, each as (full name, name for engines)."""
        if isinstance(schema, list):
            return self._union(schema, space, inside)
        if isinstance(schema, str):
            return self._by_name(schema, space, inside)
        if not isinstance(schema, Mapping) or "type" not in schema:
            raise ValueError(f"must be an Avro schema; found {json.dumps(schema)[:80]}")
        kind = schema["type"]
        if not isinstance(kind, str) or kind not in {*_PRIMITIVE, "null", "fixed", "enum", "array", "map", "record"}:
            return self.type(kind, space, inside)
        if kind in ("array", "map"):
            items = self.type(schema.get("items" if kind == "array" else "values"), space, inside)
            plain = {"type": kind, "items" if kind == "array" else "values": items.plain}
            if items.kind == "refused" or (kind == "array" and _takes_no_bytes(items)):
                return AvroType(
                    kind="refused", refusal=items.refusal or "an array whose items take no bytes", plain=plain
                )
            return AvroType(kind=kind, items=items, plain=plain)
        if kind in ("record", "enum", "fixed"):
            return self._define(kind, schema, space, inside)
        if kind == "null":
            return AvroType(kind="refused", refusal="null alone", plain="null")
        return _logical(AvroType(kind=kind, plain=kind), schema)

    def _by_name(self, name: str, space: str, inside: tuple[tuple[str, str], ...]) -> AvroType:
        if name in _PRIMITIVE:
            return AvroType(kind=name, plain=name)
        if name == "null":
            return AvroType(kind="refused", refusal="null alone", plain="null")
        full = name if "." in name or not space else f"{space}.{name}"
        for around, engine_name in inside:
            if around == full:
                return AvroType(kind="refused", refusal=f"the recursive record {full}", plain=engine_name)
        if full not in self._named:
            full = name
        if full not in self._named:
            raise ValueError(f"names the type {name}, which neither it nor a schema it refers to defines")
        definition, where = self._named[full]
        return self._define(definition["type"], definition, where, inside)

    def _define(
        self, kind: str, schema: Mapping[str, Any], space: str, inside: tuple[tuple[str, str], ...]
    ) -> AvroType:
        name = schema.get("name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"must name every {kind}; found {json.dumps(schema)[:80]}")
        full = name if "." in name else f"{schema.get('namespace', space)}.{name}".lstrip(".")
        self._named.setdefault(full, (schema, space))
        self._count += 1
        engine_name = f"t{self._count}"
        aliases = schema.get("aliases", ())
        names = frozenset(each.rpartition(".")[2] for each in (name, *aliases))
        if kind == "enum":
            symbols = tuple(schema["symbols"])
            plain = {"type": "enum", "name": engine_name, "symbols": list(symbols)}
            return AvroType(kind="enum", symbols=symbols, fallback=schema.get("default"), names=names, plain=plain)
        if kind == "fixed":
            size = int(schema["size"])
            made = AvroType(
                kind="fixed", size=size, names=names, plain={"type": "fixed", "name": engine_name, "size": size}
            )
            return _logical(made, schema)
        inner_space = full.rpartition(".")[0]
        fields = tuple(self._field(each, inner_space, ((full, engine_name), *inside)) for each in schema["fields"])
        if len({each.name for each in fields}) < len(fields):
            raise ValueError(f"must name each field of {full} only once")
        plain = {
            "type": "record",
            "name": engine_name,
            "fields": [{"name": each.name, "type": each.type.plain} for each in fields],
        }
        refused = [each for each in fields if each.type.kind == "refused"]
        if refused and inside:
            return AvroType(kind="refused", refusal=f"{refused[0].type.refusal} in {refused[0].name}", plain=plain)
        return AvroType(kind="record", fields=fields, names=names, plain=plain)

    def _field(self, schema: Mapping[str, Any], space: str, inside: tuple[tuple[str, str], ...]) -> AvroField:
        if not _NAME.fullmatch(schema["name"]):
            raise ValueError(f"must have names of letters, digits and underscores; found {schema['name']!r}")
        return AvroField(
            name=schema["name"],
            type=self.type(schema["type"], space, inside),
            aliases=tuple(schema.get("aliases", ())),
            default=json.dumps(schema["default"]) if "default" in schema else None,
        )

    def _union(self, branches: list[Any], space: str, inside: tuple[tuple[str, str], ...]) -> AvroType:
        types = [self.type(branch, space, inside) for branch in branches]
        plain = [each.plain for each in types]
        others = [at for at, branch in enumerate(plain) if branch != "null"]
        if len(types) == 2 and len(others) == 1:
            inner = types[others[0]]
            return _changed(inner, null_at=1 - others[0], plain=plain)
        said = "a union of null alone" if not others else f"a union of {len(types)} types"
        return AvroType(kind="refused", refusal=said, plain=plain)


def _changed(made: AvroType, **changes: Any) -> AvroType:
    from dataclasses import replace

    return replace(made, **changes)


def _logical(made: AvroType, schema: Mapping[str, Any]) -> AvroType:
    """Add a logical type, or ignore one that does not fit: "implementations must ignore unknown logical types"."""
    logical = schema.get("logicalType")
    if logical == "decimal" and made.kind in ("bytes", "fixed"):
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if type(precision) is not int or type(scale) is not int or not 0 <= scale <= precision or precision < 1:
            return made
        if precision > 76:
            return AvroType(kind="refused", refusal=f"a decimal of {precision} digits (at most 76)", plain=made.plain)
        return _changed(made, logical="decimal", precision=precision, scale=scale)
    if logical == "uuid" and (made.kind == "string" or (made.kind == "fixed" and made.size == _UUID_BYTES)):
        return _changed(made, logical="uuid")
    if logical == "duration" and made.kind == "fixed":
        return AvroType(kind="refused", refusal="a duration", plain=made.plain)
    return _changed(made, logical=logical) if (made.kind, logical) in _LOGICAL else made


def _takes_no_bytes(type_: AvroType) -> bool:
    if type_.nullable:
        return False
    return (type_.kind == "fixed" and type_.size == 0) or (
        type_.kind == "record" and all(_takes_no_bytes(each.type) for each in type_.fields)
    )


def arrow_type(type_: AvroType, *, logical: bool = True) -> pa.DataType:
    """Give the column type; without logical types what is stored below them."""
    if logical and type_.logical is not None:
        if type_.logical == "decimal":
            make = pa.decimal128 if type_.precision <= 38 else pa.decimal256
            return make(type_.precision, type_.scale)
        return pa.string() if type_.logical == "uuid" else _LOGICAL[type_.kind, type_.logical]
    match type_.kind:
        case "fixed":
            return pa.binary()
        case "enum":
            return pa.string()
        case "array":
            assert type_.items is not None
            return pa.list_(pa.field("element", arrow_type(type_.items, logical=logical)))
        case "map":
            assert type_.items is not None
            pair = [pa.field("key", pa.string()), pa.field("value", arrow_type(type_.items, logical=logical))]
            return pa.list_(pa.field("element", pa.struct(pair)))
        case "record":
            return pa.struct([pa.field(each.name, arrow_type(each.type, logical=logical)) for each in type_.fields])
    return _PRIMITIVE[type_.kind]


def matching(reader: AvroField, writer: AvroType) -> AvroField | None:
    """Find the writer's field that a reader's is read from: of its name, else of one of its aliases."""
    by_name = {each.name: each for each in writer.fields}
    return next((by_name[name] for name in (reader.name, *reader.aliases) if name in by_name), None)


def resolution_faults(writer: AvroType, reader: AvroType, path: str) -> list[tuple[str, str]]:
    """Find why data of a writer's type cannot be read as a reader's, as (field, reason)."""
    for side, type_ in (("writer", writer), ("pinned", reader)):
        if type_.kind == "refused":
            return [(path, f"the {side} schema has {type_.refusal}")]
    if None not in (writer.logical, reader.logical) and _meaning(writer) != _meaning(reader):
        return [(path, f"{_said(writer)} cannot be read as {_said(reader)}")]
    if writer.kind != reader.kind:
        if reader.kind in _PROMOTIONS.get(writer.kind, ()):
            return []
        return [(path, f"{_said(writer)} cannot be read as {_said(reader)}")]
    if writer.kind in ("record", "enum", "fixed") and path and not writer.names & reader.names:
        return [(path, f"{writer.kind} {'/'.join(writer.names)} cannot be read as {'/'.join(reader.names)}")]
    if writer.size != reader.size:
        return [(path, f"fixed of {writer.size} bytes cannot be read as fixed of {reader.size}")]
    if writer.items is not None and reader.items is not None:
        return resolution_faults(writer.items, reader.items, f"{path}[...]")
    faults = []
    for each in reader.fields:
        inner = f"{path}.{each.name}".lstrip(".")
        found = matching(each, writer)
        if found is not None:
            faults += resolution_faults(found.type, each.type, inner)
        elif each.default is None:
            faults.append((inner, "the writer schema does not have it, and the pinned schema has no default for it"))
    return faults


def _meaning(type_: AvroType) -> tuple[object, ...]:
    return (type_.logical, type_.precision, type_.scale)


def _said(type_: AvroType) -> str:
    if type_.logical == "decimal":
        return f"decimal({type_.precision}, {type_.scale})"
    return type_.logical or type_.kind


def default_value(field_: AvroField) -> Any:
    """Give a field's default as the value below its logical type: "bytes" and "fixed" are written as text."""
    assert field_.default is not None
    return _from_json(field_.type, json.loads(field_.default))


def _from_json(type_: AvroType, value: Any) -> Any:
    if value is None:
        return None
    match type_.kind:
        case "bytes" | "fixed":
            return value.encode("latin-1")
        case "array":
            assert type_.items is not None
            return [_from_json(type_.items, each) for each in value]
        case "map":
            assert type_.items is not None
            return [{"key": key, "value": _from_json(type_.items, each)} for key, each in value.items()]
        case "record":
            return {
                each.name: _from_json(each.type, value[each.name]) if each.name in value else default_value(each)
                for each in type_.fields
            }
    return value


def reading_of(type_: AvroType) -> object:
    """Tell in JSON values all of a reader's type that shows in rows, for keys."""
    return [
        type_.kind,
        type_.logical,
        type_.precision,
        type_.scale,
        type_.size,
        type_.nullable,
        list(type_.symbols),
        type_.fallback,
        sorted(type_.names),
        None if type_.items is None else reading_of(type_.items),
        [[each.name, list(each.aliases), each.default, reading_of(each.type)] for each in type_.fields],
    ]
