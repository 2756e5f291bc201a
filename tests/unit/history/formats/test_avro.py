"""Avro: columns are what fastavro reads, whichever engine reads them; the rest is bad by name.

The oracle is fastavro with its own logical types and its own resolution; the code under test uses neither of these.
"""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
import re
import sys
import uuid
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from fastavro.validation import validate
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hindscan.errors import UsageError
from hindscan.history.formats import avro, avro_block, avro_fast
from hindscan.history.formats.avro import AvroDecoder, avro_columns, is_scanned
from hindscan.history.formats.avro_arrays import finished
from hindscan.history.formats.avro_schema import parse_avro
from hindscan.history.formats.confluent import UnknownSchema, head
from hindscan.history.formats.decoder import BadValue, Misfit


def record(name: str = "r", /, **fields: Any) -> dict[str, Any]:
    """Make a schema; a field is a type, or a whole field."""
    made = []
    for field, type_ in fields.items():
        whole = isinstance(type_, dict) and "default" in type_ and "type" in type_ and type_["type"] != "enum"
        made.append({"name": field, **type_} if whole else {"name": field, "type": type_})
    return {"type": "record", "name": name, "fields": made}


def encode(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), value)
    return out.getvalue()


def values_of(*values: bytes) -> pa.LargeBinaryArray:
    return pa.array(values, pa.large_binary())


#: From how many records on not fastavro decodes them, which has the last word of a single one, and whether the compiled loop does.
COMPILED, POLARS, FASTAVRO = (2, True), (2, False), (1 << 60, False)


def decode(
    schema: Any,
    bodies: list[bytes],
    reader: Any = None,
    columns: list[str] | None = None,
    engines: tuple[tuple[int, bool], ...] = (COMPILED, POLARS, FASTAVRO),
) -> tuple[list[dict[str, Any]], list[BadValue]]:
    """Decode bodies of one writer schema to a reader's, by all engines, which must agree."""
    writer_type = parse_avro([json.dumps(schema)])
    reader_type = writer_type if reader is None else parse_avro([json.dumps(reader)])
    wanted, refused = avro_columns(reader_type)
    assert columns is not None or refused == []
    if columns is not None:
        wanted = pa.schema([wanted.field(name) for name in columns])
    found = []
    for block_from, compiled in engines:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(avro, "BLOCK_FROM", block_from)
            if reader is None:
                table, bad = AvroDecoder(wanted, reader_type, compiled=compiled).decode(values_of(*bodies))
            else:
                framed = values_of(*(head(7) + body for body in bodies))
                table, bad = AvroDecoder(wanted, reader_type, lambda _: writer_type, compiled=compiled).decode(framed)
        assert table.schema == wanted
        table.validate(full=True)
        found.append((table.to_pylist(), bad))
    last = found[-1]
    for rows, bad in found[:-1]:
        assert rows == last[0]
        assert [b.index for b in bad] == [b.index for b in last[1]]
    return last


UTC = dt.UTC
NESTED = {
    "type": "record",
    "name": "n",
    "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": ["null", "string"]}],
}


