"""What of an event says after which others its run goes, and what it is counted by."""

from __future__ import annotations

from typing import Any

import pytest

from hindscan.errors import ConfigError, MappingError
from hindscan.events.declared import trigger_from_toml
from hindscan.events.event import Event
from hindscan.events.queue import Queue


def queue(**settings: Any) -> Queue:
    return trigger_from_toml("t", {"on": "http", "job": "j", **settings}).queue


def event(subject: str | None = "cars", **data: Any) -> Event:
    return Event(id="1", source="/a", type="t", subject=subject, data=data)


def test_a_queue_that_says_nothing_keeps_no_order_and_counts_nothing() -> None:
    assert queue() == Queue()
    assert queue().order_key("t", event(), "0") is None
    assert queue().key(event()) is None
    assert not queue().blocks


def test_runs_in_order_of_a_partition_have_its_key_and_a_failed_one_blocks() -> None:
    read = queue(run_order="partition")
    assert read.order_key("t", event("a"), "id/3") == read.order_key("t", event("b"), "id/3")
    assert read.order_key("t", event("a"), "id/3") != read.order_key("t", event("a"), "id/4")
    assert read.order_key("other", event("a"), "id/3") != read.order_key("t", event("a"), "id/3")
    assert read.blocks
    assert not queue(run_order="partition", on_failed="skip").blocks


def test_runs_in_order_of_a_subject_have_its_key_wherever_the_event_came_from() -> None:
    read = queue(run_order="subject")
    assert read.order_key("t", event("a"), "id/3") == read.order_key("t", event("a"), "http")
    assert read.order_key("t", event("a"), "http") != read.order_key("t", event("b"), "http")
    assert read.order_key("t", event(None), "id/3") == read.order_key("t", event(None), "http"), "one sequence"


def test_the_key_is_the_subject_or_what_the_path_gives_as_a_text() -> None:
    assert queue(supersede=True).key(event("a")) == "a"
    by = queue(concurrency={"per_key": 1}, key="data.of")
    assert by.key(event(of="x")) == "x"
    assert by.key(event(of={"b": 1, "a": [2]})) == '{"a":[2],"b":1}'
    assert by.key(event()) == "", "events without one share a key"


def test_a_key_that_cannot_be_taken_is_an_error_of_the_event() -> None:
    with pytest.raises(MappingError, match=r"taking the key of event .* must have a value"):
        queue(supersede=True, key="length(data.of)").key(event(of=5))


def test_all_the_settings_are_read_with_their_units() -> None:
    read = queue(
        run_order="subject", on_failed="skip", concurrency={"total": 4, "per_key": 2}, debounce={"quiet": "30s", "at_most": 300},
        priority=-3, time_limit="2m", retries={"attempts": 4, "backoff": "2s", "longest": "1m", "jitter": 0, "on": ["JobFailed"]},
    )  # fmt: skip
    assert (read.total, read.per_key, read.quiet_seconds, read.at_most_seconds) == (4, 2, 30, 300)
    assert (read.priority, read.time_limit_seconds) == (-3, 120)
    assert read.retries is not None
    assert (read.retries.attempts, read.retries.backoff, read.retries.longest) == (4, 2_000_000, 60_000_000)
    assert queue(concurrency=2).total == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"supersede": True, "debounce": 5},
        {"run_order": "partition", "debounce": 5},
        {"run_order": "subject", "debounce": 5, "key": "data.a"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="leave one of the two out"):
        queue(**settings)


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        ({"concurrency": {"per_key": True}}, "concurrency.per_key", "it is a whole number"),
        ({"concurrency": {"most": 2}}, "concurrency.most", "there are total and per_key"),
        ({"debounce": {"at_most": "5m"}}, "debounce.quiet", "it must say"),
        ({"debounce": {"quiet": "5m", "at_most": "1m"}}, "debounce.at_most", "it is shorter than quiet"),
        ({"debounce": {"quiet": "5m", "most": "1m"}}, "debounce.most", "there are quiet and at_most"),
    ],
)
def test_what_is_wrong_in_a_table_is_named_with_its_place(settings: dict[str, Any], place: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        queue(**settings)
    (fault,) = refused.value.details["faults"]  # type: ignore[misc]
    assert fault[0] == place
    assert message in fault[1]
