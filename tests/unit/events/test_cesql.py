"""CESQL: refused when compiled or a value on every event, or one of the specification's errors; bounded in whatever it is given."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import hindscan as hs
from hindscan.errors import CesqlError
from hindscan.events.cesql import MAX_CHARACTERS, cesql
from hindscan.events.event import Event

EVENT = {"specversion": "1.0", "id": "1", "source": "/site", "type": "auction.closed", "n": 7, "yes": True, "word": "7"}


def value(expression: str, **attributes: Any) -> Any:
    return cesql(expression).evaluate({**EVENT, **attributes})


def error(expression: str, **attributes: Any) -> str:
    with pytest.raises(CesqlError) as caught:
        value(expression, **attributes)
    return caught.value.kind


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("true OR false AND false", True),
        ("false AND true OR true", True),
        ("true XOR true OR true", False),
        ("1 + 2 * 3 = 7 AND NOT FALSE", True),
        ("10 - 3 - 2", 5),
        ("100 / 5 / 2", 10),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("7 % -2", 1),
        ("5 -3", 2),
        ("5 - -3", 8),
        ("+3 + +4", 7),
        ("-2147483648", -2147483648),
        ("2 IN (1, 2) = true", True),
        ("'a' NOT IN ('b', 'c')", True),
        ("NOT n", False),
        ("n = word", True),
        ("word = n", True),
        ("TYPE = 'auction.closed'", True),
        ("LeNgTh ( type ) = 14", True),
        ("\n type\t=  'auction.closed' ", True),
        ("CONCAT(type, n, yes)", "auction.closed7true"),
        ("CONCAT_WS('-', 1, 2)", "1-2"),
        ("SUBSTRING('abc', 3, 0)", ""),
        ("SUBSTRING('abc', -3)", "abc"),
        ("RIGHT('abc', 0)", ""),
        (r""" "it's" = 'it\'s' """, True),
        ("'é' LIKE '_'", True),
        ("'a\nb' LIKE 'a_b' AND 'a\nb' LIKE 'a%b'", True),
        ("'' LIKE '%' AND '' LIKE '' AND '' NOT LIKE '_'", True),
    ],
)
def test_expressions_have_the_values_of_the_specification(expression: str, expected: object) -> None:
    found = value(expression)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("2147483647 + 1", "math"),
        ("-(-2147483648)", "math"),
        ("-2147483648 / -1", "math"),
        ("100000 * 100000", "math"),
        ("n % 0", "math"),
        ("type + 1", "cast"),
        ("'99999999999' + 1", "cast"),
        ("'1.5' = 1", "cast"),
        ("' 1' = 1", "cast"),
        ("type AND true", "cast"),
        ("1 IN (1, 'x')", "cast"),
        ("1 IN (1, 1 / 0)", "math"),
        ("absent OR true", "missingAttribute"),
        ("LEFT('a', -1)", "functionEvaluation"),
        ("SUBSTRING('abc', 1, -1)", "functionEvaluation"),
        ("SUBSTRING('abc', 4)", "functionEvaluation"),
    ],
)
def test_errors_are_of_the_kinds_of_the_specification(expression: str, kind: str) -> None:
    assert error(expression) == kind


@pytest.mark.parametrize(
    ("expression", "column", "kind"),
    [
        ("", 1, "parse"),
        ("  ", 3, "parse"),
        ("1 +", 4, "parse"),
        ("(1", 3, "parse"),
        ("1)", 2, "parse"),
        ("a b", 3, "parse"),
        ("a = 'x", 5, "parse"),
        ("'it''s'", 5, "parse"),
        ("a ? b", 3, "parse"),
        ("a LIKE b", 8, "parse"),
        ("a IN ()", 7, "parse"),
        ("a IN 1", 6, "parse"),
        ("a NOT b", 7, "parse"),
        ("EXISTS 'a'", 8, "parse"),
        ("EXISTS and", 8, "parse"),
        ("a_b = 1", 1, "parse"),
        ("AND", 1, "parse"),
        ("1 = 2147483648", 5, "parse"),
        ("+a", 2, "parse"),
        ("1 AND FOO(1)", 7, "missingFunction"),
        ("ABS()", 1, "missingFunction"),
        ("LEFT('a')", 1, "missingFunction"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_column(expression: str, column: int, kind: str) -> None:
    with pytest.raises(CesqlError) as caught:
        cesql(expression)
    assert (caught.value.details["column"], caught.value.kind) == (column, kind)


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 4000 + "1" + ")" * 4000,
        "-" * 5000 + "a",
        "NOT " * 2000 + "yes",
        "1" + "+1" * 4000,
        "ABS(" * 1500 + "1" + ")" * 1500,
        "1" * 9000,
        "x" * (MAX_CHARACTERS + 1),
    ],
)
def test_what_is_nested_or_long_without_measure_is_refused(expression: str) -> None:
    with pytest.raises(CesqlError, match=r"nested|characters|32 bits"):
        cesql(expression)


def test_many_alternatives_are_one_level() -> None:
    assert value(" OR ".join(["n = 1"] * 900 + ["n = 7"])) is True
    assert value(" AND ".join(["n = 7"] * 900)) is True


def like(text: str, pattern: str) -> bool:
    """What LIKE means, as one regular expression."""
    signs = {"%": ".*", "_": "."}
    found = re.sub(
        r"\\([%_])|([%_])|(.)",
        lambda m: signs[m[2]] if m[2] else re.escape(m[1] or m[3]),
        pattern,
        flags=re.DOTALL,
    )
    return re.fullmatch(found, text, re.DOTALL) is not None


@given(text=st.text("ab%_\\é", max_size=12), pattern=st.text("ab%_\\é", max_size=8))
@example(text="aXaYa", pattern="a%a")
@example(text="a", pattern="a%a")
@example(text="a%", pattern="a\\%")
def test_like_is_what_the_regular_expression_is(text: str, pattern: str) -> None:
    if not pattern.endswith("\\"):  # no text in quotes ends so
        assert value(f"word LIKE '{pattern}'", word=text) is like(text, pattern)
        assert value(f"word NOT LIKE '{pattern}'", word=text) is not like(text, pattern)


def test_a_pattern_of_many_wildcards_takes_no_time_without_measure() -> None:
    # Tried one after another, as a backtracking expression does, this would not end.
    assert value("word LIKE '" + "%a" * 40 + "%b'", word="a" * 20_000) is False


@given(a=st.integers(-(2**31), 2**31 - 1), b=st.integers(-(2**31), 2**31 - 1), operator=st.sampled_from("+-*/%"))
def test_arithmetic_is_that_of_32_bits_or_an_error(a: int, b: int, operator: str) -> None:
    exact = {"+": a + b, "-": a - b, "*": a * b}
    if b:
        quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        exact |= {"/": quotient, "%": a - b * quotient}
    expression = f"({a}) {operator} ({b})"
    if operator in exact and -(2**31) <= exact[operator] < 2**31 and not (operator == "%" and exact["/"] == 2**31):
        assert value(expression) == exact[operator]
    else:
        assert error(expression) == "math"


@given(st.text(max_size=40) | st.text("()'\"=<>!+-*/%, aA1_\\nN", max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        expression = cesql(text)
    except CesqlError as fault:
        column = fault.details["column"]
        assert isinstance(column, int)
        assert 1 <= column <= len(text) + 1
        return
    try:
        kind = type(expression.evaluate(EVENT)).__name__
    except CesqlError as fault:
        kind = fault.kind
    assert kind in ("bool", "int", "str", "math", "cast", "missingAttribute", "functionEvaluation")


def test_an_event_and_its_json_format_give_the_same() -> None:
    document = {**EVENT, "time": "2018-04-05T17:31:00Z", "data": {"type": "not an attribute"}}
    event = Event(
        id="1",
        source="/site",
        type="auction.closed",
        time="2018-04-05T17:31:00Z",
        extensions={"n": 7, "yes": True},
        data={"a": 1},
    )
    for expression in ("time", "n + 1", "yes", "source", "EXISTS data", "EXISTS subject", "specversion"):
        assert cesql(expression).evaluate(event) == hs.cesql(expression).evaluate(document)


def test_an_error_tells_the_expression_and_survives_a_process() -> None:
    with pytest.raises(CesqlError, match=r"type \+ 1") as caught:
        value("type + 1")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.kind, str(again)) == ("cast", str(caught.value))