@pytest.mark.parametrize(
    ("type_", "column", "value", "expected"),
    [
        ("boolean", "bool", True, True),
        ("int", "int32", -(2**31), -(2**31)),
        ("long", "int64", 2**63 - 1, 2**63 - 1),
        ("float", "float", 0.5, 0.5),
        ("double", "double", 0.1, 0.1),
        ("bytes", "binary", b"\xff\x00", b"\xff\x00"),
        ("string", "string", "Grüße \U0001f600", "Grüße \U0001f600"),
        ({"type": "fixed", "name": "f", "size": 3}, "binary", b"\x00\xffa", b"\x00\xffa"),
        ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, "string", "B", "B"),
        (["null", {"type": "enum", "name": "e", "symbols": ["A", "B"]}], "string", "B", "B"),
        (["null", "long"], "int64", None, None),
        (["long", "null"], "int64", 5, 5),
        ({"type": "array", "items": ["null", "long"]}, "list<element: int64>", [1, None, 3], [1, None, 3]),
        (["null", {"type": "array", "items": "string"}], "list<element: string>", None, None),
        (
            {"type": "map", "values": "int"},
            "list<element: struct<key: string, value: int32>>",
            {"x": 1, "a": 2},
            [{"key": "x", "value": 1}, {"key": "a", "value": 2}],
        ),
        (NESTED, "struct<a: int32, b: string>", {"a": 1, "b": None}, {"a": 1, "b": None}),
        (["null", NESTED], "struct<a: int32, b: string>", None, None),
        ({"type": "int", "logicalType": "date"}, "date32[day]", dt.date(2018, 2, 28), dt.date(2018, 2, 28)),
        ({"type": "int", "logicalType": "time-millis"}, "time32[ms]", dt.time(1, 2, 3, 4000), dt.time(1, 2, 3, 4000)),
        ({"type": "long", "logicalType": "time-micros"}, "time64[us]", dt.time(1, 2, 3, 4), dt.time(1, 2, 3, 4)),
        (
            {"type": "long", "logicalType": "timestamp-millis"},
            "timestamp[ms, tz=UTC]",
            dt.datetime(2018, 1, 2, 3, 4, 5, 6000, UTC),
            dt.datetime(2018, 1, 2, 3, 4, 5, 6000, UTC),
        ),
        (
            ["null", {"type": "long", "logicalType": "timestamp-micros"}],
            "timestamp[us, tz=UTC]",
            dt.datetime(1918, 1, 2, 3, 4, 5, 6, UTC),
            dt.datetime(1918, 1, 2, 3, 4, 5, 6, UTC),
        ),
        (
            {"type": "long", "logicalType": "local-timestamp-micros"},
            "timestamp[us]",
            dt.datetime(2018, 1, 2, 3, 4, 5, 6),
            dt.datetime(2018, 1, 2, 3, 4, 5, 6),
        ),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2},
            "decimal128(6, 2)",
            decimal.Decimal("-1234.50"),
            decimal.Decimal("-1234.50"),
        ),
        (
            {"type": "fixed", "name": "f", "size": 20, "logicalType": "decimal", "precision": 40, "scale": 1},
            "decimal256(40, 1)",
            decimal.Decimal(10**38).scaleb(0),
            decimal.Decimal(10**38),
        ),
        (
            {"type": "string", "logicalType": "uuid"},
            "string",
            uuid.UUID(int=5),
            "00000000-0000-0000-0000-000000000005",
        ),
        (
            {"type": "array", "items": {"type": "int", "logicalType": "date"}},
            "list<element: date32[day]>",
            [dt.date(2018, 2, 28)],
            [dt.date(2018, 2, 28)],
        ),
        ({"type": "string", "logicalType": "unheard-of"}, "string", "x", "x"),
    ],
)
def test_a_type_becomes_its_column(type_: Any, column: str, value: Any, expected: Any) -> None:
    schema = record(before="int", x=type_, after="string")
    body = encode(schema, {"before": 1, "x": value, "after": "z"})
    assert str(avro_columns(parse_avro([json.dumps(schema)]))[0].field("x").type) == column
    rows, bad = decode(schema, [body] * 3)
    assert bad == []
    assert rows == [{"before": 1, "x": expected, "after": "z"}] * 3


