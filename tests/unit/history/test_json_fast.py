"""The compiled decoder gives what the reference gives, record for record, whatever the records are."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hindscan.history.formats.json import JsonDecoder
from hindscan.history.json_fast import FastJson, can_scan, layout_of

KINDS: dict[str, pa.DataType] = {
    "i": pa.int64(),
    "b": pa.int8(),
    "u": pa.uint32(),
    "s": pa.string(),
    "us": pa.timestamp("us", "UTC"),
    "ns": pa.timestamp("ns"),
    "t": pa.bool_(),
    "f": pa.float64(),
}
NUMBERS = [
    "0", "-0", "1", "-1", "127", "128", "-128", "-129", "4294967295", "4294967296", "999999999999999999", "1000000000000000000", "9223372036854775807",
    "9223372036854775808", "-9223372036854775808", "00", "01", "-", "+1", "1.", ".5", "1.0", "0.1", "-0.0", "1e3", "1E-2", "1e999", "2.2250738585072014e-308",
    "0.1234567890123456789", "123456789012345678901234.5", "NaN", "Infinity", "0x1",
]  # fmt: skip
TIMES = [
    "2018-01-01T00:00:00Z", "2018-01-01 00:00:00", "2018-02-29T00:00:00Z", "2016-02-29T23:59:59.999999Z", "2018-01-01T00:00:00.123456789Z", "1969-12-31T23:59:59Z",
    "2199-12-31T23:59:59Z", "2200-01-01T00:00:00Z", "2018-01-01T00:00:00+02:00", "2018-01-01T00:00:00.1", "2018-01-01T00:00:00.", "2018-01-01T24:00:00Z", "2018-01-01",
    "2018-01-01T00:00Z", "2018-13-01T00:00:00Z", "2018-04-31T00:00:00Z", "2018-01-01T00:00:60Z", "2018-01-01T00:00:00z", "2100-02-29T00:00:00Z", "2018/01/01T00:00:00Z",
    "2018-01-01T00:00:00.12345Z ", "20180101T000000Z", "2018-1-01T00:00:00Z", "", "x",
]  # fmt: skip
TEXTS = [
    '"a"',
    '""',
    '"é€😀"',
    '"\\u00e9"',
    '"\\n"',
    '"a\\"b"',
    '"tab\tin"',
    '"' + "x" * 70 + '"',
    '"\x7f"',
    '"unclosed',
    '"12345678"',
    '"1234567\\\\"',
    '"\\ud800"',
]
OTHERS = [
    "null",
    "true",
    "false",
    "nul",
    "True",
    "[]",
    "{}",
    "[1, 2]",
    '{"a": [1, {"b": null}]}',
    "[1,]",
    "{,}",
    "[" * 30 + "]" * 30,
    '[[], {"x": {}}, ""]',
    '{"a" 1}',
]
VALUES = st.sampled_from(NUMBERS + TEXTS + OTHERS + [json.dumps(time) for time in TIMES]) | st.integers(
    -(10**20), 10**20
).map(str)
VALUES |= st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.text(max_size=12).map(json.dumps)
VALUES |= st.text(max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False))
SPACE = st.sampled_from(["", "", "", " ", "\n", "\t ", "\r\n"])
NAMES = st.sampled_from([*KINDS, "extra", "ii", "", "\\u0069"])
#: Values that fit the column most of the time, so that whole records do.
FITTING: dict[str, st.SearchStrategy[str]] = {
    "i": st.integers(-(1 << 63), (1 << 63) - 1).map(str),
    "b": st.integers(-128, 127).map(str),
    "u": st.integers(0, (1 << 32) - 1).map(str),
    "s": st.text(max_size=20).map(lambda text: json.dumps(text, ensure_ascii=False)),
    "us": st.sampled_from(TIMES[:2] + TIMES[6:7]).map(json.dumps) | st.integers(0, 10**15).map(str),
    "ns": st.datetimes().map(lambda at: json.dumps(at.isoformat())) | st.integers(0, 10**18).map(str),
    "t": st.booleans().map(json.dumps),
    "f": st.floats(-1e6, 1e6).map(repr) | st.integers(-1000, 1000).map(str),
    "extra": VALUES,
}


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    members = []
    for name in draw(st.lists(st.sampled_from(list(FITTING)), max_size=9, unique=draw(st.integers(0, 4)) > 0)):
        value = draw(FITTING[name] if draw(st.integers(0, 5)) else VALUES)
        members.append(f'{draw(SPACE)}"{name}"{draw(SPACE)}:{draw(SPACE)}{value}{draw(SPACE)}')
    if draw(st.integers(0, 5)) == 0:
        members.append(f'"{draw(NAMES)}":{draw(VALUES)}')
    text = f"{draw(SPACE)}{{{','.join(members)}{draw(SPACE)}}}{draw(SPACE)}"
    content = text.encode("utf-8", "surrogatepass")
    match draw(st.integers(0, 7)):
        case 0 if content:
            at = draw(st.integers(0, len(content) - 1))
            return content[:at] + draw(st.binary(max_size=2)) + content[at + draw(st.integers(0, 2)) :]
        case 1:
            return content[: draw(st.integers(0, len(content)))]
        case 2:
            return content + draw(st.sampled_from([b" ", b"{}", b"x", b"\x00", b","]))
    return content


@st.composite
def schemas(draw: st.DrawFn) -> pa.Schema:
    names = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, unique=True))
    return pa.schema([pa.field(name, KINDS[name], nullable=draw(st.integers(0, 3)) > 0) for name in names])


def both(schema: pa.Schema, records: list[bytes]) -> tuple[Any, Any]:
    values = pa.array(records, pa.large_binary())
    assert isinstance(values, pa.LargeBinaryArray)
    reference = JsonDecoder(schema)
    # A slice of a larger array: offsets need not begin at 0.
    padded = pa.concat_arrays([pa.array([b"{}"], pa.large_binary()), values]).slice(1)
    assert isinstance(padded, pa.LargeBinaryArray)
    return FastJson(schema, reference.decode).decode(padded), reference.decode(values)


@settings(max_examples=600)
@given(schema=schemas(), records=st.lists(documents(), max_size=4))
@example(schema=pa.schema([("s", pa.string())]), records=[b'{"s":"\xff"}', b'{"s":"ok"}'])
@example(schema=pa.schema([("i", pa.int64())]), records=[b'{"i":1,"i":2}', b'{"i":3}', b"[]"])
def test_the_compiled_decoder_gives_what_the_reference_gives(schema: pa.Schema, records: list[bytes]) -> None:
    (table, bad), (expected, wrong) = both(schema, records)
    assert bad == wrong
    assert table.schema == expected.schema
    assert table.equals(expected)
    table.validate(full=True)


@st.composite
def alike(draw: st.DrawFn) -> tuple[pa.Schema, list[bytes]]:
    """Records of one layout: the first has every column, those after it differ from it in their values, and sometimes in a few bytes."""
    schema = draw(schemas())
    others = st.lists(st.sampled_from([*FITTING, "é", "x y"]), max_size=3)
    names = draw(st.permutations(list(dict.fromkeys([*schema.names, *draw(others)]))))
    between = [f'{draw(SPACE)}"{name}"{draw(SPACE)}:{draw(SPACE)}' for name in names]
    after = [draw(SPACE) for _ in names]
    records = []
    for number in range(draw(st.integers(2, 4))):
        odd = number > 0 and draw(st.integers(0, 2)) == 0
        values = [draw(VALUES if odd and draw(st.booleans()) else FITTING.get(name, VALUES)) for name in names]
        members = (before + value + space for before, value, space in zip(between, values, after, strict=True))
        record = f"{{{','.join(members)}}}".encode()
        if number > 0 and draw(st.integers(0, 2)) == 0:
            at = draw(st.integers(0, len(record)))
            record = record[:at] + draw(st.binary(max_size=2)) + record[at + draw(st.integers(0, 2)) :]
        records.append(record)
    return schema, records


@settings(max_examples=500)
@given(given=alike())
@example(given=(pa.schema([("t", pa.bool_())]), [b'{"t":true}', b'{"t":null}', b'{"t":false}']))
@example(
    given=(pa.schema([("i", pa.int64())]), [b'{"i":1}', b'{"i":1} ', b'{"i":1', b'{"i":1}}', b'{"i":12,"i":3}', b""])
)
@example(
    given=(
        pa.schema([("s", pa.string())]),
        [b'{"x":1,"s":"a"}', b'{"x":1,"s":"b"', b'{"x":[1],"s":"c"}', b'{"y":1,"s":"d"}'],
    )
)
def test_records_laid_out_alike_are_decoded_as_the_reference_does(given: tuple[pa.Schema, list[bytes]]) -> None:
    (table, bad), (expected, wrong) = both(*given)
    assert bad == wrong
    assert table.equals(expected)
    table.validate(full=True)


def test_a_layout_is_learnt_from_a_record_that_has_every_column_once() -> None:
    schema = pa.schema([("b", pa.int64()), ("a", pa.string())])
    layout = layout_of(b' {"a": "x,}" , "n":{"b":[1]}, "b":2}', schema)
    assert layout is not None
    ends = layout.places.tolist()
    pieces = [layout.between.tobytes()[first:last] for first, last in itertools.pairwise(ends)]
    assert pieces == [b' {"a": ', b' , "n":', b', "b":', b"}"]
    assert layout.members.tolist() == [1, -1, 0]
    for odd in (
        b'{"a":"x"}',
        b'{"a":"x","b":1,"a":"y"}',
        b'{"a":"x","b":1',
        b'{"a":"x","b":1}]',
        b"[1]",
        b"",
        b"{}",
        b'{"a":}',
        b'{"\\u0061":"x","b":1}',
    ):
        assert layout_of(odd, schema) is None, odd


@pytest.mark.parametrize("value", NUMBERS + TEXTS + OTHERS + [json.dumps(time) for time in TIMES])
@pytest.mark.parametrize("name", [*KINDS, "extra"])
def test_every_odd_value_in_every_column(name: str, value: str) -> None:
    schema = pa.schema([(column, kind) for column, kind in KINDS.items() if column == name] or [("i", pa.int64())])
    records = [f'{{"{name}":{value}}}'.encode(), b'{"i":1}', f'{{"x":{value},"{name}":null}}'.encode()]
    (table, bad), (expected, wrong) = both(schema, records)
    assert bad == wrong
    assert table.equals(expected)


@pytest.mark.parametrize("levels", [24, 900, 1100, 100_000])
def test_a_record_nested_deeply_leads_a_batch(levels: int) -> None:
    deep = b'{"i":1,"x":' + b"[" * levels + b"]" * levels + b"}"
    (table, bad), (expected, wrong) = both(pa.schema([("i", pa.int64())]), [deep, b'{"i":2}'])
    assert bad == wrong
    assert table.equals(expected)


def test_plain_records_are_taken_without_the_reference() -> None:
    def never(values: pa.LargeBinaryArray) -> Any:
        pytest.fail(f"asked for {values.to_pylist()}")

    schema = pa.schema(list(KINDS.items()))
    record = {
        "i": -5,
        "b": 1,
        "u": 2,
        "s": "text",
        "us": "2018-01-01T00:00:00.5Z",
        "ns": 7,
        "t": True,
        "f": 1.5,
        "x": [{"y": None}],
    }
    values = pa.array([json.dumps(record).encode(), b"{}"], pa.large_binary())
    assert isinstance(values, pa.LargeBinaryArray)
    table, bad = FastJson(schema, never).decode(values)
    assert bad == []
    assert table.drop_columns(["us", "ns"]).to_pylist() == [
        {"i": -5, "b": 1, "u": 2, "s": "text", "t": True, "f": 1.5},
        dict.fromkeys(["i", "b", "u", "s", "t", "f"]),
    ]
    assert table["us"].cast(pa.int64()).to_pylist() == [1514764800500000, None]


def test_types_that_the_scanner_does_not_take_are_known() -> None:
    assert can_scan(pa.schema(list(KINDS.items())))
    for kind in (
        pa.decimal128(9, 2),
        pa.list_(pa.int64()),
        pa.struct([("a", pa.int64())]),
        pa.binary(),
        pa.date32(),
        pa.uint64(),
        pa.float32(),
    ):
        assert not can_scan(pa.schema([("a", pa.int64()), ("b", kind)]))
    assert not can_scan(pa.schema([]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9007199254740992", 2.0**53),
        ("9007199254740993", None),
        ("-9007199254740993", None),
        ("9007199254740993.0", 2.0**53),
        ("9007199254740993e0", 2.0**53),
        ("9007199254740994", 9007199254740994.0),
        ("1152921504606846976", 2.0**60),
        ("1152921504606846977", None),
        ("100000000000000000000", 1e20),
        ("1" + "0" * 400, None),
        ("-0", 0.0),
        ("0.1", 0.1),
        ("123456789012345", 123456789012345.0),
    ],
)
def test_an_integer_that_a_double_does_not_hold_is_a_bad_record_and_never_another_number(
    text: str, expected: float | None
) -> None:
    for inner, form in (
        (pa.float64(), "%s"),
        (pa.list_(pa.float64()), "[1, 2.5, %s]"),
        (pa.struct([("x", pa.float64())]), '{"x": %s}'),
    ):
        schema, record = pa.schema([("f", inner)]), b'{"f": ' + (form % text).encode() + b"}"
        values = pa.array([b'{"f": null}', record], pa.large_binary())
        decoders = [JsonDecoder(schema).decode]
        decoders += [FastJson(schema, JsonDecoder(schema).decode).decode] if inner == pa.float64() else []
        for decode in decoders:
            table, bad = decode(values)
            if expected is None:
                assert [one.index for one in bad] == [1]
                assert bad[0].field.startswith("f")
                assert "that no double holds exactly" in bad[0].reason
            else:
                assert not bad
                given = table["f"].to_pylist()[1]
                found = given["x"] if isinstance(given, dict) else given[-1] if isinstance(given, list) else given
                assert (found, math.copysign(1, found)) == (expected, math.copysign(1, expected))


def test_a_float_of_32_bits_holds_fewer_integers() -> None:
    schema = pa.schema([("f", pa.float32())])
    values = pa.array([b'{"f": 16777216}', b'{"f": 16777217}', b'{"f": 16777218}', b'{"f": 0.1}'], pa.large_binary())
    table, bad = JsonDecoder(schema).decode(values)
    assert [(one.index, one.field) for one in bad] == [(1, "f")]
    assert table["f"].to_pylist() == [16777216.0, 16777218.0, pytest.approx(0.1)]
