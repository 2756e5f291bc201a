"""The type language: what is written down is read back, and what is let in is exactly what the type says."""

from __future__ import annotations

import datetime as dt
import enum
import json
from typing import Annotated, Literal, Optional

import jsonschema  # type: ignore[import-untyped]
import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.errors import ParameterError
from hindscan.jobs.job import JobSpec, Parameter, Step
from hindscan.jobs.language import Type, describe, msgspec_type, parse
from hindscan.jobs.parameters import json_schema, python_values, validate


class Channel(enum.Enum):
    WEB = "web"
    APP = "app"


def parameter(type_: str, name: str = "p", **more: object) -> Parameter:
    return Parameter(name=name, type=type_, required="default" not in more, **more)


def check(type_: str, value: object, *, from_text: bool = False) -> object:
    return validate([parameter(type_)], {"p": value}, from_text=from_text)["p"]


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (float, "float"),
        (dt.date, "date"),
        (dt.datetime, "datetime"),
        (Optional[int], "int | None"),  # noqa: UP045
        (str | None, "str | None"),
        (Literal["a", 'b"]', 3], 'literal["a", "b\\"]", 3]'),
        (Literal["a", None], 'literal["a"] | None'),
        (Channel, 'literal["web", "app"]'),
        (list[int | None], "list[int | None]"),
        (Annotated[int, msgspec.Meta(ge=1, le=9)], "int(ge=1, le=9)"),
        (Annotated[str, msgspec.Meta(pattern="^a(b|c)]$")], 'str(pattern="^a(b|c)]$")'),
        (list[Annotated[float, msgspec.Meta(gt=0.5)]] | None, "list[float(gt=0.5)] | None"),
        (Annotated[list[str], msgspec.Meta(min_length=1)], "list[str](min_length=1)"),
    ],
)
def test_an_annotation_becomes_text_and_is_read_back_as_the_same_type(annotation: object, text: str) -> None:
    described = describe(annotation)
    assert str(described) == text
    assert parse(text) == described


@pytest.mark.parametrize("annotation", [dict, int | str, bytes, tuple[int, int], Literal[b"x"], object, list])
def test_an_annotation_outside_the_language_is_refused(annotation: object) -> None:
    with pytest.raises(ValueError, match=r"several meanings|none of int|no string"):
        describe(annotation)


@pytest.mark.parametrize(
    "text", ["", "inte", "list[int", "int(ge=)", "int(size=3)", "literal[]", "__import__('os')", "int | None x"]
)
def test_a_text_outside_the_language_is_refused_and_never_evaluated(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


leaves = st.one_of(
    st.sampled_from([Type(base=b) for b in ("int", "float", "str", "bool", "date", "datetime")]),
    st.lists(st.one_of(st.text(), st.integers(-(2**53), 2**53), st.booleans()), min_size=1).map(
        lambda v: Type(base="literal", values=tuple(v))
    ),
    st.integers(-100, 100).map(lambda n: Type(base="int", bounds=(("ge", n),))),
    st.text().map(lambda p: Type(base="str", bounds=(("max_length", 5), ("pattern", p)))),
)
language = st.recursive(
    leaves,
    lambda inner: st.builds(lambda t, o: Type(base="list", item=t, optional=o), inner, st.booleans()),
    max_leaves=4,
)


@given(language)
def test_every_type_survives_its_text(made: Type) -> None:
    assert parse(str(made)) == made


@pytest.mark.parametrize(
    ("type_", "value", "canonical"),
    [
        ("int", 3, 3),
        ("int", np.int64(3), 3),
        ("float", 3, 3.0),
        ("float", 2.5, 2.5),
        ("bool", True, True),
        ("str | None", None, None),
        ("date", "2018-01-31", "2018-01-31"),
        ("date", dt.date(2018, 1, 31), "2018-01-31"),
        ("datetime", "2018-01-31", "2018-01-31T00:00:00Z"),
        ("datetime", dt.date(2018, 1, 31), "2018-01-31T00:00:00Z"),
        ("datetime", "2018-01-31T12:00:00+02:00", "2018-01-31T10:00:00Z"),
        ("datetime", dt.datetime(2018, 1, 31, 12), "2018-01-31T12:00:00Z"),
        ("datetime", pd.Timestamp("2018-01-31 12:00", tz="Europe/Berlin"), "2018-01-31T11:00:00Z"),
        ('literal["web", 1]', 1, 1),
        ('literal["web", "app"]', Channel.APP, "app"),
        ("list[float]", (1, 2.5), [1.0, 2.5]),
    ],
)
def test_a_value_is_let_in_in_its_canonical_form(type_: str, value: object, canonical: object) -> None:
    checked = check(type_, value)
    assert checked == canonical
    assert type(checked) is type(canonical)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("int", True),
        ("int", "3"),
        ("int", 3.0),
        ("int", 2**63),
        ("bool", 1),
        ("float", float("nan")),
        ("float", float("inf")),
        ("float", "1.5"),
        ("float", True),
        ("float", 10**400),
        ("str", 3),
        ("str", None),
        ("str", "\ud800"),
        ("int(ge=1)", 0),
        ('str(pattern="^a$")', "b"),
        ("date", "2018-02-30"),
        ("date", "20180101"),
        ("date", dt.datetime(2018, 1, 1)),
        ("datetime", "2018-01-01T25:00:00Z"),
        ("datetime", "0001-01-01T00:00:00+14:00"),
        ("datetime", 1514764800),
        ("literal[1]", True),
        ('literal["a"]', "A"),
        ("list[int]", [1, "2"]),
        ("list[int]", "12"),
        ("list[int](min_length=1)", []),
    ],
)
def test_a_value_of_another_type_is_refused(type_: str, value: object) -> None:
    with pytest.raises(ParameterError, match=r"`p` .*must"):
        check(type_, value)


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("int", "2018", 2018),
        ("int | None", "null", None),
        ("float", "1e3", 1000.0),
        ("bool", "no", False),
        ("str", "2018", "2018"),
        ("str", "null", "null"),
        ('literal["a", 1]', "1", 1),
        ("list[int]", "1, 2", [1, 2]),
        ("list[int]", "[1, 2]", [1, 2]),
        ("list[str]", "", []),
        ("date", "2018-01-01", "2018-01-01"),
    ],
)
def test_a_string_of_the_command_line_is_read_by_its_type(type_: str, text: str, value: object) -> None:
    checked = check(type_, text, from_text=True)
    assert checked == value
    assert type(checked) is type(value)


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        ("int", "2_018"),
        ("int", "x"),
        ("int", "1.0"),
        ("float", "nan"),
        ("float", "1e999"),
        ("bool", "maybe"),
        ("int", "٣"),
    ],
)
def test_a_string_that_does_not_read_as_its_type_is_refused(type_: str, text: str) -> None:
    with pytest.raises(ParameterError):
        check(type_, text, from_text=True)


