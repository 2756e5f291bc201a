"""What the standard reader lets through and ours refuses, and that it refuses nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.events.strict import MAX_DEPTH, compact_json, json_fault, parse_json, shown

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"NaN", "it has NaN, which JSON does not have"),
        (b'{"a": -Infinity}', "it has -Infinity, which JSON does not have"),
        (b"[1e999]", "the number 1e999, which is beyond the range of a double"),
        (b"[-1e999]", "beyond the range of a double"),
        (b"1" * 5000, "a whole number of 5000 digits"),
        (b"1" * 310, "a whole number of 310 digits"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        (b'{"a": {"b": 1, "b": 1}}', "the key 'b' twice"),
        (b'"\xff"', "it is not UTF-8: byte 0xff at 1"),
        (b'"\xed\xa0\x80"', "it is not UTF-8"),
        (b'\xef\xbb\xbf"x"', "byte order mark"),
        (b"[" * 100_000, f"nested deeper than {MAX_DEPTH}"),
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"[1,]", "it is not JSON"),
        (b"'a'", "it is not JSON"),
        (b'"a\nb"', "it is not JSON"),
        (b"1 2", "it is not JSON: Extra data, line 1 column 3"),
        (b"01", "it is not JSON"),
        (b'{"a": 1} // why', "it is not JSON"),
    ],
)
def test_what_two_readers_would_understand_differently_is_refused(body, reason) -> None:
    with pytest.raises(ValueError) as fault:
        parse_json(body)
    assert reason in str(fault.value)


@given(json_values)
def test_every_json_value_is_read_as_it_was_written(value) -> None:
    assert parse_json(compact_json(value)) == value
    assert json.loads(compact_json(value)) == value
    assert json_fault(value) is None


@given(json_values)
def test_escapes_do_not_change_what_is_read(value) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "data is nan"),
        ([float("inf")], "data is inf"),
        (2**1024, "beyond the range of a double"),
        ([[-(2**1024)]], "beyond the range of a double"),
        ("\ud800", "half of a surrogate pair"),
        ({"\udfff": 1}, "a key of data holds half of a surrogate pair"),
        ({1: 2}, "the key 1, which is not a string"),
        ([{"a": (1,)}], "a value of type tuple"),
        (b"x", "holds b'x'"),
        ({"a": {1, 2}}, "a value of type set"),
    ],
)
def test_a_value_of_a_program_that_json_does_not_have_is_told(value, reason) -> None:
    assert reason in (json_fault(value) or "")


def nested(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def test_nesting_is_allowed_up_to_the_limit_and_refused_beyond() -> None:
    assert json_fault(nested(MAX_DEPTH)) is None
    assert "nested deeper than 64" in (json_fault(nested(MAX_DEPTH + 1)) or "")


@given(st.text() | st.binary() | st.integers() | json_values)
def test_what_a_message_shows_is_short_printable_ascii(value) -> None:
    text = shown(value)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 1000


def test_a_huge_value_is_not_repeated_in_a_message() -> None:
    assert len(shown("x" * 10**6)) < 120
    assert shown(10**5000) == "a value of type int"
