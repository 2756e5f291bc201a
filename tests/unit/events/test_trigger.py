"""A trigger: read from the project file with all its faults, and deciding purely."""

from __future__ import annotations

import tomllib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.errors import ConfigError, MappingError
from hindscan.events.declared import parse_source, trigger_from_toml
from hindscan.events.event import Event
from hindscan.events.trigger import Source, decide, map_parameters

#: The trigger of design.md.
WRITTEN = """
on = "kafka:auction-events"
start = "now"
filter = { all = [ { exact = { type = "auction.closed" } }, { jmespath = "data.price > `100`" } ] }
job = "bidder_scan"
parameters = { category = "data.category", year = { path = "data.year", default = 2018 } }
as_of = "event"
run_order = "none"
"""


def trigger(**changes):
    return trigger_from_toml("scan", {"on": "http", "job": "bidder_scan"} | changes)


def event(**changes) -> Event:
    return Event(
        **{"id": "1", "source": "/site", "type": "auction.closed", "data": {"price": 200, "category": "cars"}} | changes
    )


def faults(**changes) -> dict[str, str]:
    with pytest.raises(ConfigError) as fault:
        trigger(**changes)
    assert fault.value.exit_code == 2
    return dict(fault.value.details["faults"])


def test_the_trigger_of_the_design_is_read() -> None:
    read = trigger_from_toml("scan_on_close", tomllib.loads(WRITTEN))
    assert read.sources == (Source(kind="kafka", cluster="default", topic="auction-events"),)
    assert (read.name, read.job, read.start, read.as_of, read.queue.order, read.strict) == (
        "scan_on_close", "bidder_scan", "now", "event", "none", False,
    )  # fmt: skip
    assert read.listens_to(Source(kind="kafka", cluster="default", topic="auction-events"))
    assert not read.listens_to(Source(kind="http"))


def test_a_matching_event_gives_the_parameters() -> None:
    decision = decide(trigger_from_toml("scan_on_close", tomllib.loads(WRITTEN)), event())
    assert (decision.trigger, decision.outcome, decision.reason) == ("scan_on_close", "matched", "")
    assert decision.parameters == {"category": "cars", "year": 2018}


@pytest.mark.parametrize(
    ("change", "outcome", "error", "reason"),
    [
        ({"type": "auction.opened"}, "unmatched", "", "type is 'auction.opened'; exact 'auction.closed' is wanted"),
        ({"data": {"price": 100}}, "unmatched", "", "jmespath 'data.price > `100`' gives false"),
        ({"data": {}}, "quarantined", "FilterError", "must give true or false; it gives null"),
        ({"data": b"\xff"}, "quarantined", "FilterError", "must give true or false; it gives null"),
        (
            {"data": {"price": 200}},
            "quarantined",
            "MappingError",
            "category from 'data.category': it is null or not there",
        ),
        ({"data": {"price": 200, "category": None}}, "quarantined", "MappingError", "it is null or not there"),
    ],
)
def test_what_cannot_be_decided_is_quarantined_and_what_does_not_match_is_explained(
    change, outcome, error, reason
) -> None:
    decision = decide(trigger_from_toml("scan_on_close", tomllib.loads(WRITTEN)), event(**change))
    assert (decision.outcome, decision.error) == (outcome, error)
    assert reason in decision.reason
    assert decision.parameters == {}


def test_without_a_filter_every_event_matches_and_constants_need_none_of_it() -> None:
    decision = decide(
        trigger(parameters={"year": {"value": 2018}, "deep": {"value": [1, {"a": None}]}}), event(data=None)
    )
    assert (decision.outcome, decision.parameters) == ("matched", {"year": 2018, "deep": [1, {"a": None}]})


def test_attributes_and_extensions_become_parameters_too() -> None:
    mapped = map_parameters(
        trigger(parameters={"a": "subject", "b": "n", "c": "time", "d": "data.list[-1].x", "e": "length(data.list)"}),
        event(subject="cars", time="2018-04-05T17:31:00Z", extensions={"n": 7}, data={"list": [{"x": 1}, {"x": 2}]}),
    )
    assert mapped == {"a": "cars", "b": 7, "c": "2018-04-05T17:31:00Z", "d": 2, "e": 2}


