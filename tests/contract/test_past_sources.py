"""Audits and replays of schedules, files and bodies that are no CloudEvents: each source is held against the store as its nature has it, in every store."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from at_once import at_once
from hindscan import times
from hindscan.auditing import Audit, Audited
from hindscan.config_file import load_project
from hindscan.errors import UsageError
from hindscan.events.event import event_from_json
from hindscan.events.received import received_over_http
from hindscan.listening import wrapped_by
from hindscan.redriving import redrive
from hindscan.replaying import Replay, Replayed, open_intake
from hindscan.runs import positions, register
from hindscan.watching import watchers
from hindscan.workshop import Workshop, open_workshop
from small_project import closing, small_project

Open = Callable[..., Workshop]

CARS = 'job = "total"\nparameters = { category = { value = "cars" } }\n'
YEARLY = 'on = "cron:0 6 1 1 *"\nstart = "2018-01-01"\n' + CARS
ARRIVALS = 'on = "files:lake"\nevery = "1s"\n' + CARS
PLAIN = 'on = "http"\nevent = { id = "id", source = "\'/plain\'", type = "\'closed\'" }\n' + CARS.replace(
    '{ value = "cars" }', '"data.category"'
)
#: By arithmetic: the first of January at six, from 2018 to this year's.
INSTANTS = [f"{year}-01-01T06:00:00Z" for year in range(2018, datetime.now(UTC).year + 1)]


@pytest.fixture
def opened(tmp_path: Path, store_url: str) -> Iterator[Open]:
    """Open the project with these triggers beside `scan`, as often as its file changes."""
    workshops: list[Workshop] = []

    def open_with(**triggers: str) -> Workshop:
        more = "".join(f"[triggers.{name}]\n{body}\n" for name, body in triggers.items())
        workshops.append(open_workshop(small_project(tmp_path, more=more, HINDSCAN_STORE__URL=store_url)))
        return workshops[-1]

    yield open_with
    for workshop in workshops:
        workshop.close()


def look(workshop: Workshop, times_: int = 1) -> None:
    """Look at clocks and folders as `serve` does."""
    made = watchers(workshop.project, workshop.store, open_intake(workshop).take)
    for _ in range(times_):
        for watcher in made:
            watcher._look()


def arrive(root: Path, *names: str, at: str = "2020-06-01T00:00:00Z") -> None:
    """Write complete files that were last changed at a time."""
    (root / "lake").mkdir(exist_ok=True)
    for name in names:
        pq.write_table(pa.table({"n": [1]}), root / "lake" / f"{name}.parquet")
        os.utime(root / "lake" / f"{name}.parquet", (0, times.from_text(at) / 1e6))


def audited(workshop: Workshop, trigger: str, repair: bool = False, **bounds: int) -> Audited:
    return Audit(workshop, trigger, **({"since": None, "until": None} | bounds), repair=repair).run()


def replayed(workshop: Workshop, trigger: str, dry_run: bool = False, **options: Any) -> Replayed:
    return Replay(workshop, trigger, **({"since": None, "until": None, "name": "again"} | options)).run(dry_run=dry_run)


def lose(workshop: Workshop, id: str, *tables: str) -> None:
    """Have the store forget rows of an event, as a fault of ours or of the disk would."""
    with workshop.store.write() as connection:
        for table in tables:
            column = "event_id" if table == "runs" else "id"
            found = connection.execute(sa.text(f"DELETE FROM {table} WHERE {column} LIKE '{id}%'"))
            assert found.rowcount >= 1, table


def runs(workshop: Workshop, trigger: str) -> list[str]:
    return [run.event_id or "" for run in reversed(register.list_runs(workshop.store, trigger=trigger, limit=1000))]


def findings(done: Audited) -> list[tuple[str, str | None, bool]]:
    return [(finding.kind, finding.id, finding.repaired) for finding in done.findings]


class TestSchedule:
    def test_each_instant_that_was_gone_past_must_have_its_run_and_is_submitted_once(self, opened: Open) -> None:
        workshop = opened(yearly=YEARLY)
        look(workshop)
        sound = audited(workshop, "yearly")
        assert (sound.findings, sound.records, sound.events) == ([], len(INSTANTS), len(INSTANTS))
        lose(workshop, "2019", "events", "decisions", "runs")
        lose(workshop, "2020", "decisions", "runs")
        lose(workshop, "2021", "runs")
        expected = [("no event", INSTANTS[1]), ("no decision", INSTANTS[2]), ("no run", INSTANTS[3])]
        assert findings(audited(workshop, "yearly")) == [(*one, False) for one in expected]
        assert findings(audited(workshop, "yearly", repair=True)) == [(*one, True) for one in expected]
        assert audited(workshop, "yearly").findings == []
        assert Counter(runs(workshop, "yearly")) == Counter(INSTANTS)
        (again,) = register.list_runs(workshop.store, event=("/schedules/UTC/0%206%201%201%20%2A", INSTANTS[1]))
        assert again.request.as_of == times.from_text(INSTANTS[1])
        look(workshop)
        assert len(runs(workshop, "yearly")) == len(INSTANTS)

    def test_what_passed_while_nobody_listened_is_waiting_or_left_out_as_the_trigger_says(self, opened: Open) -> None:
        for missed, found in (("latest", INSTANTS[-1:]), ("skip", [])):
            workshop = opened(**{f"yearly_{missed}": f'{YEARLY}missed = "{missed}"\n'})
            watchers(workshop.project, workshop.store, open_intake(workshop).take)
            before = audited(workshop, f"yearly_{missed}")
            assert (before.findings, before.waiting, before.skipped) == ([], len(INSTANTS), 0)
            look(workshop)
            done = audited(workshop, f"yearly_{missed}", repair=True)
            assert runs(workshop, f"yearly_{missed}") == found
            assert (done.findings, done.skipped) == ([], len(INSTANTS) - 1 if found else 0)

    def test_a_replay_takes_instants_by_themselves_and_those_before_a_trigger_from_the_schedule(
        self, opened: Open
    ) -> None:
        workshop = opened(yearly=YEARLY, unlike=YEARLY.replace("0 6 1", "0 7 1"))
        look(workshop)
        since, until = times.from_text("2019-01-01T06:00:00Z"), times.from_text("2021-01-01T06:00:00Z")
        done = replayed(workshop, "yearly", since=since, until=until)
        assert (done.events, done.linked, runs(workshop, "yearly@again")) == (2, 2, INSTANTS[1:3])
        assert [run.parent for run in register.list_runs(workshop.store, trigger="yearly@again")] == [
            run.id for run in register.list_runs(workshop.store, trigger="yearly") if run.event_id in INSTANTS[1:3]
        ]
        assert replayed(workshop, "yearly", since=since, until=until).opened == 0
        earlier = times.from_text("2016-01-01")
        assert replayed(workshop, "yearly", since=earlier, name="all", from_topic=True).opened == len(INSTANTS) + 2
        with pytest.raises(UsageError, match="a schedule has no beginning"):
            replayed(workshop, "yearly", from_topic=True)

    def test_a_new_schedule_is_replayed_and_begins_where_that_ended(self, opened: Open) -> None:
        workshop = opened(yearly=YEARLY)
        since = times.from_text("2017-01-01")
        dry = replayed(workshop, "yearly", since=since, dry_run=True)
        assert (dry.matched, dry.opened, len(dry.plans)) == (len(INSTANTS) + 1, 0, 3)
        Replay(workshop, "yearly", since=since, until=None, name="first").run(activate=True)
        look(workshop)
        assert (runs(workshop, "yearly@first"), runs(workshop, "yearly")) == (["2017-01-01T06:00:00Z", *INSTANTS], [])

    def test_a_redrive_after_a_fix_takes_instants_and_files(self, opened: Open, tmp_path: Path) -> None:
        wrong = {"yearly": YEARLY, "arrivals": ARRIVALS + 'start = "earliest"\n'}
        arrive(tmp_path, "a")
        workshop = opened(**{name: text.replace('{ value = "cars" }', '"data.none"') for name, text in wrong.items()})
        look(workshop, 2)
        assert (runs(workshop, "yearly"), runs(workshop, "arrivals")) == ([], [])
        mended = opened(**wrong)
        assert audited(mended, "yearly").findings == []
        done = redrive(mended.project, mended.store, open_intake(mended), None)
        assert Counter(one.outcome for one in done) == {"matched": len(INSTANTS) + 1}
        assert runs(mended, "yearly") == INSTANTS
        assert [run.request.as_of for run in register.list_runs(mended.store, trigger="arrivals")] == [
            times.from_text("2020-06-01T00:00:00Z")
        ]


class TestFiles:
    def test_each_complete_file_since_the_beginning_must_have_its_run_and_is_submitted_once(
        self, opened: Open, tmp_path: Path
    ) -> None:
        workshop = opened(arrivals=ARRIVALS)
        arrive(tmp_path, "before")
        assert audited(workshop, "arrivals").waiting == 1, "it has not begun"
        look(workshop)
        arrive(tmp_path, "a", "b", "c", "d")
        look(workshop, 2)
        sound = audited(workshop, "arrivals")
        assert (sound.findings, sound.events, sound.waiting) == ([], 4, 0)
        lose(workshop, "a.parquet", "events", "decisions", "runs")
        lose(workshop, "b.parquet", "decisions", "runs")
        lose(workshop, "c.parquet", "runs")
        (tmp_path / "lake" / "half.parquet").write_bytes(b"PAR1")
        arrive(tmp_path, "e")
        arrive(tmp_path, "now", at=times.to_text(workshop.store.now()))
        expected = {("no event", "a"), ("no decision", "b"), ("no run", "c"), ("no event", "e")}
        found = audited(workshop, "arrivals", repair=True)
        assert {(one.kind, (one.id or "").partition(".")[0]) for one in found.findings} == expected
        assert (found.sound, found.waiting) == (True, 2)
        again = audited(workshop, "arrivals")
        assert (again.findings, again.waiting) == ([], 2)
        look(workshop, 2)
        names = Counter(run.partition(".")[0] for run in runs(workshop, "arrivals"))
        assert names == Counter(["a", "b", "c", "d", "e", "now"])

    def test_files_are_replayed_from_the_ledger_or_from_what_is_there(self, opened: Open, tmp_path: Path) -> None:
        workshop = opened(arrivals=ARRIVALS)
        arrive(tmp_path, "early", at="2019-01-01")
        look(workshop)
        arrive(tmp_path, "late")
        look(workshop, 2)
        assert replayed(workshop, "arrivals", since=times.from_text("2020-01-01")).opened == 1
        assert replayed(workshop, "arrivals", name="all", from_topic=True).opened == 2
        both = opened(arrivals=ARRIVALS, new=ARRIVALS)
        assert replayed(both, "new", since=times.from_text("2020-01-01")).newly == 1
        with pytest.raises(UsageError, match="a folder has none"):
            Replay(both, "new", since=None, until=None).run(activate=True)
        assert audited(both, "scan").findings == []


class TestBodies:
    def post(self, workshop: Workshop, trigger: str, body: bytes) -> None:
        wrapped = wrapped_by(workshop.project, workshop.project.triggers[trigger])
        assert wrapped is not None
        received = [received_over_http(event, trigger) for event in wrapped(body, None)]
        open_intake(workshop).take(received)

    def test_what_is_posted_to_one_trigger_is_that_ones_alone(self, opened: Open) -> None:
        workshop = opened(plain=PLAIN, other=PLAIN)
        self.post(workshop, "plain", b'{"id": "p", "category": "cars"}')
        self.post(workshop, "plain", b'{"id": "q"}')
        open_intake(workshop).take([received_over_http(event_from_json(closing("c")))])
        for trigger, events in (("scan", 1), ("plain", 2), ("other", 0)):
            done = audited(workshop, trigger, repair=True)
            assert (done.findings, done.events) == ([], events), trigger
            assert replayed(workshop, trigger).events == events
        lose(workshop, "p", "runs")
        assert [kind for kind, *_ in findings(audited(workshop, "plain", repair=True))] == ["no run"]
        assert audited(workshop, "plain").findings == []
        # Whose a body was that nobody has decided about any more, its own row says.
        lose(workshop, "p", "runs", "decisions")
        for trigger, found in (("scan", []), ("other", []), ("plain", [("no decision", "p", True)])):
            assert findings(audited(workshop, trigger, repair=True)) == found, trigger
            assert findings(audited(workshop, trigger)) == [], trigger
        mended = opened(
            plain=PLAIN.replace('"data.category"', "{ path = 'data.category', default = 'cars' }"), other=PLAIN
        )
        one, replay = redrive(mended.project, mended.store, open_intake(mended), None)
        assert (one.outcome, one.trigger, one.id) == ("matched", "plain", "q")
        assert (replay.outcome, "Repeat it: `hindscan replay plain --name again`" in replay.reason) == (
            "quarantined",
            True,
        )
        assert sorted(runs(mended, "plain")) == ["p", "q"]


def test_two_audits_at_once_beside_a_dispatcher_submit_each_once(opened: Open, tmp_path: Path) -> None:
    workshop = opened(yearly=YEARLY, arrivals=ARRIVALS)
    look(workshop)
    arrive(tmp_path, *(f"f{number}" for number in range(20)))
    lose(workshop, "2", "events", "decisions", "runs")
    env = {"HINDSCAN_STORE__URL": workshop.project.store.url}
    begin = threading.Barrier(3)

    def apart(work: Callable[[Workshop], object]) -> None:
        with open_workshop(load_project(tmp_path, env)) as own:
            begin.wait(20)
            work(own)

    def audit(own: Workshop) -> None:
        assert audited(own, "yearly", repair=True).sound
        assert audited(own, "arrivals", repair=True).sound

    at_once(*(partial(apart, work) for work in (audit, audit, lambda own: look(own, 3))))
    assert Counter(runs(workshop, "yearly")) == Counter(INSTANTS)
    assert Counter(run.partition(".")[0] for run in runs(workshop, "arrivals")) == Counter(f"f{n}" for n in range(20))


class TestRenamed:
    def test_a_schedule_and_files_go_on_where_they_stood_under_the_old_name_and_back_again(
        self, opened: Open, tmp_path: Path
    ) -> None:
        old = {"yearly": YEARLY, "arrivals": ARRIVALS}
        new = {f"new_{name}": f'was = "{name}"\n{text}' for name, text in old.items()}
        back = {name: f'was = "new_{name}"\n{text}' for name, text in old.items()}
        workshop = opened(**old)
        look(workshop)
        arrive(tmp_path, "a")
        look(workshop, 2)
        # Between the two nobody listened: a year's instant and a file came.
        with workshop.store.write() as connection:
            last = times.from_text(INSTANTS[-2]) // 1_000_000 + 1
            connection.execute(sa.text(f"UPDATE positions SET next_offset = {last}"))
        lose(workshop, INSTANTS[-1], "events", "decisions", "runs")
        arrive(tmp_path, "b")
        renamed = opened(**new)
        look(renamed, 2)
        assert runs(renamed, "new_yearly") == INSTANTS[-1:]
        assert [run.partition(".")[0] for run in runs(renamed, "new_arrivals")] == ["b"]
        arrive(tmp_path, "c")
        again = opened(**back)
        look(again, 2)
        assert runs(again, "yearly") == INSTANTS[:-1]
        assert [run.partition(".")[0] for run in runs(again, "arrivals")] == ["a", "c"]
        for name in ("yearly", "arrivals"):
            assert audited(again, name).findings == []
        assert len(positions.places(again.store, "yearly")) == 1