def test_all_faults_are_told_at_once_with_what_would_be_right() -> None:
    parameters = [
        Parameter(name="category", type="str", required=True),
        Parameter(name="year", type="int", required=False, default=2018),
        Parameter(name="day", type="date", required=True),
    ]
    with pytest.raises(ParameterError) as caught:
        validate(parameters, {"yaer": 2018, "year": "x", "category": None, "seed": 1})
    message = str(caught.value)
    assert "`yaer` is no parameter of this job; did you mean `year`?" in message
    assert "`seed` is an option of a run" in message
    assert "`category` must be a text, and is null" in message
    assert "`year` must be an integer, and is 'x' (str)" in message
    assert "`day` is missing" in message
    assert "Give category: str, year: int = 2018, day: date." in message
    assert [f["parameter"] for f in caught.value.details["faults"]] == ["yaer", "seed", "category", "year", "day"]  # type: ignore[attr-defined]


def test_defaults_are_filled_in_and_the_order_is_the_jobs() -> None:
    parameters = [
        Parameter(name="b", type="int", required=False, default=1),
        Parameter(name="a", type="int", required=True),
    ]
    assert list(validate(parameters, {"a": 2}).items()) == [("b", 1), ("a", 2)]


def test_the_function_gets_dates_and_aware_times() -> None:
    parameters = [
        Parameter(name="day", type="date", required=True),
        Parameter(name="at", type="list[datetime] | None", required=True),
    ]
    values = python_values(parameters, {"day": "2018-01-31", "at": ["2018-01-31T00:00:00Z"]})
    assert values == {"day": dt.date(2018, 1, 31), "at": [dt.datetime(2018, 1, 31, tzinfo=dt.UTC)]}


def test_the_function_gets_members_of_the_enums_it_named() -> None:
    def step(
        rows: object, one: Channel, some: list[Channel] | None = None, plain: Literal["web"] = "web", bare=Channel.WEB
    ) -> None: ...  # type: ignore[no-untyped-def]

    parameters = [
        parameter(str(describe(t)), name=n)
        for n, t in (("one", Channel), ("some", list[Channel] | None), ("plain", Literal["web"]), ("bare", Channel))
    ]
    values = validate(parameters, {"one": Channel.APP, "some": ["web", "app"], "plain": "web", "bare": "app"})
    assert values == {"one": "app", "some": ["web", "app"], "plain": "web", "bare": "app"}
    assert python_values(parameters, values, step) == {
        "one": Channel.APP,
        "some": [Channel.WEB, Channel.APP],
        "plain": "web",
        "bare": Channel.APP,
    }
    assert python_values(parameters[1:2], {"some": None}, step) == {"some": None}


def job_with(*parameters: Parameter) -> JobSpec:
    return JobSpec(
        name="j",
        kind="scan",
        table="t",
        history="h",
        parameters=parameters,
        steps={"slice": Step(digest="")},
        combine="none",
        code="",
    )


def test_the_json_schema_lets_in_what_validate_lets_in() -> None:
    job = job_with(
        Parameter(name="n", type="int(ge=1)", required=True, doc="How many."),
        Parameter(name="c", type='literal["a", true] | None', required=False),
        Parameter(name="l", type="list[float](max_length=2) | None", required=False, default=[1.0]),
    )
    schema = json_schema(job)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["n"]["description"] == "How many."
    for values in [{"n": 1}, {"n": 0}, {}, {"n": 1, "c": None}, {"n": 1, "c": True}, {"n": 1, "c": 1}, {"n": 1, "l": [1, 2, 3]},
                   {"n": 1, "l": None}, {"n": 1, "x": 1}, {"n": 1, "l": [1.5]}]:  # fmt: skip
        try:
            validate(job.parameters, values)
            valid = True
        except ParameterError:
            valid = False
        assert jsonschema.Draft202012Validator(schema).is_valid(values) is valid, values


@given(
    language.filter(
        lambda t: "true" not in str(t) and "false" not in str(t) and "pattern" not in str(t) and "literal" not in str(t)
    )
)
def test_msgspec_understands_every_type_of_the_language(made: Type) -> None:
    json.dumps(msgspec.json.schema(msgspec_type(made)))
