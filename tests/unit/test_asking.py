"""One window from every way in: typed, in Python, over HTTP, stored and asked for again."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import hindscan as hs
from hindscan import times
from hindscan.asking import option_values
from hindscan.cli.options import WindowOptions
from hindscan.config_file import load_project
from hindscan.errors import UsageError
from hindscan.explore import window_values
from hindscan.history.snapshot import OffsetRange, Window
from hindscan.history.window import make_window
from hindscan.planning import ask
from hindscan.runs.run import RunRequest
from hindscan.sweeping import given_points, typed_points
from hindscan.template import write_project
from hindscan.words import chosen_document
from hindscan.workshop import open_workshop


def in_python(**given: Any) -> Window:
    return make_window(**window_values(**{"as_of": None, "since": None, "until": None, "last": None, **given}))


@pytest.mark.parametrize(
    ("typed", "posted", "called"),
    [
        (
            {"as_of": "2020-01-08", "last": "7d"},
            {"as_of": "2020-01-08", "last": "1w"},
            {"as_of": date(2020, 1, 8), "last": timedelta(days=7)},
        ),
        (
            {"since": "2020-01-01T01:00:00+01:00", "until": "2020-02-01"},
            {"since": "2020-01-01", "until": "2020-02-01T00:00:00Z"},
            {"since": datetime(2020, 1, 1, tzinfo=UTC), "until": "2020-02-01"},
        ),
        (
            {"offsets": "1:5-, 0:100-200"},
            {"offsets": {"0": [100, 200], "1": [5, None]}},
            {"offsets": {1: (5, None), 0: (100, 200)}},
        ),
        (
            {"partitions": "3,0", "key": ["b", "a"]},
            {"partitions": [0, 3], "keys": ["a", "b"]},
            {"partitions": (0, 3), "keys": [b"b", "a"]},
        ),
    ],
)
def test_typed_posted_and_called_mean_the_same(
    typed: dict[str, Any], posted: dict[str, Any], called: dict[str, Any]
) -> None:
    window = in_python(**called)
    assert window != Window()
    assert make_window(**WindowOptions(**typed).values()) == window
    parameters, options = option_values({"parameters": {"year": 1}, **posted})
    assert (parameters, make_window(**options)) == ({"year": 1}, window)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"offsets": "0:1"}, r"--offsets: it must be PARTITION:START-END"),
        ({"offsets": "0:1-2,0:3-4"}, r"each partition once"),
        ({"partitions": "a"}, r"--partitions: it must be numbers"),
        ({"last": "7"}, r"--last: it must be a number with a unit"),
        ({"as_of": "soon"}, r"--as-of: it must be an ISO 8601 time"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_option(typed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        WindowOptions(**typed).values()


def test_all_faults_of_a_posted_window_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        option_values({"last": 7, "offsets": {"a": [1, 2]}, "partitions": "0", "keys": [1], "since": 5})
    faults = caught.value.details["faults"]
    assert isinstance(faults, list)
    assert sorted(fault.partition(":")[0] for fault in faults) == ["keys", "last", "offsets", "partitions", "since"]


def test_a_request_goes_through_the_store_unchanged_and_is_shown_in_words() -> None:
    request = RunRequest(
        job="j", offsets=(OffsetRange(partition=2, start=1), OffsetRange(partition=10, end=7)), keys=(b"a", b"\xff")
    )
    assert msgspec.json.decode(msgspec.json.encode(request), type=RunRequest) == request
    assert chosen_document(request) == {
        "offsets": {"2": [1, None], "10": [None, 7]},
        "partitions": [],
        "keys": ["a", "\\xff"],
    }


def test_lengths_of_time_are_written_as_they_are_read() -> None:
    for text in ("90s", "36h", "1ms", "0ms", "14d"):
        assert times.duration(times.duration_text(times.duration(text))) == times.duration(text)
    for wrong in ("", "7", "d", "-1d", "1y", "1e3s", "99999w"):
        with pytest.raises(ValueError, match="such as 30s, 12h or 7d"):
            times.duration(wrong)


def test_a_stored_request_can_be_asked_for_again(tmp_path: Path) -> None:
    write_project(tmp_path, bids=100)
    project = load_project(tmp_path)
    with open_workshop(project) as workshop:
        spec, _ = workshop.job("bidder_scan")
    window = {
        "offsets": {1: (5, None)},
        "keys": ["a"],
        "histories": {"bids": "bids_log"},
        "last": times.duration("7d"),
        "until": times.from_text("2200-01-01"),
    }
    request = ask(project, spec, {"year": 2018}, **window)
    assert request.since is not None
    stored = {n: v for n, v in msgspec.structs.asdict(request).items() if v not in ({}, ()) and n != "job"}
    assert ask(project, spec, stored.pop("parameters"), **stored) == request
    with pytest.raises(UsageError) as caught:
        ask(project, spec, {}, since=9, until=3, partitions=[], seed=4, histories={"what": "bids"})
    faults = caught.value.details["faults"]
    assert isinstance(faults, list)
    assert len(faults) == 4, "of the window and of the other options at once"


@pytest.mark.parametrize(
    ("job", "options", "said"),
    [
        ("bidder_scan", {"offsets": {0: (1, 2)}}, "offsets choose what is read of a topic"),
        ("bidder_scan", {"partitions": [0]}, "partitions choose what is read of a topic"),
        ("bidder_scan", {"keys": ["a"]}, "keys choose what is read of a topic"),
        ("bidder_scan", {"histories": {"bids": "timeless"}, "since": 5}, "since needs to know the time of its rows"),
        ("bidder_scan", {"histories": {"bids": "timeless"}, "as_of": 5}, "as_of needs to know the time of its rows"),
        ("auction_theory", {"draws": 1.5, "seed": True, "workers": "2"}, "draws must be a whole number, found 1.5"),
        ("auction_theory", {"stop": "1%"}, "stop must be like .* found '1%'"),
        ("auction_theory", {"draws": 10**20 - 1}, "99,999,999,999,999,999,999 draws need 5,960,464,477,"),
        ("auction_theory", {"stop": {"max_draws": 10**20}}, "max_slices is 100,000"),
        (
            "auction_theory",
            {"draws": 10**9, "points": [{"bidders": n} for n in range(2, 902)]},
            "at each of 900 points",
        ),
    ],
)
def test_what_no_history_and_no_plan_can_have_is_refused_before_there_is_a_run(
    tmp_path: Path, job: str, options: dict[str, Any], said: str
) -> None:
    write_project(tmp_path, bids=100)
    with (tmp_path / "hindscan.toml").open("a") as file:
        file.write('\n[history.timeless]\nparquet = "data/bids"\n')
    project = load_project(tmp_path)
    with open_workshop(project) as workshop:
        spec, _ = workshop.job(job)
    with pytest.raises(UsageError, match=said):
        ask(project, spec, {}, **options)


def test_draws_and_points_are_taken_as_far_as_a_plan_can_hold_them(tmp_path: Path) -> None:
    write_project(tmp_path, bids=100)
    project = load_project(tmp_path)
    with open_workshop(project) as workshop:
        spec, _ = workshop.job("auction_theory")
    assert ask(project, spec, {}, draws=10**12).draws == 10**12
    assert ask(project, spec, {}, draws=np.int64(7), seed=np.uint8(3)) == ask(project, spec, {}, draws=7, seed=3)
    with pytest.raises(UsageError, match="bidders is swept, so it has no value of its own"):
        ask(project, spec, {"bidders": 3}, points=[{"bidders": 2}])
    for sweep, said in (
        ({"bidders": 5}, r"its values must be a list or a range, found 5\. Write \[5\]"),
        ({"bidders": "2..9"}, "its values must be a list"),
        ({"bidders": range(10**6), "other": range(10**6)}, "at most 100,000 points"),
    ):
        with pytest.raises(UsageError, match=said):
            given_points(sweep)
    for typed, said in (
        ({"a": "1..1000", "b": "1..1000"}, "1,000,000 combinations"),
        ({"a": "5..4.5"}, "it has 0"),
        ({"a": "5..6..-1"}, "it has 0"),
    ):
        with pytest.raises(UsageError, match=said):
            typed_points(typed)
    assert typed_points({"a": "6..5..-0.5"})[1] == ({"a": "6.0"}, {"a": "5.5"}, {"a": "5.0"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"as_of": 2018}, "Reading as_of: it must be a text, a date or a datetime, found 2018"),
        ({"until": np.datetime64("2018-01-01")}, "Reading until: it must be a text, a date or a datetime, found .*2018-01-01"),
        ({"since": timedelta(days=1)}, "Reading since: it must be"),
        ({"last": 7}, "Reading last: it must be a text or a timedelta, found 7"),
    ],
)  # fmt: skip
def test_what_could_mean_several_times_means_none(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        in_python(**given)


def test_what_is_no_job_or_no_parameters_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the job must be a name, or a function under @hs.job .*found <function"):
        write_project(tmp_path, bids=0)
        hs.run(in_python, project=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"parameters must be a mapping, value by name; found \['cars'\]"):
        hs.run("bidder_scan", ["cars"])  # type: ignore[arg-type]
