"""Queues of triggers as their users see them: order, replacing, gathering, retries, history as of the event, and two dispatchers that are killed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confluent_kafka
import httpx2 as httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acceptance.command import hindscan
from acceptance.serving import finished, post, serve
from clock import until

if TYPE_CHECKING:
    from conftest import MakeTopic
    from hindscan.testing import KafkaCluster

#: One job for all: it says what it saw, and fails as long as a file is not there.
JOBS = """
import os
import time

import pyarrow as pa

import hindscan as hs


@hs.job(history="rows", combine="concat")
def total(rows: hs.Data, needs: str = "", seconds: float = 0.0) -> pa.Table:
    time.sleep(seconds)
    if needs and not os.path.exists(needs):
        raise RuntimeError("not yet")
    return rows.sql("SELECT count(*) AS rows, sum(n)::BIGINT AS total FROM rows")
"""
BOTH = """

@hs.job(history="rows", tables={"log": "log"}, combine="concat")
def both(rows: hs.Data, log: hs.Data, needs: str = "") -> pa.Table:
    if needs and not os.path.exists(needs):
        raise RuntimeError("not yet")
    return rows.sql("SELECT (SELECT sum(n)::BIGINT FROM rows) AS rows, (SELECT sum(n)::BIGINT FROM log) AS log")
