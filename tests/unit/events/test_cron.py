"""Every instant of a schedule comes once, in every zone, whatever the clocks do: against a scan of all minutes."""

from __future__ import annotations

import itertools
import zoneinfo
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindscan.events.cron import cron_fault, ticks, time_zone

MINUTE = timedelta(minutes=1)
#: Zones, each with days on which its clocks were set: by an hour, by half of one, at midnight, by a whole day.
CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 29, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, tzinfo=UTC)),
    ("Pacific/Chatham", datetime(2026, 4, 4, tzinfo=UTC)),
    ("Pacific/Chatham", datetime(2026, 9, 26, tzinfo=UTC)),
    ("America/Santiago", datetime(2026, 9, 6, tzinfo=UTC)),
    ("Asia/Beirut", datetime(2026, 3, 28, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 29, tzinfo=UTC)),
    ("UTC", datetime(2026, 2, 28, tzinfo=UTC)),
]


def is_shown(wall: datetime, zone: zoneinfo.ZoneInfo) -> bool:
    return wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0) == wall


def by_scanning(
    minutes: Collection[int],
    hours: Collection[int],
    given_times: bool,
    zone: zoneinfo.ZoneInfo,
    after: datetime,
    until: datetime,
) -> list[datetime]:
    """Look at every minute: those that pass, or those that a wall clock could show."""
    found = set()
    if not given_times:
        at = after.replace(second=0) + MINUTE
        while at < until:
            wall = at.astimezone(zone)
            if wall.minute in minutes and wall.hour in hours:
                found.add(at)
            at += MINUTE
        return sorted(found)
    wall = after.astimezone(zone).replace(tzinfo=None, second=0, fold=0) - timedelta(hours=30)
    while wall < until.astimezone(zone).replace(tzinfo=None) + timedelta(hours=2):
        if wall.minute in minutes and wall.hour in hours:
            shown = next(wall + n * MINUTE for n in itertools.count() if is_shown(wall + n * MINUTE, zone))
            at = shown.replace(tzinfo=zone).astimezone(UTC)
            if after < at < until:
                found.add(at)
        wall += MINUTE
    return sorted(found)


def listed(numbers: Collection[int]) -> str:
    return ",".join(map(str, sorted(numbers)))


fields = st.tuples(
    st.one_of(st.sets(st.integers(0, 59), min_size=1, max_size=3), st.sampled_from([1, 7, 20])),
    st.one_of(st.sets(st.integers(0, 5), min_size=1, max_size=3), st.sampled_from([1, 2])),
)


@settings(max_examples=60)
@given(st.sampled_from(CHANGES), fields, st.integers(-40 * 60, 10 * 60), st.integers(0, 59))
def test_ticks_are_those_that_a_scan_of_every_minute_finds(change, field, minutes_off, seconds_off) -> None:
    (name, day), (minute, hour) = change, field
    expression = f"{listed(minute) if isinstance(minute, set) else f'*/{minute}'} {listed(hour) if isinstance(hour, set) else f'*/{hour}'} * * *"
    minutes = minute if isinstance(minute, set) else range(0, 60, minute)
    hours = hour if isinstance(hour, set) else range(0, 24, hour)
    after = day + timedelta(minutes=minutes_off, seconds=seconds_off)
    until = after + timedelta(hours=40)
    zone = time_zone(name)
    expected = by_scanning(minutes, hours, isinstance(minute, set) and isinstance(hour, set), zone, after, until)
    assert list(itertools.takewhile(lambda at: at < until, ticks(expression, zone, after))) == expected


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        # The clocks go from 02:00 to 03:00.
        ("30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
        ("*/30 2 * * *", "2026-03-28T12:00", ["2026-03-30T00:00", "2026-03-30T00:30"]),
        # They go back from 03:00 to 02:00.
        ("30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("30 2 * * *", "2026-10-25T00:30", ["2026-10-26T01:30", "2026-10-27T01:30"]),
        ("*/30 2 * * *", "2026-10-25T00:00", ["2026-10-25T00:30", "2026-10-25T01:00", "2026-10-25T01:30"]),
        ("0 9 * * MON-FRI", "2026-11-27T12:00", ["2026-11-30T08:00", "2026-12-01T08:00"]),
        ("0 0 L * *", "2026-02-01T00:00", ["2026-02-27T23:00", "2026-03-30T22:00"]),
        ("0 0 29 2 *", "2026-01-01T00:00", ["2028-02-28T23:00", "2032-02-28T23:00"]),
    ],
)
def test_in_berlin(expression, after, expected) -> None:
    found = ticks(expression, time_zone("Europe/Berlin"), datetime.fromisoformat(after).replace(tzinfo=UTC))
    assert [f"{at:%Y-%m-%dT%H:%M}" for at, _ in zip(found, expected, strict=False)] == expected


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("0 6 * *", "has 4"),
        ("0 0 6 * * *", "has 6"),
        ("@daily", "five fields"),
        ("61 * * * *", "Bad minute"),
        ("*/0 * * * *", "Bad minute"),
        ("0 0 30 2 *", "Bad day"),
        ("0 0 * FEB MON#6", "Bad day-of-week"),
        ("٣ * * * *", "five fields"),
        ("", "has 0"),
    ],
)
def test_what_is_no_schedule_is_refused(expression, fault) -> None:
    assert fault in (cron_fault(expression) or "")


@given(st.text(max_size=20) | st.text("0123456789*/,-L#MONJAN ", max_size=20))
def test_any_text_is_a_schedule_or_has_a_fault(text) -> None:
    if cron_fault(text) is None:
        first = list(itertools.islice(ticks(text, time_zone("Europe/Berlin"), datetime(2026, 1, 1, tzinfo=UTC)), 3))
        assert first == sorted(set(first))


@pytest.mark.parametrize("name", ["", "Europe/Bonn", "../etc/passwd", "CET+1", "/etc/localtime", "a\0b"])
def test_there_is_no_such_zone(name) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        time_zone(name)
