"""Ordered jobs as a user types them: what window functions over the whole history say, over files and over a topic, whoever is killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from acceptance.command import CHECKOUT, hindscan, same_rows
from hindscan.config_file import load_project
from hindscan.planning import ask, pin, prepare
from hindscan.progress import Fact, SliceFinished
from hindscan.runs.partials import Partials
from hindscan.tasks.dask import DaskExecutor
from hindscan.tasks.execution import execute
from hindscan.workshop import open_workshop

if TYPE_CHECKING:
    from hindscan.testing import KafkaCluster

JUMPS = ("run", "price_jumps", "-p", "least=60000", "--json")
SESSIONS = ("run", "bidder_sessions", "-p", "gap_minutes=45", "--json")

#: Bids with their place in the order that counts: `part` and `place` within it.
FROM_FILES = """
    SELECT 0 AS part, row_number() OVER (ORDER BY year, month, file_row_number) AS place, auction, bidder, price, date_time
    FROM read_parquet('{data}/bids/**/*.parquet', hive_partitioning = true, file_row_number = true)
"""


def jumps_oracle(bids: str, connection: duckdb.DuckDBPyConnection) -> pa.Table:
    return connection.sql(
        f"""
        SELECT auction, bidder, date_time, price, jump FROM (
            SELECT *, price - lag(price) OVER (PARTITION BY part, auction ORDER BY place) AS jump FROM ({bids})
        ) WHERE jump >= 60000 ORDER BY part, place
        """
    ).to_arrow_table()


def sessions_oracle(bids: str, connection: duckdb.DuckDBPyConnection) -> pa.Table:
    return connection.sql(
        f"""
        WITH gaps AS (
            SELECT *, lag(date_time) OVER (PARTITION BY part, bidder ORDER BY place) AS before FROM ({bids})
        ), begun AS (
            SELECT *, count(*) FILTER (before IS NULL OR date_time - before > INTERVAL 45 MINUTES)
                   OVER (PARTITION BY part, bidder ORDER BY place ROWS UNBOUNDED PRECEDING) AS session FROM gaps
        ), sessions AS (
            SELECT bidder, count(*) AS bids, max(date_time) - min(date_time) AS long FROM begun GROUP BY part, bidder, session
        )
        SELECT bidder, count(*) AS sessions, sum(bids)::BIGINT AS bids, max(epoch_us(long)) // 1000000 AS longest
        FROM sessions GROUP BY bidder ORDER BY bidder
        """
    ).to_arrow_table()


ORACLES = {JUMPS: jumps_oracle, SESSIONS: sessions_oracle}


def engine() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


@pytest.mark.parametrize("job", ORACLES, ids=lambda job: job[1])
def test_a_fold_over_files_is_what_window_functions_say_and_grows_with_the_history(
    job: tuple[str, ...], sample: Path
) -> None:
    held_back = sample / "data" / "bids" / "year=2019" / "month=12"
    shutil.move(held_back, sample / "later")
    with engine() as connection:
        first = hindscan(*job, project=sample).document
        wanted = ORACLES[job](FROM_FILES.format(data=sample / "data"), connection)
        assert wanted.num_rows > 100
        same_rows(pq.read_table(first["result"]["path"]), wanted)
        shutil.move(sample / "later", held_back)
        grown = hindscan(*job, "--workers", "5", project=sample).document
        same_rows(
            pq.read_table(grown["result"]["path"]), ORACLES[job](FROM_FILES.format(data=sample / "data"), connection)
        )
    assert first["slices"] == {"total": 35, "reused": 0, "computed": 35}
    assert grown["slices"] == {"total": 36, "reused": 35, "computed": 1}
    planned = hindscan("plan", *job[1:], "--fresh", project=sample).document
    assert (planned["chains"], planned["longest_slices"], planned["stages"][0]["chains"]) == (1, 36, 1)


def test_check_finds_no_difference_between_cuts(sample: Path) -> None:
    assert hindscan("check", *SESSIONS[1:], project=sample).document["differences"] == []


@pytest.fixture(scope="module")
def topic_site(tmp_path_factory: pytest.TempPathFactory, kafka_cluster: KafkaCluster) -> tuple[Path, dict[str, str]]:
    """The committed sample, and its bids in a topic of five partitions whose key is the auction, with transactions in between."""
    from hindscan.generate import generate_auctions

    project = tmp_path_factory.mktemp("folds")
    for name in ("data", "jobs"):
        shutil.copytree(CHECKOUT / name, project / name)
    text = (CHECKOUT / "hindscan.toml").read_text()
    (project / "hindscan.toml").write_text(text.replace('topic = "bids"', 'topic = "folded-bids"\nslice_rows = 6000'))
    cluster = {"bootstrap.servers": kafka_cluster.bootstrap}
    generate_auctions("kafka:folded-bids", source=str(project / "data"), kafka=cluster, partitions=5, aborted=20)
    return project, {"HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"'}


@pytest.fixture(scope="module")
def consumed(topic_site: tuple[Path, dict[str, str]], kafka_cluster: KafkaCluster) -> pa.Table:
    """What a plain consumer reads, with partition and offset."""
    rows = []
    settings = {
        "bootstrap.servers": kafka_cluster.bootstrap,
        "group.id": "oracle",
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
    }
    consumer = Consumer(settings)
    consumer.assign([TopicPartition("folded-bids", number, OFFSET_BEGINNING) for number in range(5)])
    ended: set[int] = set()
    while len(ended) < 5:
        message = consumer.poll(30)
        assert message is not None, "the broker is silent"
        if message.error():
            ended.add(message.partition() or 0)
            continue
        rows.append({**json.loads(message.value() or b""), "part": message.partition(), "place": message.offset()})
    consumer.close()
    with engine() as connection:
        connection.register("read", pa.Table.from_pylist(rows))
        return connection.sql("SELECT * REPLACE (date_time::TIMESTAMPTZ AS date_time) FROM read").to_arrow_table()


@pytest.mark.kafka
@pytest.mark.parametrize(("job", "workers", "grouping"), [(JUMPS, 5, None), (SESSIONS, 2, 3)])
def test_a_fold_over_a_topic_is_what_window_functions_say_of_what_a_consumer_read(
    job: tuple[str, ...],
    workers: int,
    grouping: int | None,
    topic_site: tuple[Path, dict[str, str]],
    consumed: pa.Table,
) -> None:
    project, env = topic_site
    env = env | ({"HINDSCAN_COMPUTE__SLICES_PER_TASK": str(grouping)} if grouping else {})
    options = ("--fresh", "--history", "bids=bids_log", "--workers", str(workers))
    document = hindscan(*job, *options, project=project, **env).document
    assert consumed.num_rows == 120_000
    with engine() as connection:
        same_rows(
            pq.read_table(document["result"]["path"]),
            ORACLES[job]("FROM consumed", connection.register("consumed", consumed)),
        )
    assert document["slices"]["computed"] == document["slices"]["total"] >= 20


@pytest.mark.kafka
def test_a_topic_gives_each_partition_a_chain_and_a_second_run_computes_nothing(
    topic_site: tuple[Path, dict[str, str]],
) -> None:
    project, env = topic_site
    hindscan(*JUMPS, "--history", "bids=bids_log", project=project, **env)
    planned = hindscan("plan", *JUMPS[1:], "--history", "bids=bids_log", project=project, **env).document
    assert planned["stages"][0]["chains"] == 5
    assert (planned["chains"], planned["longest_slices"], planned["reused"]) == (0, 0, planned["slices"])
    again = hindscan(*JUMPS, "--history", "bids=bids_log", project=project, **env).document
    assert again["slices"]["computed"] == 0


#: A job that says when it is called, and takes its time.
MARKED = """
import os, time
import hindscan as hs

