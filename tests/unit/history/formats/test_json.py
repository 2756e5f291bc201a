"""Decoding: exactly what a value says, or an error that names the field."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindscan.history.columns import parse_type, schema_from_columns
from hindscan.history.formats.decoder import BadValue
from hindscan.history.formats.json import JsonDecoder, json_column_faults
from hindscan.history.formats.raw import RawDecoder, raw_column_faults


def decode(columns: dict[str, str], *values: bytes | object) -> tuple[list[dict[str, Any]], list[BadValue]]:
    raw = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    table, bad = JsonDecoder(schema_from_columns(columns)).decode(pa.array(raw, pa.large_binary()))
    return table.to_pylist(), bad


def one(type_: str, value: object) -> Any:
    """Decode one value of one column, or give the reason why not."""
    rows, bad = decode({"x": type_}, value if isinstance(value, bytes) else {"x": value})
    assert len(rows) + len(bad) == 1
    return bad[0] if bad else rows[0]["x"]


UTC = dt.UTC


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ("int64", 2**63 - 1, 2**63 - 1),
        ("int64", -(2**63), -(2**63)),
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("int8", -128, -128),
        ("double", 1, 1.0),
        ("double", 0.1, 0.1),
        ("float", 0.5, 0.5),
        ("bool", True, True),
        ("string", "Grüße \u0000 \U0001f600", "Grüße \u0000 \U0001f600"),
        ("binary", base64.b64encode(b"\x00\xff").decode(), b"\x00\xff"),
        ("decimal128(6, 2)", "1234.50", decimal.Decimal("1234.50")),
        ("decimal128(6, 2)", b'{"x": 0.1}', decimal.Decimal("0.10")),
        ("decimal128(6, 2)", b'{"x": 1.5e2}', decimal.Decimal("150.00")),
        ("decimal128(6, 2)", b'{"x": -7}', decimal.Decimal("-7.00")),
        ("decimal128(2, 2)", b'{"x": 0e2}', decimal.Decimal("0.00")),
        ("decimal128(6, 2)", b'{"x": 0E-400}', decimal.Decimal("0.00")),
        (
            "decimal128(38, 20)",
            b'{"x": 123456789012345678.12345678901234567890}',
            decimal.Decimal("123456789012345678.12345678901234567890"),
        ),
        ("int64", b'{"x": 1, "x": 2}', 2),
        ("date32", "2018-02-28", dt.date(2018, 2, 28)),
        ("date32", 1, dt.date(1970, 1, 2)),
        ("timestamp[us, UTC]", "2018-01-02T03:04:05.678901Z", dt.datetime(2018, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)),
        ("timestamp[us, UTC]", "2018-01-02T03:04:05+02:00", dt.datetime(2018, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("timestamp[us, UTC]", "2018-01-02T03:04:05+0200", dt.datetime(2018, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("timestamp[us, UTC]", "2018-01-02T03:04:05-00:00", dt.datetime(2018, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("timestamp[us, UTC]", "2018-01-02T03:04", dt.datetime(2018, 1, 2, 3, 4, tzinfo=UTC)),
        ("timestamp[us, UTC]", "2018-01-02 03:04:05", dt.datetime(2018, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("timestamp[us, UTC]", "2018-01-02", dt.datetime(2018, 1, 2, tzinfo=UTC)),
        ("timestamp[us]", "2018-01-02T03:04:05+02:00", dt.datetime(2018, 1, 2, 1, 4, 5)),
        ("timestamp[ms, UTC]", 1500, dt.datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)),
        ("timestamp[s, UTC]", 1500, dt.datetime(1970, 1, 1, 0, 25, tzinfo=UTC)),
        ("list<int64>", [1, None, 3], [1, None, 3]),
        (
            "list<timestamp[us, UTC]>",
            ["1970-01-01", 5],
            [dt.datetime(1970, 1, 1, tzinfo=UTC), dt.datetime(1970, 1, 1, 0, 0, 0, 5, tzinfo=UTC)],
        ),
        (
            "struct<a: int64, b: list<struct<c: string>>>",
            {"a": 1, "b": [{"c": "x"}, None, {}]},
            {"a": 1, "b": [{"c": "x"}, None, {"c": None}]},
        ),
        ("struct<a: int64>", {"a": 1, "extra": [1, {"b": 2}]}, {"a": 1}),
    ],
)
def test_a_value_becomes_what_it_says(type_: str, value: object, expected: object) -> None:
    assert one(type_, value) == expected


@pytest.mark.parametrize(
    ("type_", "value", "field"),
    [
        ("int64", "1", "x"),
        ("int64", 1.5, "x"),
        ("int64", 1.0, "x"),
        ("int64", True, "x"),
        ("int64", 2**63, "x"),
        ("int64", -(2**63) - 1, "x"),
        ("uint64", -1, "x"),
        ("uint64", 2**64, "x"),
        ("int8", 128, "x"),
        ("double", "0.5", "x"),
        ("double", b'{"x": 1e999}', "x"),
        ("float", 1e39, "x"),
        ("bool", 1, "x"),
        ("string", 5, "x"),
        ("string", {"a": 1}, "x"),
        ("binary", "not base64!", "x"),
        ("decimal128(6, 2)", "1.005", "x"),
        ("decimal128(6, 2)", "99999.99", "x"),
        ("decimal128(6, 2)", "NaN", "x"),
        ("decimal128(6, 2)", b'{"x": 1e400}', "x"),
        ("decimal128(19, 4)", b'{"x": 5e-324}', "x"),
        ("decimal128(38, 38)", b'{"x": 1e-77}', "x"),
        ("decimal128(6, 2)", True, "x"),
        ("int64", b'{"x": 1e2}', "x"),
        ("int64", b'{"x": 123456789012345678901234567890}', "x"),
        ("timestamp[us, UTC]", "2018-01-02T24:00:00Z", "x"),
        ("timestamp[us, UTC]", "2018-01-02T03:04:60Z", "x"),
        ("timestamp[us, UTC]", "20180102T030405Z", "x"),
        ("timestamp[us, UTC]", " 2018-01-02T03:04:05Z", "x"),
        ("timestamp[us, UTC]", b'{"x": 9223372036854775808}', "x"),
        ("timestamp[us, UTC]", True, "x"),
        ("date32", "2018-02-30", "x"),
        ("date32", "2018-02-28T00:00:00", "x"),
        ("timestamp[us, UTC]", "yesterday", "x"),
        ("timestamp[us, UTC]", "2018-02-30T00:00:00Z", "x"),
        ("timestamp[us, UTC]", "2018-01-02T03:04:05.1234567Z", "x"),
        ("timestamp[us, UTC]", 1.5, "x"),
        ("timestamp[us, UTC]", "", "x"),
        ("timestamp[ns, UTC]", "3000-01-01T00:00:00Z", "x"),
        ("list<int64>", [1, "2"], "x[...]"),
        ("list<int64>", {"0": 1}, "x"),
        ("list<int8>", [1, 1000], "x[...]"),
        ("struct<a: struct<b: int64>>", {"a": {"b": "c"}}, "x.a.b"),
        ("struct<a: struct<b: int8>>", {"a": {"b": 300}}, "x.a.b"),
        ("struct<a: int64 not null>", {}, "x.a"),
        ("int64 not null", None, "x"),
        ("int64 not null", b"{}", "x"),
    ],
)
def test_a_value_that_does_not_fit_is_bad_and_names_its_field(type_: str, value: object, field: str) -> None:
    found = one(type_, value)
    assert isinstance(found, BadValue), found
    assert found.field.replace("[1]", "[...]") == field
    assert found.reason


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"{",
        b'{"x": 1',
        b'{"x": 1} ',
        b'{"x": 1} x',
        b'{"x": 1}{"x": 2}',
        b'{"x": 1}\n{"x": 2}',
        b'{"x": NaN}',
        b'{"x": Infinity}',
        b'{"x": 01}',
        b"{'x': 1}",
        b'{"x": 1,}',
        b'{"y": NaN}',
        b'\xef\xbb\xbf{"x": 1}',
        b"[1]",
        b"null",
        b"1",
        b'"x"',
        b'{"y": "\\ud800"}',
        b'{"y": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        '{"x": 1}'.encode("utf-16"),
    ],
)
def test_a_record_is_one_whole_json_object(value: bytes) -> None:
    found = one("int64", value)
    if value == b'{"x": 1} ':  # white space around it is JSON
        assert found == 1
    else:
        assert isinstance(found, BadValue), found


def test_text_that_is_no_utf8_is_bad() -> None:
    assert isinstance(one("string", b'{"x": "\xff"}'), BadValue)
    assert isinstance(one("string", b'{"x": "\\ud800"}'), BadValue)


def test_missing_and_null_are_null_and_other_fields_are_skipped() -> None:
    rows, bad = decode({"a": "int64", "b": "string"}, {"a": 1}, {"b": None}, {"c": 5, "b": "x"}, {})
    assert bad == []
    assert rows == [{"a": 1, "b": None}, {"a": None, "b": None}, {"a": None, "b": "x"}, {"a": None, "b": None}]


def test_only_the_columns_asked_for_are_decoded() -> None:
    rows, bad = decode({"a": "int64"}, {"a": 1, "b": "of no matter"}, {"a": 2, "b": 3})
    assert (rows, bad) == ([{"a": 1}, {"a": 2}], [])


def test_names_need_not_be_identifiers() -> None:
    names = {"class": "int64", "two words": "int64", "f0": "int64", "ünï": "int64"}
    row = {name: number for number, name in enumerate(names)}
    assert decode(names, row) == ([row], [])


@given(bad_at=st.sets(st.integers(0, 39)), count=st.integers(0, 40))
def test_bad_records_are_found_one_by_one_wherever_they_stand(bad_at: set[int], count: int) -> None:
    values = [{"x": "bad" if n in bad_at else n} for n in range(count)]
    rows, bad = decode({"x": "int64"}, *values)
    assert [row["x"] for row in rows] == [n for n in range(count) if n not in bad_at]
    assert [b.index for b in bad] == [n for n in range(count) if n in bad_at]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**66), 2**66)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abx"), inner, max_size=3),
    max_leaves=6,
)


def fits(value: Any, type_: pa.DataType) -> bool:
    """Say by Python's own json what a column takes: the oracle."""
    if value is None:
        return True
    if type_ == pa.int64():
        return type(value) is int and -(2**63) <= value < 2**63
    if type_ == pa.float64():
        return type(value) is float or (type(value) is int and math.isfinite(float(value)))
    if type_ == pa.string():
        return type(value) is str
    if type_ == pa.bool_():
        return type(value) is bool
    if pa.types.is_list(type_):
        return type(value) is list and all(fits(item, type_.value_type) for item in value)  # type: ignore[attr-defined]
    return type(value) is dict and all(fits(value.get(f.name), f.type) for f in type_.fields)  # type: ignore[attr-defined]