def test_a_null_is_an_error_unless_the_parameter_is_optional_or_has_a_default() -> None:
    mapping = trigger(
        parameters={"a": "data.a", "b": {"path": "data.b", "default": False}, "c": "data.c", "d": {"path": "data.d"}}
    )
    with pytest.raises(MappingError) as fault:
        map_parameters(mapping, event(data={"b": None}), optional={"c"})
    assert [text.split(" ")[0] for text in fault.value.details["faults"]] == ["a", "d"]
    assert "2 have none" in str(fault.value)
    assert "then redrive the event" in str(fault.value)
    assert map_parameters(mapping, event(data={"a": 0, "d": ""}), optional={"c"}) == {"a": 0, "b": False, "d": ""}
    full = event(data={"a": 1, "b": 2, "c": 3, "d": 4})
    assert map_parameters(mapping, full, optional={"a", "b", "c", "d"}) == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_a_mapping_that_fails_is_told_with_the_others() -> None:
    mapping = trigger(parameters={"a": "length(data.price)", "b": "data.nope", "c": "to_number('NaN')"})
    decision = decide(mapping, event())
    assert decision.outcome == "quarantined"
    assert all(
        piece in decision.reason
        for piece in ("a from 'length(data.price)': In function length()", "b from", "c from", "3 have none")
    )


fields = st.sampled_from(["price", "category", "year"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=3),
    max_leaves=6,
)


@given(json_values | st.binary(max_size=4))
def test_whatever_the_data_is_a_decision_is_made(data) -> None:
    made = decide(trigger_from_toml("scan_on_close", tomllib.loads(WRITTEN)), event(data=data))
    assert made.outcome in ("matched", "unmatched", "quarantined")
    assert (made.outcome == "matched") == (not made.reason)
    price = data.get("price") if isinstance(data, dict) else None
    if not isinstance(price, int) or isinstance(price, bool):
        assert made.outcome == "quarantined"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("http", Source(kind="http")),
        ("kafka:bids", Source(kind="kafka", cluster="default", topic="bids")),
        ("kafka:prod:bids.v1_x-2", Source(kind="kafka", cluster="prod", topic="bids.v1_x-2")),
        ("cron:0 6 * * MON", Source(kind="cron", text="0 6 * * MON")),
        ("files:s3://lake/in", Source(kind="files", text="s3://lake/in")),
    ],
)
def test_a_source_is_read_and_written(text, source) -> None:
    assert parse_source(text) == source
    assert str(source) == text


@pytest.mark.parametrize(
    ("on", "message"),
    [
        (None, "at least one source"),
        ([], "at least one source"),
        ("kafka", "there is no source 'kafka'"),
        ("kafka:", "there is no source 'kafka:'"),
        ("kafka:a b", "a topic is named"),
        ("kafka::a", "a topic is named"),
        ("kafka:a:b:c", "a topic is named"),
        ("kafka:..", "a topic is named"),
        ("kafka:" + "a" * 250, "a topic is named"),
        ("amqp:x", "there is no source 'amqp:x'"),
        ("http:x", "there is no source"),
        ("cron:0 6 * *", "a schedule has five fields"),
        ("files:", "there is no source 'files:'"),
        ({"kafka": "x"}, "a source is a string"),
        (["http", "http"], "http is named twice"),
    ],
)
def test_a_source_that_is_none_is_refused_by_name(on, message) -> None:
    assert message in faults(on=on)["on"]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("job", "", "it must name the job"),
        ("job", 5, "it must name the job"),
        ("start", "later", '"now", "earliest" or a time'),
        ("start", 5, '"now", "earliest" or a time'),
        ("start", [], '"now", "earliest" or a time'),
        ("as_of", "ignore", 'it is "event" (history as of the event) or "none"'),
        ("as_of", [], 'it is "event"'),
        ("run_order", "any", "it is one of 'none', 'partition', 'subject', not"),
        ("on_failed", "skip", 'run_order is "none"'),
        ("concurrency", 0, "it is a whole number from 1 to"),
        ("key", "data.[", "column 7"),
        ("key", "data.a", "concurrency.per_key, supersede and debounce go by"),
        ("supersede", 1, "it is true or false"),
        ("debounce", "soon", 'a text such as "30s"'),
        ("priority", 1.5, "it is a whole number"),
        ("time_limit", 0, "a number of seconds above 0"),
        ("retries", -1, "attempts must be from 1 to 100"),
        ("retries", {"on": ["Nothing"]}, "none are tried again of Nothing"),
        ("retries", {"jitter": 2}, "jitter must be from 0 to 1"),
        ("strict", "yes", "it is true or false"),
        ("lateness", "soon", "a number of seconds"),
        ("lateness", -1, "a number of seconds"),
        ("lateness", True, "a number of seconds"),
        ("lateness", "400d", "up to 366 days"),
        ("lateness", float("nan"), "a number of seconds"),
        ("parameters", "data", "it must be a table of parameters"),
        ("fliter", {}, "there is no such setting; is it filter? There are on, start"),
        ("colour", 1, "there is no such setting; there are on, start"),
    ],
)
def test_a_setting_that_is_wrong_is_refused_by_name(setting, value, message) -> None:
    assert message in faults(**{setting: value})[setting]


