"""Triggers of schedules and files over a real store and a clock of the test's own: starts are stored once, two dispatchers make one run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hindscan import times
from hindscan.config import Project
from hindscan.config_file import load_project
from hindscan.events.received import Received
from hindscan.events.watcher import Watcher
from hindscan.intake import Intake
from hindscan.jobs.job import Parameter
from hindscan.runs.inbox import list_events
from hindscan.runs.register import list_runs
from hindscan.runs.store import Store, open_store
from hindscan.watching import watchers
from scan_job import scan_spec

SPEC = scan_spec(Parameter(name="which", type="str", required=True))
HISTORY = '[history.bids]\nparquet = "data/bids"\ntime = "date_time"\n'
T0 = times.from_text("2026-10-24T12:00:00Z")
HOUR = 3_600_000_000


class Bench:
    """A project with its store, and dispatchers that look when they are told to."""

    def __init__(self, folder: Path, triggers: str) -> None:
        (folder / "hindscan.toml").write_text(HISTORY + triggers)
        self.project: Project = load_project(folder, {})
        self.now = T0
        self.taken = 0
        self.store: Store = open_store(self.project.store_url, folder, clock=lambda: self.now)

    def dispatcher(self) -> list[Watcher]:
        intake = Intake(self.project, self.store, {"scan": SPEC})

        def take(batch: Sequence[Received]) -> None:
            intake.take(batch)
            self.taken += len(batch)

        return watchers(self.project, self.store, take)

    def whiches(self) -> list[Any]:
        return [run.request.parameters["which"] for run in reversed(list_runs(self.store, limit=10_000))]


def look(dispatcher: list[Watcher]) -> float:
    return min(watcher._look() for watcher in dispatcher)


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    made: list[Bench] = []

    def make(triggers: str) -> Bench:
        made.append(Bench(tmp_path, triggers))
        return made[-1]

    yield make
    for one in made:
        one.store.close()


def cron(name: str = "t", **settings: str) -> str:
    lines = "".join(f'{key} = "{value}"\n' for key, value in settings.items())
    return f'[triggers.{name}]\non = "cron:30 2 * * *"\njob = "scan"\nparameters = {{ which = "time" }}\n{lines}'


def test_a_schedule_ticks_once_for_two_dispatchers_and_through_a_change_of_the_clocks(bench: Any) -> None:
    at = bench(cron(time_zone="Europe/Berlin"))
    first, second = at.dispatcher(), at.dispatcher()
    for _ in range(72):
        look(first)
        look(second)
        at.now += HOUR // 2
    # The night to the 25th has 02:30 twice.
    assert at.whiches() == ["2026-10-25T00:30:00Z"]
    at.now += 24 * HOUR
    look(second)
    look(first)
    assert at.whiches() == ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    assert [run.request.as_of for run in list_runs(at.store)] == [
        times.from_text("2026-10-26T01:30:00Z"),
        times.from_text("2026-10-25T00:30:00Z"),
    ]
    assert at.taken == 4
    shown = list_events(at.store)[0]
    assert (shown["way"], shown["type"], shown["position"]) == ("schedule", "hindscan.schedule", None)


@pytest.mark.parametrize(("missed", "expected"), [("catch up", [25, 26, 27]), ("latest", [27]), ("skip", [])])
def test_what_was_missed_is_caught_up_with_or_not_as_the_trigger_says(
    bench: Any, missed: str, expected: list[int]
) -> None:
    at = bench(cron(missed=missed))
    look(at.dispatcher())
    at.now += 3 * 24 * HOUR
    again = at.dispatcher()
    look(again)
    look(again)
    assert at.whiches() == [f"2026-10-{day}T02:30:00Z" for day in expected]
    at.now = times.from_text("2026-10-28T02:30:01Z")
    assert look(again) > 0
    assert at.whiches()[-1] == "2026-10-28T02:30:00Z"


def test_a_new_schedule_begins_now_or_when_it_says_and_keeps_that(bench: Any) -> None:
    at = bench(cron("new") + cron("old", start="2026-10-22T02:30:00Z") + cron("both", start="earliest"))
    at.dispatcher()
    at.now += 24 * HOUR
    look(at.dispatcher())
    by_trigger = {name: sum(run.trigger == name for run in list_runs(at.store)) for name in ("new", "old", "both")}
    assert by_trigger == {"new": 1, "old": 4, "both": 1}


def test_an_absence_of_months_is_caught_up_without_waiting(bench: Any) -> None:
    at = bench(cron().replace("30 2 * * *", "* * * * *"))
    at.dispatcher()
    at.now += 40 * HOUR
    again = at.dispatcher()
    looks = 0
    while look(again) == 0.0:
        looks += 1
    assert looks == 2
    assert len(at.whiches()) == len(set(at.whiches())) == 40 * 60


def test_a_clock_that_is_set_back_ticks_nothing_twice(bench: Any) -> None:
    at = bench(cron())
    dispatcher = at.dispatcher()
    at.now = times.from_text("2026-10-25T02:30:00Z")
    look(dispatcher)
    at.now -= 12 * HOUR
    look(dispatcher)
    look(at.dispatcher())
    at.now += 12 * HOUR
    look(dispatcher)
    assert at.whiches() == ["2026-10-25T02:30:00Z"]


def write(file: Path, rows: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"n": range(rows)}), file)


def files(name: str = "t", **settings: str) -> str:
    lines = "".join(f'{key} = "{value}"\n' for key, value in settings.items())
    return f'[triggers.{name}]\non = "files:lake"\njob = "scan"\nparameters = {{ which = "data.name" }}\n{lines}'


def test_files_that_are_there_are_ignored_or_taken_and_later_ones_are_one_run_each(bench: Any, tmp_path: Path) -> None:
    for name, day in (("a", 1), ("b", 20)):
        write(tmp_path / "lake" / f"{name}.parquet")
        os.utime(tmp_path / "lake" / f"{name}.parquet", (0, times.from_text(f"2026-10-{day:02}") // 1_000_000))
    at = bench(files("now") + files("all", start="earliest") + files("since", start="2026-10-10"))
    # The start is what was there when the first dispatcher began, not what the second one finds.
    first = at.dispatcher()
    write(tmp_path / "lake" / "c.parquet")
    second = at.dispatcher()
    for _ in range(3):
        look(first)
        look(second)
    taken = at.taken
    third = at.dispatcher()
    look(third)
    look(third)
    found = {
        name: sorted(r.request.parameters["which"] for r in list_runs(at.store) if r.trigger == name)
        for name in ("now", "all", "since")
    }
    assert found == {
        "now": ["c.parquet"],
        "all": ["a.parquet", "b.parquet", "c.parquet"],
        "since": ["b.parquet", "c.parquet"],
    }
    assert len(list_events(at.store)) == 3
    # What is recorded is not even looked at again.
    assert at.taken == taken


def test_a_folder_that_is_not_there_is_empty_and_its_first_file_counts(bench: Any, tmp_path: Path) -> None:
    at = bench(files())
    dispatcher = at.dispatcher()
    look(dispatcher)
    write(tmp_path / "lake" / "a.parquet")
    look(dispatcher)
    assert look(dispatcher) == 5.0
    assert at.whiches() == ["a.parquet"]


def test_a_file_that_cannot_be_mapped_is_quarantined_once(bench: Any, tmp_path: Path) -> None:
    at = bench(files().replace("data.name", "data.nothing"))
    dispatcher = at.dispatcher()
    write(tmp_path / "lake" / "a.parquet")
    for _ in range(4):
        look(dispatcher)
    (shown,) = list_events(at.store, quarantined=True)
    assert (shown["way"], shown["decisions"][0]["outcome"]) == ("files", "quarantined")
    assert at.whiches() == []