def as_read(value: Any, type_: pa.DataType) -> Any:
    if value is None:
        return None
    if type_ == pa.float64():
        return float(value)
    if pa.types.is_list(type_):
        return [as_read(item, type_.value_type) for item in value]  # type: ignore[attr-defined]
    if pa.types.is_struct(type_):
        return {f.name: as_read(value.get(f.name), f.type) for f in type_.fields}  # type: ignore[attr-defined]
    return value


@settings(max_examples=300)
@given(
    values=st.lists(JSON_VALUES, max_size=8),
    type_=st.sampled_from(["int64", "double", "string", "bool", "list<int64>", "struct<a: int64, b: list<double>>"]),
)
def test_decoding_agrees_with_pythons_json(values: list[Any], type_: str) -> None:
    kind = parse_type(type_).type
    rows, bad = decode({"x": type_}, *({"x": value} for value in values))
    assert [b.index for b in bad] == [n for n, value in enumerate(values) if not fits(value, kind)]
    assert [row["x"] for row in rows] == [as_read(value, kind) for value in values if fits(value, kind)]


@given(st.lists(st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)), min_size=1, max_size=6), st.data())
def test_times_of_every_spelling_mix_in_one_column(times: list[dt.datetime], data: st.DataObject) -> None:
    def spell(time: dt.datetime) -> object:
        match data.draw(st.sampled_from(["naive", "z", "offset", "space", "number"])):
            case "naive":
                return time.isoformat()
            case "z":
                return time.isoformat() + "Z"
            case "offset":
                return time.replace(tzinfo=UTC).astimezone(dt.timezone(dt.timedelta(hours=-3, minutes=-30))).isoformat()
            case "space":
                return time.isoformat(" ")
        return (time - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)

    rows, bad = decode({"t": "timestamp[us, UTC]"}, *({"t": spell(time)} for time in times))
    assert bad == []
    assert [row["t"] for row in rows] == [time.replace(tzinfo=UTC) for time in times]


def test_bytes_are_one_column_as_they_are() -> None:
    table, bad = RawDecoder(pa.schema([("value", pa.binary())])).decode(pa.array([b"\xff", b""], pa.large_binary()))
    assert (table.to_pylist(), bad) == ([{"value": b"\xff"}, {"value": b""}], [])
    table, bad = RawDecoder(pa.schema([("value", pa.string())])).decode(pa.array([b"ok", b"\xff"], pa.large_binary()))
    assert table.to_pylist() == [{"value": "ok"}]
    assert [b.index for b in bad] == [1]


def test_columns_a_format_cannot_give_are_named() -> None:
    assert (
        json_column_faults(pa.schema([("a", pa.map_(pa.string(), pa.int64())), ("b", pa.int64())]))[0][0] == "columns.a"
    )
    assert json_column_faults(pa.schema([('q"uote', pa.int64())]))[0][0] == 'columns.q"uote'
    assert raw_column_faults(schema_from_columns({"value": "binary"})) == []
    assert raw_column_faults(schema_from_columns({"price": "int64"}))[0][0] == "columns"
