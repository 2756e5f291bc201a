"""Filters: the dialects of the Subscriptions API and JMESPath; refused early, true or false or an error, and explained."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.errors import FilterError, FilterSyntaxError, InvalidEvent
from hindscan.events.event import Event
from hindscan.events.filters import Filter

EVENT = Event(
    id="1",
    source="https://github.com/cloudevents/spec",
    type="com.github.push",
    subject="a/b.jpg",
    time="2018-04-05T17:31:00Z",
    extensions={"n": 7, "yes": True, "empty": ""},
    data={"price": 200, "category": "cars", "tags": ["a", "b"], "nothing": None},
)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"exact": {"type": "com.github.push", "subject": "a/b.jpg"}}, True),
        ({"exact": {"type": "com.github.push", "subject": "a/b.JPG"}}, False),
        ({"exact": {"type": "com.github"}}, False),
        ({"exact": {"type": "com.github.push", "absent": "x"}}, False),
        ({"exact": {"n": "7"}}, True),
        ({"exact": {"yes": "true"}}, True),
        ({"exact": {"yes": "True"}}, False),
        ({"exact": {"time": "2018-04-05T17:31:00Z"}}, True),
        ({"exact": {"specversion": "1.0", "datacontenttype": "application/json"}}, True),
        ({"prefix": {"type": "com.github.", "source": "https://"}}, True),
        ({"prefix": {"type": "github"}}, False),
        ({"prefix": {"dataschema": "h"}}, False),
        ({"prefix": {"empty": "x"}}, False),
        ({"suffix": {"type": ".push", "subject": ".jpg"}}, True),
        ({"suffix": {"type": ".pull"}}, False),
        ({"suffix": {"absent": "x"}}, False),
        ({"all": [{"exact": {"id": "1"}}, {"prefix": {"type": "com"}}]}, True),
        ({"all": [{"exact": {"id": "1"}}, {"prefix": {"type": "org"}}]}, False),
        ({"any": [{"exact": {"id": "2"}}, {"prefix": {"type": "com"}}]}, True),
        ({"any": [{"exact": {"id": "2"}}, {"prefix": {"type": "org"}}]}, False),
        ({"not": {"exact": {"id": "1"}}}, False),
        ({"not": {"exact": {"absent": "1"}}}, True),
        ({"not": {"not": {"exact": {"id": "1"}}}}, True),
        ({"sql": "type LIKE 'com.github.%' AND n > 6"}, True),
        ({"sql": "type = 'com.github.pull' OR subject LIKE '%.jpg'"}, True),
        ({"sql": "yes AND n IN (7, 8)"}, True),
        ({"sql": "time = '2018-04-05T17:31:00Z'"}, True),
        ({"sql": "EXISTS absent"}, False),
        ({"sql": "absent = 'x'"}, False),
        ({"sql": "NOT EXISTS absent OR absent = 'x'"}, True),
        ({"not": {"sql": "n = 7"}}, False),
        ({"jmespath": "data.price > `100`"}, True),
        ({"jmespath": "data.price > `200`"}, False),
        ({"jmespath": "data.category == 'cars' && contains(data.tags, 'b')"}, True),
        ({"jmespath": "type == 'com.github.push' && n == `7` && yes == `true`"}, True),
        ({"jmespath": "data.absent == null"}, True),
        ({"jmespath": "not_null(data.absent, `0`) > `100`"}, False),
        ({"jmespath": "starts_with(subject, 'a/')"}, True),
    ],
)
def test_each_dialect_gives_what_the_specification_says(spec, expected) -> None:
    assert Filter(spec).matches(EVENT) is expected
    assert Filter(spec).matches(EVENT.to_json()) is expected
    assert Filter(spec).explain(EVENT).matched is expected


words = st.text(st.characters(min_codepoint=97, max_codepoint=100), min_size=1, max_size=4)


@given(words, words)
def test_exact_prefix_and_suffix_are_those_of_strings(value, wanted) -> None:
    event = Event(id="1", source="/s", type=value)
    assert Filter({"exact": {"type": wanted}}).matches(event) == (value == wanted)
    assert Filter({"prefix": {"type": wanted}}).matches(event) == value.startswith(wanted)
    assert Filter({"suffix": {"type": wanted}}).matches(event) == value.endswith(wanted)


trees = st.recursive(
    st.sampled_from([True, False]),
    lambda inner: (
        st.tuples(st.sampled_from(["all", "any"]), st.lists(inner, min_size=1, max_size=3))
        | st.tuples(st.just("not"), inner)
    ),
    max_leaves=12,
)


@given(trees)
def test_all_any_and_not_are_those_of_logic(tree) -> None:
    def spec(node):
        if isinstance(node, bool):
            return {"exact": {"id": "1" if node else "2"}}
        name, parts = node
        return {name: spec(parts) if name == "not" else [spec(part) for part in parts]}

    def value(node) -> bool:
        if isinstance(node, bool):
            return node
        name, parts = node
        if name == "not":
            return not value(parts)
        return (all if name == "all" else any)(value(part) for part in parts)

    compiled = Filter(spec(tree))
    assert compiled.matches(EVENT) == value(tree)
    assert compiled.explain(EVENT).matched == value(tree)
    assert compiled == Filter(spec(tree))


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("data.price", "it gives 200"),
        ("data.absent", "it gives null"),
        ("data.absent > `1`", "it gives null"),
        ("data.category", "it gives 'cars'"),
        ("data.tags", "it gives a value of type list"),
        ("data.category > `1`", "TypeError: '>' not supported"),
        ("data.absent && `true`", "it gives null"),
        ("length(data.price) > `1`", "In function length(), invalid type for value: 200"),
        ("contains(data.absent, 'x')", "In function contains()"),
        ("to_number('NaN')", "its result is nan"),
        ("&data", "its result holds a value of type _Expression"),
    ],
)
def test_what_is_neither_true_nor_false_is_an_error_and_never_no_match(expression, reason) -> None:
    compiled = Filter({"jmespath": expression})
    with pytest.raises(FilterError) as fault:
        compiled.matches(EVENT)
    assert reason in fault.value.details["reason"]
    assert (fault.value.details["id"], fault.value.details["source"]) == EVENT.identity[::-1]
    explanation = compiled.explain(EVENT)
    assert explanation.matched is None
    assert reason in explanation.reason


def test_an_error_within_is_an_error_unless_it_was_not_asked() -> None:
    bad, yes, no = {"jmespath": "data.absent"}, {"exact": {"id": "1"}}, {"exact": {"id": "2"}}
    assert Filter({"all": [no, bad]}).matches(EVENT) is False
    assert Filter({"any": [yes, bad]}).matches(EVENT) is True
    for spec in ({"all": [yes, bad]}, {"any": [no, bad]}, {"not": bad}, {"all": [bad, no]}, {"any": [bad, yes]}):
        with pytest.raises(FilterError):
            Filter(spec).matches(EVENT)
        assert Filter(spec).explain(EVENT).matched is None


def faults(spec) -> list[tuple[str, str, object]]:
    with pytest.raises(FilterSyntaxError) as fault:
        Filter(spec)
    return [(found["field"], found["message"], found.get("column")) for found in fault.value.details["faults"]]


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        (None, "", "a filter is a table of one dialect"),
        ("type = 'x'", "", "a filter is a table of one dialect"),
        ([], "", "a filter is a table of one dialect"),
        ({}, "", "a filter has one dialect, and this one has 0"),
        ({"exact": {"a": "b"}, "any": []}, "", "this one has 2 ('exact', 'any')"),
        ({"sql": "type = 'x"}, "sql", "column 8: a text that does not end"),
        ({"sql": 7}, "sql", "it is no text but 7"),
        ({"sql": "LEN(type) = 3"}, "sql", "column 1: there is no function LEN of 1 arguments"),
        ({"like": {}}, "like", "there is no dialect 'like'; there are exact, prefix"),
        ({5: {}}, "5", "there is no dialect 5"),
        ({"exact": {}}, "exact", "at least one"),
        ({"exact": "x"}, "exact", "it takes a table of attributes"),
        ({"exact": {"type": ""}}, "exact.type", "a string that is not empty"),
        ({"prefix": {"n": 7}}, "prefix.n", "a string that is not empty, and is 7"),
        ({"suffix": {"": "x"}}, "suffix.", "must be the name of an attribute"),
        ({"exact": {"data.price": "x"}}, "exact.data.price", "the data can be asked with jmespath"),
        ({"all": []}, "all", "at least one filter"),
        ({"any": {"exact": {"a": "b"}}}, "any", "an array of at least one filter"),
        ({"not": [{"exact": {"a": "b"}}]}, "not", "a filter is a table"),
        ({"all": [{"exact": {"a": "b"}}, {"any": [{"nope": 1}]}]}, "all[1].any[0].nope", "there is no dialect"),
    ],
)
def test_a_filter_that_can_match_nothing_is_refused_at_once(spec, field, message) -> None:
    ((found, text, _),) = faults(spec)
    assert found == field
    assert message in text


@pytest.mark.parametrize(
    ("expression", "column", "reason"),
    [
        ("", 1, "it is empty"),
        (5, 1, "it is not a string"),
        ("data.price >", 13, "it ends too early"),
        ("a = b", 3, "Unknown token '='"),
        ("a b", 3, "Unexpected token"),
        ("data.a ~ b", 8, "Unknown token ~"),
        ("type == 'x", 9, "Unclosed ' delimiter"),
        ("data.x == `abc`", 11, "between back quotes stands JSON"),
        ("data.x == `{`", 11, "between back quotes stands JSON"),
        ("a && nope(b)", 6, "there is no function nope()"),
        ("[?lenght(@) > `1`]", 3, "there is no function lenght()"),
        ("length(a, b)", 1, "length() takes 1 arguments, and gets 2"),
        ("not_null()", 1, "takes at least 1 arguments"),
        ("(" * 10_000, 1, "it is nested too deeply"),
    ],
)
def test_a_jmespath_that_can_never_work_is_refused_with_its_column(expression, column, reason) -> None:
    ((field, text, found),) = faults({"jmespath": expression})
    assert (field, found) == ("jmespath", column)
    assert reason in text
    assert len(text) < 400


def test_the_deprecated_string_is_refused_whatever_is_done_with_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "between back quotes stands JSON" in faults({"jmespath": "type == `word`"})[0][1]


def test_all_faults_of_a_filter_are_told_at_once() -> None:
    found = faults({"all": [{"exact": {"A": "", "b": "c"}}, {"jmespath": "a ="}, {"not": {"sql": "x ="}}, 7]})
    assert [field for field, _, _ in found] == [
        "all[0].exact.A",
        "all[0].exact.A",
        "all[1].jmespath",
        "all[2].not.sql",
        "all[3]",
    ]


def test_a_filter_nested_without_end_is_refused() -> None:
    spec: dict = {"exact": {"a": "b"}}
    for _ in range(70):
        spec = {"not": spec}
    assert "nested 64 deep" in faults(spec)[0][1]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"exact": {"type": "x"}}, "type is 'com.github.push'; exact 'x' is wanted"),
        ({"prefix": {"absent": "x"}}, "absent is absent; prefix 'x' is wanted"),
        (
            {"all": [{"exact": {"id": "1"}}, {"suffix": {"subject": ".png"}}]},
            "subject is 'a/b.jpg'; suffix '.png' is wanted",
        ),
        (
            {"any": [{"exact": {"id": "2"}}, {"exact": {"id": "3"}}]},
            "none of 2 holds: id is '1'; exact '2' is wanted; id is '1'; exact '3' is wanted",
        ),
        ({"jmespath": "data.price > `500`"}, "jmespath 'data.price > `500`' gives false"),
        ({"not": {"exact": {"id": "1"}}}, "not (exact {'id': '1'} holds)"),
    ],
)
def test_why_not_is_said_in_one_line(spec, reason) -> None:
    assert Filter(spec).explain(EVENT).reason == reason


def test_a_mapping_that_is_no_event_is_refused() -> None:
    with pytest.raises(InvalidEvent) as fault:
        Filter({"exact": {"id": "1"}}).matches({"id": "1"})
    assert str(fault.value).startswith("While filtering an event: it must be a valid CloudEvent")


def test_an_attribute_that_is_absent_is_no_match_of_cesql_and_an_error_where_the_filter_is_strict() -> None:
    spec = {"any": [{"sql": "absent = 'x' OR type = 'com.github.push'"}]}
    found = Filter(spec).explain(EVENT)
    assert (found.matched, "absent is absent" in found.reason) == (False, True)
    with pytest.raises(FilterError, match="absent is absent"):
        Filter(spec, strict=True).matches(EVENT)
    assert Filter(spec, strict=True).explain(EVENT).matched is None
    assert Filter(spec) != Filter(spec, strict=True)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("type", "it gives 'com.github.push'"),
        ("n / 0 = 1", "a division by zero"),
        ("type > 5", "is not an integer"),
        ("n", "it gives 7"),
    ],
)
def test_cesql_that_gives_neither_true_nor_false_is_an_error_of_the_event(expression: str, reason: str) -> None:
    with pytest.raises(FilterError, match=reason) as caught:
        Filter({"sql": expression}).matches(EVENT)
    assert caught.value.details["id"] == "1"