@pytest.mark.parametrize(
    ("type_", "why"),
    [
        ("null", "null alone"),
        (["long", "string"], "a union of 2 types"),
        (["null", "long", "string"], "a union of 3 types"),
        (["null"], "a union of null alone"),
        ({"type": "array", "items": "null"}, "null alone"),
        ({"type": "array", "items": {"type": "fixed", "name": "f", "size": 0}}, "an array whose items take no bytes"),
        ({"type": "fixed", "name": "f", "size": 12, "logicalType": "duration"}, "a duration"),
        (
            {"type": "record", "name": "q", "fields": [{"name": "next", "type": ["null", "q"]}]},
            "the recursive record q in next",
        ),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 77, "scale": 0},
            "a decimal of 77 digits (at most 76)",
        ),
    ],
)
def test_a_type_that_can_be_no_column_is_named_and_can_be_left_out(type_: Any, why: str) -> None:
    schema = record(x=type_, y="long")
    assert avro_columns(parse_avro([json.dumps(schema)]))[1] == [("x", why)]
    examples: dict[str, Any] = {"null": None, "a duration": b"\0" * 12}
    value = examples.get(why, [] if "array" in str(type_) else b"" if "decimal" in why else None)
    if why == "a union of 2 types":
        value = "text"
    if "recursive" in why:
        value = {"next": {"next": None}}
    body = encode(record(x=type_ if "decimal" not in why else "bytes", y="long"), {"x": value, "y": 5})
    assert decode(schema, [body, body], columns=["y"]) == ([{"y": 5}, {"y": 5}], [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "must be an Avro schema in JSON"),
        ('"string"', "must be an Avro record"),
        ('{"type": "record", "name": "r", "fields": [{"name": "x", "type": "absent"}]}', "names the type absent"),
        ('{"type": "record", "fields": []}', "must name every record"),
        ('{"name": "r"}', "must be an Avro schema; found"),
        ('{"type": "record", "name": "r"}', "lacks or mistakes 'fields'"),
        ('{"type": "record", "name": "r", "fields": [{"name": "x"}]}', "lacks or mistakes 'type'"),
        ('{"type": "record", "name": "r", "fields": [5]}', "lacks or mistakes"),
        ('{"type": "record", "name": "r", "fields": [{"name": "a-b", "type": "int"}]}', "must have names of letters"),
        (
            '{"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}',
            "must name each field of r only once",
        ),
        ("[" * 100_000, "must be an Avro schema"),
    ],
)
def test_what_is_no_schema_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_avro([text])


def test_named_types_are_found_by_namespace_again_and_in_referred_schemas() -> None:
    money = {"type": "record", "name": "Money", "namespace": "shop", "fields": [{"name": "cents", "type": "long"}]}
    order = {
        "type": "record",
        "name": "Order",
        "namespace": "shop",
        "fields": [{"name": "net", "type": "Money"}, {"name": "tax", "type": ["null", "shop.Money"]}],
    }
    reader = parse_avro([json.dumps(money), json.dumps(order)])
    wanted, _ = avro_columns(reader)
    names: dict[str, Any] = {}
    fastavro.parse_schema(money, names)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(order, names), {"net": {"cents": 1}, "tax": {"cents": 2}})
    table, bad = AvroDecoder(wanted, reader).decode(values_of(*[out.getvalue()] * 40))
    assert bad == []
    assert table.to_pylist() == [{"net": {"cents": 1}, "tax": {"cents": 2}}] * 40


# --- Evolution --------------------------------------------------------------------------------------------------------

ENUM = {"type": "enum", "name": "e", "symbols": ["A", "B"]}


@pytest.mark.parametrize(
    ("writer", "reader", "value", "expected"),
    [
        (record(a="int", b="string"), record(b="string", a="int"), {"a": 1, "b": "x"}, {"b": "x", "a": 1}),
        (record(a="int", gone="string"), record(a="int"), {"a": 1, "gone": "x"}, {"a": 1}),
        (record(a="int"), record(a="int", new={"type": "long", "default": 5}), {"a": 1}, {"a": 1, "new": 5}),
        (
            record(a="int"),
            record(a="int", new={"type": ["null", "long"], "default": None}),
            {"a": 1},
            {"a": 1, "new": None},
        ),
        (
            record(a="int"),
            record(a="int", new={"type": "bytes", "default": "\u00ff"}),
            {"a": 1},
            {"a": 1, "new": b"\xff"},
        ),
        (record(a="int"), record(b={"type": "int", "aliases": ["a"], "default": 9}), {"a": 1}, {"b": 1}),
        (record(a="int"), record(a="long"), {"a": 1}, {"a": 1}),
        (record(a="int"), record(a="double"), {"a": 1}, {"a": 1.0}),
        (record(a="long"), record(a="float"), {"a": 2**20}, {"a": float(2**20)}),
        (record(a="float"), record(a="double"), {"a": 0.5}, {"a": 0.5}),
        (record(a="string"), record(a="bytes"), {"a": "ü"}, {"a": "ü".encode()}),
        (record(a="bytes"), record(a="string"), {"a": "ü".encode()}, {"a": "ü"}),
        (record(a="int"), record(a=["null", "long"]), {"a": 1}, {"a": 1}),
        (record(a=["null", "int"]), record(a="int"), {"a": 1}, {"a": 1}),
        (
            record(a=ENUM),
            record(a={"type": "enum", "name": "e", "symbols": ["B", "C", "A"]}),
            {"a": "A"},
            {"a": "A"},
        ),
        (
            record(a=ENUM),
            record(a={"type": "enum", "name": "e", "symbols": ["C", "A"], "default": "C"}),
            {"a": "B"},
            {"a": "C"},
        ),
        (
            record(a={"type": "array", "items": "int"}),
            record(a={"type": "array", "items": "double"}),
            {"a": [1, 2]},
            {"a": [1.0, 2.0]},
        ),
        (
            record(a={"type": "map", "values": "int"}),
            record(a={"type": "map", "values": ["null", "long"]}),
            {"a": {"k": 2}},
            {"a": [{"key": "k", "value": 2}]},
        ),
        (
            record(a=["null", record("n", x="int")]),
            record(a=["null", record("n", y={"type": "string", "default": "z"}, x="long")]),
            {"a": {"x": 1}},
            {"a": {"y": "z", "x": 1}},
        ),
        (
            record(a="long"),
            record(a={"type": "long", "logicalType": "timestamp-millis"}),
            {"a": 1000},
            {"a": dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)},
        ),
    ],
)
def test_a_record_is_resolved_to_the_reader_schema(writer: Any, reader: Any, value: Any, expected: Any) -> None:
    body = encode(writer, value)
    assert decode(writer, [body] * 3, reader) == ([expected] * 3, [])