"""
PROJECT = """
[compute]
workers = 1
runs = 2
[serve]
reload = false
[history.rows]
parquet = "data"
time = "at"
"""
PARAMETERS = (
    'parameters = { needs = { path = "data.needs", default = "" }, seconds = { path = "data.seconds", default = 0.0 } }'
)
START = datetime(2020, 1, 1, tzinfo=UTC)


def write_rows(folder: Path, name: str, rows: list[tuple[datetime, int]]) -> None:
    folder.mkdir(exist_ok=True)
    times = pa.array([at for at, _ in rows], pa.timestamp("us", tz="UTC"))
    # Elsewhere first: a file that is seen is whole.
    pq.write_table(pa.table({"at": times, "n": [n for _, n in rows]}), folder.parent / name)
    (folder.parent / name).rename(folder / name)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "total.py").write_text(JOBS)
    write_rows(tmp_path / "data", "a.parquet", [(START + timedelta(days=n), n) for n in range(10)])
    (tmp_path / "hindscan.toml").write_text(PROJECT)
    return tmp_path


def trigger(project: Path, *settings: str, name: str = "t", job: str = "total", on: str = "http") -> None:
    with (project / "hindscan.toml").open("a") as file:
        file.write("\n".join([f"[triggers.{name}]", f'on = "{on}"', f'job = "{job}"', *settings, ""]))


def event(number: int, subject: str = "a", **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": f"e{number}", "source": "/s", "type": "t", "subject": subject, "time": "2021-01-01T00:00:00Z",
        "datacontenttype": "application/json", "data": data,
    }  # fmt: skip


def run_of(client: httpx.Client, sent: dict[str, Any]) -> str:
    answer = post(client, sent).json()
    (run,) = answer["runs"] + answer["existing"]
    return str(run)


def test_a_failed_run_blocks_its_subject_alone_until_it_is_retried_or_cancelled(project: Path) -> None:
    trigger(project, 'run_order = "subject"', PARAMETERS)
    gate = project / "gate"
    with serve(project) as server, server.client() as client:
        first, second = run_of(client, event(1, needs=str(gate))), run_of(client, event(2))
        other = run_of(client, event(3, subject="b"))
        assert finished(client, first)["state"] == "failed"
        assert finished(client, other)["state"] == "succeeded"
        blocked = client.get(f"/runs/{second}").json()
        assert (blocked["state"], blocked["waiting"]["run"]) == ("pending", first)
        assert blocked["waiting"]["reason"] == "an earlier run of its key failed"
        assert f"waits: an earlier run of its key failed ({first})" in hindscan("runs", project=project).out
        gate.touch()
        assert client.post(f"/runs/{first}/retry").status_code < 300
        ended = [finished(client, run) for run in (first, second)]
        assert [run["state"] for run in ended] == ["succeeded", "succeeded"]
        assert ended[0]["updated_at"] < ended[1]["updated_at"]

        fourth, fifth = run_of(client, event(4, needs="/not/there")), run_of(client, event(5))
        assert finished(client, fourth)["state"] == "failed"
        assert client.post(f"/runs/{fourth}/cancel").json()["state"] == "cancelled"
        assert finished(client, fifth)["state"] == "succeeded"


def test_newer_events_replace_or_share_runs_that_wait(project: Path) -> None:
    trigger(project, "supersede = true", "concurrency = 1", 'key = "subject"', PARAMETERS, name="newest")
    trigger(project, 'debounce = "1s"', PARAMETERS, name="shared")
    with serve(project) as server, server.client() as client:

        def by_trigger(sent: dict[str, Any]) -> dict[str, str]:
            answer = post(client, sent).json()
            found = [client.get(f"/runs/{run}").json() for run in answer["runs"] + answer["existing"]]
            return {run["event"]["trigger"]: run["id"] for run in found}

        opened = [by_trigger(event(1, seconds=3.0))]
        until(lambda: client.get(f"/runs/{opened[0]['newest']}").json()["state"] == "running", "the first run's start")
        opened += [by_trigger(event(number)) for number in (2, 3)]
        ended = [finished(client, one["newest"]) for one in opened]
        assert [run["state"] for run in ended] == ["succeeded", "cancelled", "succeeded"]
        assert ended[1]["superseded_by"] == opened[2]["newest"]
        assert "Superseded" in ended[1]["message"]
        # How long the machine took decides which of the events came before the quiet; each names a run that has been carried out with the last of its events.
        shared = {one["shared"] for one in opened}
        assert {finished(client, run)["state"] for run in shared} == {"succeeded"}
        assert finished(client, opened[2]["shared"])["event"]["id"] == "e3"
        decisions = {one["id"]: one["decisions"] for one in client.get("/events").json()["events"]}
        for number, one in enumerate(opened, 1):
            assert {(made["trigger"], made["run"]) for made in decisions[f"e{number}"]} == set(one.items())


def test_what_fails_is_tried_again_as_declared_and_a_time_limit_ends_the_work(project: Path) -> None:
    gate = project / "gate"
    trigger(project, 'retries = { attempts = 50, backoff = "500ms", longest = "1s", on = ["JobFailed"] }', PARAMETERS)
    trigger(project, 'time_limit = "1s"', "retries = 3", PARAMETERS, name="limited")
    with serve(project) as server, server.client() as client:
        found = post(client, event(1, needs=str(gate))).json()["runs"]
        runs = {client.get(f"/runs/{run}").json()["event"]["trigger"]: run for run in found}
        until(lambda: client.get(f"/runs/{runs['t']}").json()["attempt"] >= 2, "a second try")
        gate.touch()
        done = finished(client, runs["t"])
        assert (done["state"], done["error"]) == ("succeeded", None)
        assert finished(client, runs["limited"])["attempt"] == 1, (
            "a fault of the job is not tried again unless it is said"
        )
        late = post(client, event(2, seconds=600.0)).json()["runs"]
        by_name = {client.get(f"/runs/{run}").json()["event"]["trigger"]: run for run in late}
        ended = finished(client, by_name["limited"])
        assert (ended["state"], ended["error"]) == ("failed", "TimeLimitExceeded")
        assert "1 s, the time limit of trigger limited" in ended["message"]
        client.post(f"/runs/{by_name['t']}/cancel")
        assert finished(client, by_name["t"])["state"] == "cancelled"


@pytest.mark.kafka
def test_history_as_of_the_event_has_what_came_late_in_time_and_is_the_same_ever_after(
    project: Path, kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("log")
    (project / "jobs" / "total.py").write_text(JOBS + BOTH)
    with (project / "hindscan.toml").open("a") as file:
        file.write(
            f'[kafka.default]\n"bootstrap.servers" = "{kafka_cluster.bootstrap}"\n[history.log]\ntopic = "{name}"\nformat = "json"\n'
            'time = "at"\ncolumns = { at = "timestamp[us, UTC]", n = "int64" }\n'
        )
    trigger(project, 'lateness = "5s"', 'parameters = { needs = "data.needs" }', job="both")
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_cluster.bootstrap})
    arrived: list[tuple[datetime, int]] = [(START + timedelta(days=n), n) for n in range(10)]

    def arrive(n: int, happened: datetime) -> None:
        """Let one row before the event, and one at its very time, come to both histories."""
        rows = [(happened - timedelta(seconds=1), n), (happened, 1_000_000)]
        write_rows(project / "data", f"{len(arrived):04}.parquet", rows)
        for at, value in rows:
            producer.produce(name, json.dumps({"at": at.isoformat(), "n": value}).encode())
        assert producer.flush(30) == 0
        arrived.extend(rows)

    def waiting(client: httpx.Client, number: int) -> tuple[str, datetime]:
        """Open a run that waits for late rows, and let some come while it waits; give it with the time of its event."""
        now = datetime.now(UTC)
        arrive(1, now)
        run = run_of(client, {**event(number, needs=str(gate)), "time": now.isoformat()})
        why = client.get(f"/runs/{run}").json()["waiting"]
        arrive(10, now)
        if (
            why is None
            or why["reason"] != "its time has not come"
            or client.get(f"/runs/{run}").json()["state"] != "pending"
        ):
            assert number < 5, "the machine is too slow to be late in time"
            return waiting(client, number + 1)
        return run, now

    def result(client: httpx.Client, run: str) -> tuple[int, set[int]]:
        assert finished(client, run)["state"] == "succeeded"
        slices = client.get(f"/runs/{run}/result").json()
        return sum(one["rows"] or 0 for one in slices), {one["log"] for one in slices}

    gate = project / "gate"
    with serve(project) as server, server.client() as client:
        run, happened = waiting(client, 1)
        total = sum(n for at, n in arrived if at < happened)
        assert finished(client, run)["state"] == "failed"
        # Its first pin is stored: what comes now is too late for this event for ever.
        arrive(100, happened)
        gate.touch()
        client.post(f"/runs/{run}/retry")
        assert result(client, run) == (total, {total - 45}), "the first ten rows are in the files only"
        again = client.post(f"/runs/{run}/rerun", json={"fresh": True}).json()["id"]
        assert result(client, again) == (total, {total - 45})
        digests = {client.get(f"/runs/{one}/manifest").json()["result"]["digest"] for one in (run, again)}
        assert len(digests) == 1
        latest = client.post(f"/runs/{run}/rerun", json={"latest": True}).json()["id"]
        assert result(client, latest) == (total + 100, {total + 100 - 45})


EVENTS = 5_000
#: So many of them run; the others are recorded with their runs and held, because carrying out 5,000 would take minutes.
CARRIED_OUT = 20


@pytest.mark.kafka
def test_two_dispatchers_under_kill_9_make_one_run_of_each_of_5000_events(
    project: Path, kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("events", partitions=4)
    with (project / "hindscan.toml").open("a") as file:
        file.write(f'[kafka.default]\n"bootstrap.servers" = "{kafka_cluster.bootstrap}"\n')
    trigger(project, "paused = true", 'start = "earliest"', name="all", on=f"kafka:{name}")
    trigger(
        project,
        'filter = { exact = { subject = "runs" } }',
        'run_order = "subject"',
        'start = "earliest"',
        name="some",
        on=f"kafka:{name}",
    )
    # Without idempotence a request that is sent again, to a broker that is slow, puts later records before earlier ones.
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": kafka_cluster.bootstrap,
            "enable.idempotence": True,
            "queue.buffering.max.messages": EVENTS + 1,
        }
    )
    headers = [("content-type", b"application/cloudevents+json")]

    def produce(numbers: range) -> None:
        for number in numbers:
            subject = "runs" if number % (EVENTS // CARRIED_OUT) == 0 else f"s{number % 50}"
            # All that run are of one partition, so that their order is that of the topic.
            partition = 0 if subject == "runs" else number % 4
            producer.produce(name, json.dumps(event(number, subject)).encode(), headers=headers, partition=partition)
        assert producer.flush(60) == 0

    def recorded() -> int:
        with contextlib.closing(sqlite3.connect(project / ".hindscan" / "hindscan.db", timeout=60)) as store:
            return int(store.execute("SELECT count(*) FROM runs WHERE trigger = 'all'").fetchone()[0])

    env = {"HINDSCAN_SERVE__GROUP": name}
    produce(range(EVENTS // 2))
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(serve(project, HINDSCAN_SERVE__INSTANCE="one", **env))
        stack.enter_context(serve(project, HINDSCAN_SERVE__INSTANCE="two", **env))
        until(lambda: recorded() > 0, "the first events")
        first.process.kill()
        produce(range(EVENTS // 2, EVENTS))
        again = stack.enter_context(serve(project, HINDSCAN_SERVE__INSTANCE="one", **env))
        until(lambda: recorded() > EVENTS // 2, "half of the events")
        again.process.kill()
        third = stack.enter_context(serve(project, HINDSCAN_SERVE__INSTANCE="one", **env))
        until(lambda: recorded() >= EVENTS, "all events")
        with third.client() as client:
            until(
                lambda: len(client.get("/runs?limit=100&state=succeeded").json()["runs"]) == CARRIED_OUT,
                "the end of those that run",
            )
    with contextlib.closing(sqlite3.connect(project / ".hindscan" / "hindscan.db")) as store:

        def ask(query: str) -> list[Any]:
            return store.execute(query).fetchall()

        assert ask(
            "SELECT count(*), count(DISTINCT event_id), min(state), max(state) FROM runs WHERE trigger = 'all'"
        ) == [(EVENTS, EVENTS, "pending", "pending")]
        assert ask("SELECT count(*), count(DISTINCT run) FROM decisions WHERE trigger = 'all'") == [(EVENTS, EVENTS)]
        assert ask("SELECT count(*) FROM events") == [(EVENTS,)]
        ran = ask("SELECT event_id, state FROM runs WHERE trigger = 'some' ORDER BY seq")
        assert ran == [(f"e{number}", "succeeded") for number in range(0, EVENTS, EVENTS // CARRIED_OUT)]
        # Strictly one after another: between a start and the next there is the end of the first, whoever owned it.
        moves = ask(
            "SELECT json_extract(fact, '$.state'), run FROM facts WHERE json_extract(fact, '$.state') IS NOT NULL "
            "AND run IN (SELECT id FROM runs WHERE trigger = 'some') ORDER BY seq"
        )
        running: str | None = None
        for state, run in moves:
            if state == "running":
                assert running is None
            running = run if state == "running" else None
