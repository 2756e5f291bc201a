"""A chain of events is counted, carried on and ended at its declared depth, whatever binding it came by."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.events.chain import chain_fault, chain_of, depth_of
from hindscan.events.event import Event
from hindscan.events.wire import encode_http, encode_kafka, parse_http, parse_kafka


@given(st.integers(1, 40), st.booleans(), st.booleans())
def test_a_circle_has_exactly_as_many_runs_as_are_declared(most: int, binary: bool, over_http: bool) -> None:
    mode: Any = "binary" if binary else "structured"
    event, runs = Event(id="first", source="/a", type="t"), 0
    while chain_fault(event.extensions, most) is None:
        runs += 1
        carried = chain_of(f"r{runs}", {"id": event.id, **event.extensions})
        event = Event(id=f"of-{runs}", source="/h", type="t", extensions=carried)
        if over_http:
            message = encode_http(event, mode)
            (event,) = parse_http(list(message.headers.items()), message.body or b"")
        else:
            record = encode_kafka(event, mode)
            event = parse_kafka(record.value, record.headers)
        assert event.extensions["correlationid"] == "first"
        assert event.extensions["causationid"] == ("first" if runs == 1 else f"of-{runs - 1}")
    assert runs == most


@pytest.mark.parametrize("value", ["", "-1", "1.5", "two", " 1", "١", "9" * 30, -1, True])
def test_what_is_no_count_is_a_fault_and_not_a_chain_that_begins_anew(value: Any) -> None:
    with pytest.raises(ValueError, match="chaindepth must be a whole number"):
        depth_of({"chaindepth": value})
    fault = chain_fault({"chaindepth": value}, 8)
    assert fault is not None
    assert "Hand the attribute on as it was" in fault


def test_the_reason_names_the_setting_the_depth_and_the_cause() -> None:
    fault = chain_fault({"chaindepth": "3", "causationid": "e-2", "correlationid": "e-0"}, 3)
    assert fault is not None
    for said in ("may have 3 runs ([serve].chain_depth)", "3 led to this event", "'e-0'", "'e-2'", "redrive"):
        assert said in fault


def test_a_correlation_of_the_producers_own_goes_through_the_whole_chain() -> None:
    assert chain_of("r", {"id": "e", "correlationid": "order-7"})["correlationid"] == "order-7"
    assert chain_of("r", {"id": "e"})["correlationid"] == "e"
    assert chain_of("r", None) == {"correlationid": "r", "chaindepth": 1}