@pytest.mark.parametrize(
    ("writer", "reader", "value", "field", "why"),
    [
        (record(a="int"), record(a="int", b="int"), {"a": 1}, "b", "no default"),
        (record(a="string"), record(a="int"), {"a": "1"}, "a", "string cannot be read as int"),
        (record(a="double"), record(a="float"), {"a": 1.0}, "a", "double cannot be read as float"),
        (record(a="long"), record(a="double"), {"a": 2**53 + 1}, "a", "long does not survive as double"),
        (record(a="bytes"), record(a="string"), {"a": b"\xff"}, "a", "bytes does not survive as string"),
        (record(a=["null", "int"]), record(a="int"), {"a": None}, "a", "is null"),
        (record(a=ENUM), record(a={"type": "enum", "name": "e", "symbols": ["A"]}), {"a": "B"}, "a", "is 'B'"),
        (
            record(a={"type": "long", "logicalType": "timestamp-millis"}),
            record(a={"type": "long", "logicalType": "timestamp-micros"}),
            {"a": dt.datetime(2018, 1, 1, tzinfo=UTC)},
            "a",
            "timestamp-millis cannot be read as timestamp-micros",
        ),
        (
            record(a={"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}),
            record(a={"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 1}),
            {"a": decimal.Decimal("1.25")},
            "a",
            r"decimal\(4, 2\) cannot be read as decimal\(4, 1\)",
        ),
        (record(a=record("n", x="int")), record(a=record("m", x="int")), {"a": {"x": 1}}, "a", "record n"),
        (record(a=record("n", x="int")), record(a=record("n", y="int")), {"a": {"x": 1}}, "a.y", "no default"),
        (
            record(a=record("n", x=["null", "int"])),
            record(a=record("n", x="int")),
            {"a": {"x": None}},
            "a.x",
            "is null",
        ),
    ],
)
def test_what_cannot_be_resolved_is_bad_with_its_field(
    writer: Any, reader: Any, value: Any, field: str, why: str
) -> None:
    rows, bad = decode(writer, [encode(writer, value)] * 2, reader)
    assert rows == []
    assert [b.field for b in bad] == [field, field]
    assert re.search(why, bad[0].reason), bad[0].reason


def test_a_null_record_hides_that_its_fields_may_not_be_null() -> None:
    writer = record(a=["null", record("n", x=["null", "int"])])
    reader = record(a=["null", record("n", x="int")])
    assert decode(writer, [encode(writer, {"a": None})] * 2, reader) == ([{"a": None}] * 2, [])
    # An engine may lay nulls or anything else where there is no record.
    array = pa.StructArray.from_arrays([pa.array([None, 1], pa.int32())], names=["x"], mask=pa.array([True, False]))
    source, target = (parse_avro([json.dumps(each)]).fields[0] for each in (writer, reader))
    assert finished(array, source.type, target).to_pylist() == [None, {"x": 1}]
    with pytest.raises(Misfit, match="is null"):
        finished(pa.array([{"x": None}], array.type), source.type, target)


def test_records_of_several_writers_keep_their_order() -> None:
    one, two = record(a="int"), record(a="long", b="string")
    reader = parse_avro([json.dumps(record(a="long", b={"type": "string", "default": "none"}))])
    writers = {1: parse_avro([json.dumps(one)]), 2: parse_avro([json.dumps(two)])}

    def known(schema_id: int) -> Any:
        if schema_id not in writers:
            raise UnknownSchema(f"schema id {schema_id} is not in the registry")
        return writers[schema_id]

    values: list[bytes] = []
    for n in range(200):
        match n % 5:
            case 0 | 3:
                values.append(head(1) + encode(one, {"a": n}))
            case 4 if n == 104:
                values.append(head(3) + b"?")
            case 4 if n == 109:
                values.append(b"\x01" + head(1)[1:] + b"\x02")
            case 4 if n == 114:
                values.append(b"\x00\x00")
            case 4 if n == 119:
                values.append(head(2) + encode(two, {"a": n, "b": "x"})[:-1])
            case _:
                values.append(head(2) + encode(two, {"a": n, "b": "x"}))
    wanted, _ = avro_columns(reader)
    table, bad = AvroDecoder(wanted, reader, known).decode(values_of(*values))
    assert [(b.index, b.reason.partition(";")[0]) for b in bad] == [
        (104, "schema id 3 is not in the registry"),
        (109, "begins with byte 0x01"),
        (114, "has 2 bytes"),
        (119, "is no record of its schema: it ends before its last field does"),
    ]
    rows = [n for n in range(200) if n not in (104, 109, 114, 119)]
    assert table.to_pylist() == [{"a": n, "b": "none" if n % 5 in (0, 3) else "x"} for n in rows]


# --- Bad bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        (record(x="string"), b"\x04\xff\xfe"),
        (record(x="string"), b"\x14abc"),
        (record(x="string"), b"\x09abc"),
        (record(x="int"), b"\x80\x80\x80\x80\x80\x80\x01"),
        (record(x="long"), b"\x80"),
        (record(x="long"), b"\x02\x02"),
        (record(x="long"), b""),
        (record(x=ENUM), b"\x0e"),
        (record(x=ENUM), b"\x01"),
        (record(x="boolean"), b"\x02"),
        (record(x={"type": "array", "items": "boolean"}), b"\x02\xff\x00"),
        (record(x={"type": "array", "items": "double"}), b"\x80\x20" + b"\x00" * 64),
        (record(x={"type": "fixed", "name": "f", "size": 4}), b"abc"),
        (record(x={"type": "array", "items": "long"}), b"\x80\x80\x80\x80\x80\x80\x80\x10\x02\x00"),
        (record(x={"type": "int", "logicalType": "time-millis"}), b"\xff\xff\xff\xff\x0f"),
        (record(x={"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 0}), b"\x02\x64"),
    ],
)
def test_bytes_that_are_no_record_are_bad_and_their_neighbours_are_not(schema: Any, body: bytes) -> None:
    examples = {"string": "ok", "int": 1, "long": 1, "boolean": True}
    kind = schema["fields"][0]["type"]
    good_value = examples.get(kind) if isinstance(kind, str) else None
    if good_value is None:
        logical = kind.get("logicalType")
        good_value = {"enum": "A", "fixed": b"abcd", "array": [1], "int": dt.time(1), "bytes": decimal.Decimal(9)}[
            kind["type"]
        ]
        assert logical in (None, "time-millis", "decimal")
    good = encode(schema, {"x": good_value})
    rows, bad = decode(schema, [good] * 5 + [body] + [good] * 5)
    assert len(rows) == 10
    assert [b.index for b in bad] == [5]
    assert bad[0].reason
    assert " at 0x" not in bad[0].reason, "a reason is the same in every process"


def test_a_shift_by_one_damaged_record_cannot_go_unseen() -> None:
    """A byte too many here and one too few there: the block as a whole has the right length."""
    schema = record(a="long", b="long")
    bodies = [encode(schema, {"a": n % 60, "b": 1}) for n in range(100)]
    bodies[40] += b"\x02"
    bodies[41] = bodies[41][1:]
    rows, bad = decode(schema, bodies)
    assert [b.index for b in bad] == [40, 41]
    assert len(rows) == 98


def test_a_batch_of_bad_records_tries_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    read = avro_block.Block.read

    def counting(self: avro_block.Block, values: Any) -> Any:
        tried.append(len(values))
        return read(self, values)

    monkeypatch.setattr(avro_block.Block, "read", counting)
    schema = record(a="long", b="string")
    reader = parse_avro([json.dumps(schema)])
    bodies = [encode(schema, {"a": n, "b": "text"})[: None if n % 3 else -1] for n in range(6000)]
    decoder = AvroDecoder(avro_columns(reader)[0], reader)
    for _ in range(2):  # and the next batch begins anew
        tried.clear()
        table, bad = decoder.decode(values_of(*bodies))
        assert table["a"].to_pylist() == [n for n in range(6000) if n % 3]
        assert [b.index for b in bad] == [n for n in range(6000) if not n % 3]
        assert len(tried) == avro.FAILED_BLOCKS


def test_the_fast_engine_is_used_where_it_can_be_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    read = avro_block.Block.read

    def counting(self: avro_block.Block, values: Any) -> Any:
        counts.append(len(values))
        return read(self, values)

    monkeypatch.setattr(avro_block.Block, "read", counting)
    plain, union = record(a="long"), record(a="long", u=["long", "string"])
    for schema, value in ((plain, {"a": 1}), (union, {"a": 1, "u": "x"})):
        reader = parse_avro([json.dumps(schema)])
        wanted = avro_columns(reader)[0]
        table, bad = AvroDecoder(wanted, reader).decode(values_of(*[encode(schema, value)] * 100))
        assert (table["a"].to_pylist(), bad) == ([1] * 100, [])
    assert counts == [100]


def test_the_compiled_loop_is_used_where_it_can_be_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    read = avro_fast.Scan.read

    def counting(self: avro_fast.Scan, values: Any) -> Any:
        counts.append(len(values))
        return read(self, values)

    monkeypatch.setattr(avro_fast.Scan, "read", counting)
    union = record(a="long", u=["long", "string"])
    nested = record(a="long", n=["null", NESTED], m={"type": "array", "items": {"type": "map", "values": "n"}})
    value = {"a": 1, "u": "x", "n": {"a": 2, "b": None}, "m": [{"k": {"a": 3, "b": "z"}}, {}]}
    for schema, columns in ((nested, ["a"]), (nested, ["a", "n"]), (union, ["a"])):
        reader = parse_avro([json.dumps(schema)])
        wanted = pa.schema([avro_columns(reader)[0].field(name) for name in columns])
        values = values_of(*[encode(schema, value)] * 100)
        table, bad = AvroDecoder(wanted, reader, compiled=True).decode(values)
        assert (table["a"].to_pylist(), bad) == ([1] * 100, [])
        assert is_scanned(reader, columns) == (columns == ["a"] and schema is nested)
    assert counts == [100]


# --- Properties -------------------------------------------------------------------------------------------------------

_names = st.sampled_from(["a", "b", "c", "d"])
_leaf = st.sampled_from(
    [
        "boolean",
        "int",
        "long",
        "float",
        "double",
        "bytes",
        "string",
        {"type": "int", "logicalType": "date"},
        {"type": "long", "logicalType": "timestamp-micros"},
        {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3},
    ]
)


def _numbered(schema: Any, counter: list[int]) -> Any:
    """Give each named type a name of its own."""
    if isinstance(schema, list):
        return [_numbered(each, counter) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: _numbered(each, counter) if key in ("items", "values", "type") else each for key, each in schema.items()
    }
    if "name" in made:
        counter[0] += 1
        made["name"] = f"n{counter[0]}"
    if "fields" in made:
        made["fields"] = [{**each, "type": _numbered(each["type"], counter)} for each in made["fields"]]
    return made


def _record_of(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": "n", "fields": [{"name": k, "type": v} for k, v in fields.items()]}


_types = st.recursive(
    _leaf
    | st.just({"type": "enum", "name": "n", "symbols": ["A", "B", "C"]})
    | st.just({"type": "fixed", "name": "n", "size": 5}),
    lambda inner: (
        inner.map(lambda t: {"type": "array", "items": t})
        | inner.map(lambda t: {"type": "map", "values": t})
        | st.dictionaries(_names, inner, min_size=1, max_size=3).map(_record_of)
        | inner.filter(lambda t: not isinstance(t, list)).map(lambda t: ["null", t])
        | inner.filter(lambda t: not isinstance(t, list)).map(lambda t: [t, "null"])
    ),
    max_leaves=5,
)
_schemas = st.dictionaries(_names, _types, min_size=1, max_size=4).map(lambda f: _numbered(_record_of(f), [0]))


def _value(draw: Any, schema: Any) -> Any:
    if isinstance(schema, list):
        branch = draw(st.sampled_from(schema))
        return None if branch == "null" else _value(draw, branch)
    kind, logical = (schema, None) if isinstance(schema, str) else (schema["type"], schema.get("logicalType"))
    match logical or kind:
        case "boolean":
            return draw(st.booleans())
        case "int":
            return draw(st.integers(-(2**31), 2**31 - 1))
        case "long":
            return draw(st.integers(-(2**63), 2**63 - 1))
        case "float":
            return draw(st.floats(width=32, allow_nan=False))
        case "double":
            return draw(st.floats(allow_nan=False))
        case "bytes":
            return draw(st.binary(max_size=6))
        case "string":
            return draw(st.text(max_size=6))
        case "date":
            return draw(st.dates())
        case "timestamp-micros":
            return draw(st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))).replace(tzinfo=UTC)
        case "decimal":
            return decimal.Decimal(draw(st.integers(-(10**9) + 1, 10**9 - 1))).scaleb(-3)
        case "enum":
            return draw(st.sampled_from(schema["symbols"]))
        case "fixed":
            return draw(st.binary(min_size=5, max_size=5))
        case "array":
            return [_value(draw, schema["items"]) for _ in range(draw(st.integers(0, 3)))]
        case "map":
            return {key: _value(draw, schema["values"]) for key in draw(st.sets(st.text(max_size=2), max_size=3))}
    return {each["name"]: _value(draw, each["type"]) for each in schema["fields"]}


def _as_read(schema: Any, value: Any) -> Any:
    """What a column holds of what fastavro reads: maps are pairs."""
    if value is None:
        return None
    if isinstance(schema, list):
        return _as_read(next(branch for branch in schema if branch != "null"), value)
    if isinstance(schema, str):
        return value
    match schema["type"]:
        case "array":
            return [_as_read(schema["items"], each) for each in value]
        case "map":
            return [{"key": key, "value": _as_read(schema["values"], each)} for key, each in value.items()]
        case "record":
            return {each["name"]: _as_read(each["type"], value[each["name"]]) for each in schema["fields"]}
    return value


@settings(max_examples=120)
@given(_schemas, st.data())
def test_columns_are_what_fastavro_reads(schema: dict[str, Any], data: st.DataObject) -> None:
    records = [_value(data.draw, schema) for _ in range(data.draw(st.integers(1, 4)))]
    assume(all(validate(each, fastavro.parse_schema(schema), raise_errors=False) for each in records))
    bodies = [encode(schema, each) for each in records]
    oracle = [fastavro.schemaless_reader(io.BytesIO(body), fastavro.parse_schema(schema)) for body in bodies]
    columns = data.draw(st.lists(st.sampled_from([f["name"] for f in schema["fields"]]), unique=True, min_size=1))
    rows, bad = decode(schema, bodies, columns=columns)
    assert bad == []
    expected = [_as_read(schema, each) for each in oracle]
    assert rows == [{name: each[name] for name in columns} for each in expected]


def damaged(data: st.DataObject, good: bytes) -> list[bytes]:
    """Give some bodies of which a few were flipped, cut or added to."""
    bodies = [good] * 6
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 5))
        body = bytearray(bodies[at])
        match data.draw(st.sampled_from(["flip", "cut", "add"])):
            case "flip" if body:
                body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
            case "cut" if body:
                del body[data.draw(st.integers(0, len(body) - 1)) :]
            case _:
                body += data.draw(st.binary(min_size=1, max_size=4))
        bodies[at] = bytes(body)
    return bodies


@pytest.mark.parametrize("columns", [None, ["a", "b", "c", "e"]])
@settings(max_examples=100)
@given(data=st.data())
def test_damaged_bodies_are_judged_alike_by_all_engines(columns: list[str] | None, data: st.DataObject) -> None:
    schema = record(a="long", b=ENUM, c="string", d={"type": "array", "items": "int"}, e="double")
    good = encode(schema, {"a": 300, "b": "B", "c": "word", "d": [1, 70000], "e": 0.5})
    decode(schema, damaged(data, good), columns=columns)  # asserts that all agree on rows and on which are bad


@pytest.mark.parametrize("columns", [["a", "b", "c", "d"], ["d"]])
@settings(max_examples=300)
@given(data=st.data())
def test_the_compiled_loop_judges_damaged_branches_and_pairs_as_fastavro_does(
    columns: list[str], data: st.DataObject
) -> None:
    inner = record("n", x="int", y=["null", "bytes"], z={"type": "fixed", "name": "f", "size": 2})
    schema = record(
        a=["null", "long"], b=["boolean", "null"], m={"type": "map", "values": {"type": "array", "items": inner}}, n=["n", "null"],
        c=["null", "string"], d="float",
    )  # fmt: skip
    some = {"x": 5, "y": b"?", "z": b"zz"}
    value = {"a": 300, "b": None, "m": {"k": [some, some], "l": []}, "n": some, "c": "word", "d": 0.5}
    decode(schema, damaged(data, encode(schema, value)), columns=columns, engines=(COMPILED, FASTAVRO))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["int", "long", "double", "string"])), min_size=1, max_size=4
    ),
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["int", "long", "double", "string"])), min_size=1, max_size=4
    ),
)
def test_resolution_agrees_with_fastavro(written: list[tuple[str, str]], read: list[tuple[str, str]]) -> None:
    values: dict[str, Any] = {"int": 7, "long": 2**40, "double": 0.5, "string": "x"}
    defaults: dict[str, Any] = {"int": 1, "long": 2, "double": 3.0, "string": "d"}
    writer = record(**dict(written))
    reader = record(**{name: {"type": t, "default": defaults[t]} for name, t in dict(read).items()})
    body = encode(writer, {name: values[t] for name, t in dict(written).items()})
    try:
        expected = fastavro.schemaless_reader(
            io.BytesIO(body), fastavro.parse_schema(writer), fastavro.parse_schema(reader)
        )
    except Exception:
        expected = None
    rows, bad = decode(writer, [body] * 2, reader)
    assert (rows, len(bad)) == (([expected] * 2, 0) if expected is not None else ([], 2))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastavro", None)
    reader = parse_avro([json.dumps(record(a="int"))])
    with pytest.raises(UsageError, match=r"format avro needs the library fastavro.*pip install 'hindscan\[avro\]'"):
        AvroDecoder(avro_columns(reader)[0], reader)