@hs.job(history="bids", order="partition", state=lambda: {"bids": 0, "top": 0}, combine="concat")
def marked(bids, state, folder: str, seconds: float = 0.0):
    with open(os.path.join(folder, "calls"), "a") as calls:
        calls.write(f"{state['bids']}\\n")
    time.sleep(seconds)
    prices = bids.arrow(["price"])["price"].to_pylist()
    after = {"bids": state["bids"] + len(prices), "top": max([state["top"], *prices])}
    return dict(after), after
"""


@pytest.fixture
def marked(sample: Path) -> tuple[Path, tuple[str, ...]]:
    (sample / "jobs" / "marked.py").write_text(MARKED)
    (sample / "marks").mkdir()
    return sample, ("run", "marked", "-p", f"folder={sample / 'marks'}", "--json")


def calls(project: Path) -> list[int]:
    """Give how many bids had come before each call, in the order of calls."""
    file = project / "marks" / "calls"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def right(project: Path, document: dict[str, dict[str, str]]) -> None:
    """Compare with running figures over the whole history, at the ends of the slices."""
    found = pq.read_table(document["result"]["path"]).to_pylist()
    with engine() as connection:
        query = f"""
            SELECT bids, top FROM (
                SELECT place AS bids, max(price) OVER (ORDER BY place) AS top FROM ({FROM_FILES.format(data=project / "data")})
            ) WHERE bids IN ({", ".join(str(row["bids"]) for row in found)}) ORDER BY bids
        """
        wanted = [{"bids": bids, "top": top} for bids, top in connection.execute(query).fetchall()]
    assert found == wanted
    assert found[-1]["bids"] == 120_000


@pytest.mark.parametrize("fault", ["partials.written:13", "partials.written:14"])
def test_workers_that_die_again_and_again_cost_a_slice_each(fault: str, marked: tuple[Path, tuple[str, ...]]) -> None:
    """Each life of the worker ends at its thirteenth or fourteenth write: two of them to a slice, checkpoint and partial."""
    project, command = marked
    document = hindscan(*command, project=project, HINDSCAN_FAULT=fault).document
    right(project, document)
    assert document["slices"] == {"total": 36, "reused": 0, "computed": 36}
    made = calls(project)
    deaths = len(made) - len(set(made))
    assert len(set(made)) == 36
    # The partial was there in the last case, so nothing at all was done twice.
    assert deaths == 0 if fault == "partials.written:14" else 4 <= deaths <= 6


def test_a_run_that_is_killed_is_gone_on_with_from_its_last_checkpoint(marked: tuple[Path, tuple[str, ...]]) -> None:
    project, command = marked
    slow = (*command, "-p", "seconds=0.05")
    program = [sys.executable, "-m", "hindscan", *slow, "--project", str(project)]
    for least in (8, 16):
        process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while len(calls(project)) < least:
                assert process.poll() is None, "it must be at work"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    document = hindscan(*slow, project=project).document
    right(project, document)
    made = calls(project)
    assert len(set(made)) == 36
    assert len(made) <= 36 + 2
    assert document["slices"]["reused"] >= 14
    assert document["slices"]["total"] == document["slices"]["reused"] + document["slices"]["computed"] == 36


@pytest.mark.kafka
def test_workers_of_dask_fold_partitions_beside_each_other(
    topic_site: tuple[Path, dict[str, str]], consumed: pa.Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, env = topic_site
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    project = load_project(folder)
    facts: list[Fact] = []
    with open_workshop(project) as workshop, DaskExecutor(3) as executor:
        spec, code = workshop.job("price_jumps")
        request = ask(project, spec, {"least": 60_000}, histories={"bids": "bids_log"})
        prepared = prepare(project, spec, request, pin(project, spec, request), frozenset(), workers=3)
        partials = Partials(tmp_path)
        done = execute(
            prepared.plan, run="run", code=code, readers=prepared.readers, partials=partials, executor=executor, observe=facts.append,
            stop=threading.Event(), slices_per_task=1,
        )  # fmt: skip
        found = partials.read(done.finished)
    with engine() as connection:
        same_rows(found, jumps_oracle("FROM consumed", connection.register("consumed", consumed)))
    order = [(fact.slice, fact.worker) for fact in facts if isinstance(fact, SliceFinished)]
    assert len({worker for _, worker in order}) == 3
    for chain in prepared.plan.stages[0].chains:
        mine = [position for position, _ in order if chain.first <= position < chain.last]
        assert mine == list(range(chain.first, chain.last))
