"""Which instants of a schedule are to be decided, and that each is one event whoever makes it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hindscan import times
from hindscan.events.schedule import LATE_SECONDS, MAX_DUE, due, next_tick, tick

DAY = 86400
NOW = times.from_text("2026-11-25T12:00:00Z") // 1_000_000


def test_all_that_passed_is_due_the_last_of_it_or_what_is_not_late() -> None:
    since = NOW - 3 * DAY
    midnights = [NOW // DAY * DAY - 2 * DAY + n * DAY for n in range(3)]
    assert due("0 0 * * *", "UTC", since, NOW, "catch up") == midnights
    assert due("0 0 * * *", "UTC", since, NOW, "latest") == midnights[-1:]
    assert due("0 0 * * *", "UTC", since, NOW, "skip") == []
    assert due("0 0 * * *", "UTC", midnights[-1], midnights[-1] + LATE_SECONDS, "skip") == midnights[-1:]
    assert due("0 0 * * *", "UTC", midnights[-1] + 1, NOW, "catch up") == []


def test_a_long_absence_is_worked_off_in_parts() -> None:
    first = due("* * * * *", "UTC", NOW - DAY, NOW, "catch up")
    assert len(first) == MAX_DUE
    second = due("* * * * *", "UTC", first[-1] + 1, NOW, "catch up")
    assert first + second == list(range(NOW - DAY, NOW + 1, 60))


@given(st.lists(st.integers(0, 90_000), min_size=1, max_size=6), st.sampled_from(["catch up", "latest", "skip"]))
def test_however_often_one_looks_each_instant_is_decided_once(gaps, missed) -> None:
    expression, zone = "17 */5 * * *", "Europe/Berlin"
    since = at = start = NOW
    decided: list[int] = []
    for gap in gaps:
        at += gap
        found = due(expression, zone, since, at, missed)
        decided += found
        since = found[-1] + 1 if found else since
    assert decided == sorted(set(decided))
    everything = due(expression, zone, start, at, "catch up")
    assert set(decided) <= set(everything)
    if missed == "catch up":
        assert decided == everything
    elif missed == "latest" and everything:
        assert decided[-1] == everything[-1]


def test_the_event_of_an_instant_is_the_same_whoever_makes_it() -> None:
    made = tick("0 6 * * *", "Europe/Berlin", times.from_text("2026-11-25T05:00:00Z") // 1_000_000)
    assert made.to_json() == {
        "specversion": "1.0",
        "id": "2026-11-25T05:00:00Z",
        "source": "/schedules/Europe%2FBerlin/0%206%20%2A%20%2A%20%2A",
        "type": "hindscan.schedule",
        "time": "2026-11-25T05:00:00Z",
        "datacontenttype": "application/json",
        "data": {"schedule": "0 6 * * *", "time_zone": "Europe/Berlin", "local_time": "2026-11-25T06:00:00+01:00"},
    }
    assert next_tick("0 6 * * *", "Europe/Berlin", NOW) == times.from_text("2026-11-26T05:00:00Z") // 1_000_000
