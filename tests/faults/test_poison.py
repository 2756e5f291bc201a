"""What kills the process while it is read or decided is set aside after three tries, and all others go on (promise 5)."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hindscan.runs.inbox import list_events
from hindscan.runs.store import open_store
from hindscan.runs.tries import TRIES_MOST

PROJECT = """
[history.bids]
parquet = "data/bids"
time = "date_time"
[triggers.scan]
on = ["kafka:closings", "http"]
job = "scan"
[kafka.default]
"bootstrap.servers" = "127.0.0.1:1"
"""

#: A dispatcher's life as far as the intake goes: events from where the store stands, in one batch; "poison" kills whoever reads or decides it.
LIFE = """
import json, os, signal, sys
from functools import partial
from pathlib import Path
import hindscan.intake
from hindscan import faults
from hindscan.config_file import load_project
from hindscan.events.event import event_from_json
from hindscan.events.received import Unread, received_from_kafka, received_over_http
from hindscan.events.trigger import decide
from hindscan.jobs.job import JobSpec, Step
from hindscan.runs.positions import places
from hindscan.runs.store import open_store

spec = JobSpec(name="scan", kind="scan", table="bids", history="bids", combine="concat", code="c", steps={"slice": Step(digest="d")})

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def deciding(trigger, event, *rest):
    if where == "deciding" and event.id == "poison":
        die()
    return decide(trigger, event, *rest)

hindscan.intake.decide = deciding

def document(id):
    return {"specversion": "1.0", "id": id, "source": "/s", "type": "t"}

def reading(offset):
    if where == "reading" and ids[offset] == "poison":
        die()
    return received_from_kafka(value(offset), HEADERS, **at(offset))

HEADERS = (("content-type", b"application/cloudevents+json"),)
value = lambda offset: json.dumps(document(ids[offset])).encode()
at = lambda offset: dict(key=b"k", cluster="default", topic="closings", topic_id="i", partition=0, offset=offset, record_time=5)

project = load_project(Path(root), {})
with open_store(project.store_url, project.root) as store:
    intake = hindscan.intake.Intake(project, store, {"scan": spec})
    if way == "http":
        intake.take([received_over_http(event_from_json(document(id))) for id in ids])
    else:
        place = places(store, "scan")
        first = place[0].next_offset if place else 0
        batch = [Unread(body=value(n), headers=HEADERS, read=partial(reading, n), **at(n)) for n in range(first, len(ids))]
        if batch:
            intake.take(batch)
"""


#: Loads everything once and then lives as often as it is told to, each time in a process of its own: a start of Python takes longer than a life.
NURSERY = """
import json, os, sys, traceback
import sqlalchemy.dialects.sqlite
import hindscan.jobs.parameters
from hindscan import config, faults, intake, runs
program = compile(sys.argv[1], "program", "exec")
for line in sys.stdin:
    told = json.loads(line)
    child = os.fork()
    if not child:
        faults._TARGET, _, faults._COUNT = told.pop("fault").partition(":")
        try:
            exec(program, told)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Project:
    """A project, and who lives in it."""

    def __init__(self, root: Path, nursery: subprocess.Popen[str]) -> None:
        self.root, self._nursery = root, nursery
        (root / "hindscan.toml").write_text(PROJECT)

    def live(self, way: str, where: str, ids: Sequence[str], fault: str = "") -> int:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        told = {"root": str(self.root), "way": way, "where": where, "ids": list(ids), "fault": fault}
        self._nursery.stdin.write(json.dumps(told) + "\n")
        self._nursery.stdin.flush()
        code = int(self._nursery.stdout.readline())
        assert code in (0, -signal.SIGKILL), "see its standard error"
        return code

    def lives(self, way: str, where: str, ids: Sequence[str]) -> int:
        """Live until a life ends well; give how many did not."""
        for died in range(10):
            if self.live(way, where, ids) == 0:
                return died
        raise AssertionError("it never ended")

    def runs(self) -> list[str]:
        return [row[0] for row in self.rows("SELECT event_id FROM runs ORDER BY seq")]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.root / ".hindscan" / "hindscan.db")) as connection:
            return connection.execute(query).fetchall()

    def quarantined(self) -> list[dict[str, Any]]:
        with open_store(f"sqlite:///{self.root}/.hindscan/hindscan.db") as store:
            return list_events(store, quarantined=True)


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", NURSERY, LIFE]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.communicate(timeout=10)


@pytest.fixture
def project(tmp_path: Path, nursery: subprocess.Popen[str]) -> Project:
    return Project(tmp_path, nursery)


@pytest.mark.parametrize("where", ["reading", "deciding"])
@pytest.mark.parametrize("ids", [["poison"], ["a", "b", "poison", "c"], ["poison", "a", "b", "c"]], ids=len)
def test_a_record_that_kills_is_set_aside_with_its_bytes_after_three_tries(
    project: Project, where: str, ids: list[str]
) -> None:
    assert project.lives("kafka", where, ids) == TRIES_MOST
    assert project.runs() == [one for one in ids if one != "poison"]
    (shown,) = project.quarantined()
    assert shown["position"] == f"closings[0]@{ids.index('poison')}"
    assert "3 processes have died in the middle of it" in shown["reason"]
    ((body, key, time),) = project.rows("SELECT body, key, record_time FROM quarantine")
    assert (b"poison" in body, key, time) == (True, b"k", 5)
    # It is past: what comes after it is decided in one go.
    assert project.live("kafka", where, [*ids, "d", "e"]) == 0
    assert project.runs()[-2:] == ["d", "e"]


def test_two_that_kill_in_one_batch_are_both_set_aside(project: Project) -> None:
    assert project.lives("kafka", "reading", ["a", "poison", "b", "poison", "c"]) == 2 * TRIES_MOST
    assert project.runs() == ["a", "b", "c"]


def test_an_event_over_http_that_kills_is_set_aside_whoever_sends_it_again(project: Project) -> None:
    assert project.lives("http", "deciding", ["a", "poison", "b"]) == TRIES_MOST
    assert project.runs() == ["a", "b"]
    assert project.live("http", "deciding", ["poison"]) == 0, "it is still known"
    (shown,) = project.quarantined()
    assert (shown["id"], shown["decisions"][0]["trigger"]) == ("poison", "scan")
    assert "3 processes have died" in shown["decisions"][0]["reason"]


def test_a_process_that_dies_for_reasons_of_its_own_sets_nothing_aside(project: Project) -> None:
    ids = [str(number) for number in range(20)]
    for point in ("intake.received", "ledger.writing", "ledger.recorded:2"):
        assert project.live("kafka", "nowhere", ids, point) != 0
    assert project.live("kafka", "nowhere", ids) == 0
    assert project.runs() == ids
    for _ in range(5):
        assert project.live("http", "nowhere", ["h1", "h2"]) == 0
    assert project.rows("SELECT count(*) FROM quarantine") == [(0,)]
    assert project.rows("SELECT count(*) FROM tries WHERE lane LIKE 'event/%'") == [(0,)]