@pytest.mark.parametrize(
    ("written", "field", "message"),
    [
        (5, "parameters.p", "it must be a JMESPath, or a table"),
        ({}, "parameters.p", "found nothing"),
        ({"path": "a", "value": 1}, "parameters.p", "found 'path', 'value'"),
        ({"value": 1, "default": 2}, "parameters.p", "and nothing else"),
        ({"path": "a", "otherwise": 2}, "parameters.p", "and nothing else"),
        ("data.", "parameters.p", "column 6"),
        ("nope(a)", "parameters.p", "column 1: there is no function nope()"),
        ({"path": 7}, "parameters.p", "it is not a string"),
        ({"value": float("inf")}, "parameters.p.value", "it is inf"),
        ({"path": "a", "default": float("nan")}, "parameters.p.default", "it is nan"),
    ],
)
def test_a_parameter_mapping_that_cannot_work_is_refused_by_name(written, field, message) -> None:
    assert message in faults(parameters={"p": written})[field]


def test_all_faults_of_a_trigger_are_told_at_once_by_their_fields() -> None:
    with pytest.raises(ConfigError) as fault:
        trigger_from_toml(
            "x",
            {
                "on": ["cron:*", "http"],
                "filter": {"all": [{"exact": {}}, {"jmespath": "a ="}]},
                "parameters": {"p": "("},
                "strict": 1,
                "z": 1,
            },
        )
    assert [field for field, _ in fault.value.details["faults"]] == [
        "z", "job", "on", "filter.all[0].exact", "filter.all[1].jmespath", "parameters.p", "strict",
    ]  # fmt: skip
    assert str(fault.value).startswith(
        "While reading trigger 'x': its settings must be valid; 7 are not: triggers.x.z: there is no such setting"
    )


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("earliest", "earliest"),
        ("1970-01-02", 86_400_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:01", 1_000_000),
        (tomllib.loads("t = 1970-01-02")["t"], 86_400_000_000),
        (tomllib.loads("t = 1970-01-01T00:00:01Z")["t"], 1_000_000),
    ],
)
def test_a_start_is_a_word_or_a_time_in_utc(start, expected) -> None:
    assert trigger(start=start).start == expected


@pytest.mark.parametrize(
    ("lateness", "seconds"),
    [(0, 0), (90, 90), (0.5, 0.5), ("250ms", 0.25), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400)],
)
def test_a_lateness_is_a_number_of_seconds_or_has_a_unit(lateness, seconds) -> None:
    assert trigger(lateness=lateness).lateness == timedelta(seconds=seconds)


def test_times_of_toml_become_texts_as_json_has_them() -> None:
    table = tomllib.loads("a = {value = 2018-01-01}\nb = {value = [2018-01-01T00:00:00Z]}\nc = {value = 06:30:00}")
    assert map_parameters(trigger(parameters=table), event()) == {
        "a": "2018-01-01",
        "b": ["2018-01-01T00:00:00Z"],
        "c": "06:30:00",
    }


def test_history_is_seen_as_of_the_event_unless_said_otherwise() -> None:
    assert trigger().as_of == "event"
    assert trigger(as_of="none").as_of is None