def test_without_the_fast_engine_the_same_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avro_block, "installed", lambda: False)
    monkeypatch.setattr(avro_block.Block, "read", lambda *_: pytest.fail("polars is not there"))
    schema = record(a="long")
    reader = parse_avro([json.dumps(schema)])
    values = values_of(*(encode(schema, {"a": n}) for n in range(100)))
    table, bad = AvroDecoder(avro_columns(reader)[0], reader).decode(values)
    assert (table["a"].to_pylist(), bad) == (list(range(100)), [])


def test_confluents_own_serializer_is_understood() -> None:
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroSerializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    client = SchemaRegistryClient.new_client({"url": "mock://avro-serializer"})
    schema = record(a="long", at={"type": "long", "logicalType": "timestamp-millis"}, e=["null", ENUM])
    serializer = AvroSerializer(client, json.dumps(schema))
    row = {"a": 5, "at": dt.datetime(2018, 1, 2, tzinfo=UTC), "e": "B"}
    value = serializer(row, SerializationContext("bids", MessageField.VALUE))
    number = int.from_bytes(value[1:5], "big")

    def registered(schema_id: int) -> Any:
        assert schema_id == number
        return parse_avro([str(client.get_schema(schema_id).schema_str)])

    reader = parse_avro([json.dumps(schema)])
    table, bad = AvroDecoder(avro_columns(reader)[0], reader, registered).decode(values_of(*[value] * 40))
    assert (table.to_pylist(), bad) == ([row] * 40, [])
