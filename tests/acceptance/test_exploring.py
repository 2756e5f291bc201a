"""Windows and snapshots as a user types them, over a real topic and over files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import confluent_kafka
import pyarrow.parquet as pq
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

import hindscan as hs
from acceptance.command import Answer
from acceptance.command import hindscan as in_a_process
from acceptance.serving import serve
from hindscan.cli.app import run_app
from hindscan.testing import KafkaCluster

pytestmark = pytest.mark.timeout(180)

MakeTopic = Callable[..., str]
HOUR = 3_600_000
#: Milliseconds: a whole hour, some days ago.
NOW = int(time.time()) // 3600 * HOUR
COUNT = 240

JOBS = """
from pathlib import Path

import hindscan as hs


@hs.job(history="log", combine="concat")
def numbers(log: hs.Data):
    \"\"\"All numbers, in order.\"\"\"
    return log.sql("SELECT n, who FROM log")


@hs.job(history="log", combine="concat")
def stubborn(log: hs.Data, flag: str):
    \"\"\"All numbers, once a file is there.\"\"\"
    table = log.sql("SELECT n, who FROM log")
    if not Path(flag).exists():
        raise RuntimeError("not yet")
    return table
"""


def write(cluster: KafkaCluster, topic: str, first: int, count: int, time_of: Callable[[int], int]) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.bootstrap, "linger.ms": 0})
    for n in range(first, first + count):
        value = json.dumps({"n": n, "who": f"user {n % 5}"}).encode()
        producer.produce(topic, value, b"user %d" % (n % 5), n % 2, timestamp=time_of(n))
    assert producer.flush(30) == 0


def hindscan(*typed: str, project: Path, check: int = 0) -> Answer:
    """Type a command in this process: of the many here, each would start Python and its libraries anew."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_app([*typed, "--project", str(project)])
    assert code == check, f"{typed} gave {code}\n{out.getvalue()}\n{err.getvalue()}"
    return Answer(code, out.getvalue(), err.getvalue())


@pytest.fixture
def log(tmp_path: Path, kafka_cluster: KafkaCluster, topic: MakeTopic) -> tuple[Path, str]:
    """A project over a topic of two partitions: record n is n hours older than the newest, so times go down in both."""
    name = topic("explored", partitions=2)
    write(kafka_cluster, name, 0, COUNT, lambda n: NOW - n * HOUR)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "numbers.py").write_text(JOBS)
    (tmp_path / "hindscan.toml").write_text(
        f"""
        [kafka.default]
        "bootstrap.servers" = "{kafka_cluster.bootstrap}"
        [history.log]
        topic = "{name}"
        columns = {{ n = "int64", who = "string" }}
        slice_rows = 50
        """
    )
    return tmp_path, name


def expected(keep: Callable[[int], bool]) -> list[int]:
    """Partition by partition, as a plain consumer finds them."""
    return [n for p in (0, 1) for n in range(COUNT) if n % 2 == p and keep(n)]


def found(project: Path, *options: str) -> list[int]:
    answer = hindscan("run", "numbers", *options, "--json", project=project).document
    numbers: list[int] = pq.read_table(answer["result"]["path"])["n"].to_pylist()
    return numbers


@pytest.mark.kafka
def test_a_run_reads_the_window_that_was_typed(log: tuple[Path, str]) -> None:
    project, _ = log
    assert found(project, "--offsets", "0:10-20,1:0-5") == [n for n in range(20, 40) if n % 2 == 0] + [1, 3, 5, 7, 9]
    assert found(project, "--partitions", "1", "--key", "user 3", "--key", "user 4") == [
        n for n in range(COUNT) if n % 2 == 1 and n % 5 in (3, 4)
    ]
    # The clock goes on while this runs: a record may have left the window before the end, or only after.
    before, last, after = time.time(), found(project, "--last", "5d"), time.time()
    since = [now * 1000 - 120 * HOUR for now in (before, after)]
    assert last in [expected(lambda n, first=first: NOW - n * HOUR >= first) for first in since]
    as_of = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((NOW - 100 * HOUR) / 1000))
    assert found(project, "--last", "2d", "--as-of", as_of) == expected(lambda n: 100 < n <= 148)
    plan = hindscan("plan", "numbers", "--offsets", "0:10-20", "--json", project=project).document
    assert plan["rows"] == 10
    for options, said in (
        (("--offsets", "0:10-2000"), "it can be read up to 120"),
        (("--offsets", "0:1"), "must be PARTITION:START-END"),
        (("--partitions", "7"), "7 of topic"),
        (("--last", "7 days"), "such as 30s, 12h or 7d"),
        (("--last", "1d", "--since", "2020-01-01"), "give one of them"),
    ):
        refused = hindscan("plan", "numbers", *options, project=project, check=2)
        assert said in refused.err, refused.err


@pytest.mark.kafka
def test_a_run_reads_the_window_that_was_posted(log: tuple[Path, str]) -> None:
    project, _ = log
    when = [f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime((NOW - hours * HOUR) / 1000))}Z" for hours in range(150)]
    asked = [
        ({"offsets": {"0": [10, 20], "1": [None, 5]}}, [*range(20, 40, 2), 1, 3, 5, 7, 9]),
        ({"partitions": [1], "keys": ["user 3", "user 4"]}, [n for n in range(1, COUNT, 2) if n % 5 in (3, 4)]),
        ({"since": when[40], "until": when[30]}, expected(lambda n: 30 < n <= 40)),
        ({"last": "2d", "as_of": when[100]}, expected(lambda n: 100 < n <= 148)),
        ({"as_of": when[100], "keys": ["user 0"]}, expected(lambda n: n > 100 and n % 5 == 0)),
    ]
    refused = [
        ({"offsets": {"0": [10, 2000]}}, "it can be read up to 120"),
        ({"offsets": {"0": [1]}}, "offsets"),
        ({"partitions": [7]}, "7 of topic"),
        ({"partitions": "all"}, "partitions"),
        ({"last": "7 days"}, "such as 30s, 12h or 7d"),
        ({"last": "1d", "since": "2020-01-01"}, "give one of them"),
        ({"window": {"last": "1d"}}, "window"),
    ]
    with serve(project) as server, server.client() as client:
        for body, numbers in asked:
            opened = client.post("/jobs/numbers/runs", json=body)
            assert opened.status_code == 201, opened.text
            done = client.get(opened.headers["Location"], params={"wait": 60}).json()
            assert done["state"] == "succeeded", done
            rows = client.get(f"{opened.headers['Location']}/result", headers={"Accept": "application/json"}).json()
            assert [row["n"] for row in rows] == numbers, body
        for body, said in refused:
            answer = client.post("/jobs/numbers/runs", json=body)
            if answer.status_code == 201:
                # What only the broker knows is told by the run.
                answer = client.get(answer.headers["Location"], params={"wait": 60})
                assert answer.json()["state"] == "failed", body
            else:
                assert answer.status_code == 422, (body, answer.text)
                assert answer.headers["Content-Type"] == "application/problem+json"
            assert said in answer.text, (body, answer.text)


@pytest.mark.kafka
def test_a_retry_and_another_process_read_what_was_pinned_whatever_came_late(
    log: tuple[Path, str], kafka_cluster: KafkaCluster, kafka_admin: AdminClient, tmp_path: Path
) -> None:
    project, name = log
    as_of = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((NOW - 50 * HOUR) / 1000))
    flag = tmp_path / "flag"
    failed = hindscan(
        "run", "stubborn", "-p", f"flag={flag}", "--as-of", as_of, "--json", project=project, check=1
    ).document
    assert "not yet" in failed["message"]
    file = tmp_path / "kept.json"
    hindscan("snapshot", "log", "--as-of", as_of, "--read", "-o", str(file), project=project)
    write(kafka_cluster, name, 1000, 60, lambda n: NOW - n * HOUR)  # older than all, and late
    kafka_admin.create_partitions([NewPartitions(name, 3)])[name].result(20)
    flag.touch()
    run = hindscan("retry", failed["run"], "--json", project=project).document
    manifest = json.loads(Path(run["manifest"]).read_text())
    assert "log: 1 partitions appeared after the pin: nothing of them was read" in manifest["caveats"]
    rows = pq.read_table(run["result"]["path"])["n"].to_pylist()
    assert rows == expected(lambda n: n > 50)
    assert hindscan("snapshot", "log", "--verify", str(file), "--json", project=project).document["same"]
    by_run = in_a_process("snapshot", "log", "--verify", run["run"], "--json", project=project).document
    assert by_run["same"]
    assert by_run["compared"] == by_run["slices"] == 6
    script = "import sys, hindscan as hs; print(hs.load_snapshot(sys.argv[1], project=sys.argv[2]).sql('SELECT sum(n)::BIGINT AS n FROM log')['n'][0])"
    other = subprocess.run(
        [sys.executable, "-c", script, str(file), str(project)], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(other.stdout) == sum(expected(lambda n: n > 50))
    fresh = hindscan("run", "numbers", "--as-of", as_of, "--json", project=project).document
    assert fresh["result"]["rows"] == len(rows) + 60, "a new pin does see them"


@pytest.mark.kafka
def test_a_broken_lateness_fails_a_run_even_if_it_reuses_what_it_would_have_read(log: tuple[Path, str]) -> None:
    project, _ = log
    hindscan("run", "numbers", project=project)
    file = project / "hindscan.toml"
    # Times go down by two hours from record to record in each partition, 238 in all.
    file.write_text(file.read_text() + '\nlateness = "300h"\n')
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((NOW - 1000 * HOUR) / 1000))
    whole = hindscan("run", "numbers", "--since", since, "--json", project=project).document
    assert (whole["result"]["rows"], whole["slices"]["reused"]) == (COUNT, 6), (
        "all are inside: no slice carries a bound"
    )
    file.write_text(file.read_text().replace("300h", "1h"))
    failed = hindscan("run", "numbers", "--since", since, "--json", project=project, check=1).document
    assert failed["error"] == "OutOfOrder"
    assert "at most 1h out of order" in failed["message"]


@pytest.mark.kafka
def test_a_stored_snapshot_is_the_same_until_it_is_not_and_then_says_where(
    log: tuple[Path, str], kafka_cluster: KafkaCluster, kafka_admin: AdminClient, tmp_path: Path
) -> None:
    project, name = log
    file = tmp_path / "kept.json"
    printed = hindscan("snapshot", "log", "--read", "-o", str(file), "--json", project=project).document
    assert (printed["rows"], printed["rows_exact"], printed["slices"]) == (COUNT, True, 6)
    assert [p["end"] for p in printed["pin"]["partitions"]] == [120, 120]
    assert len(printed["proofs"]) == 6
    unread = hindscan("snapshot", "log", "--json", project=project).document
    assert (unread["rows_exact"], unread["proofs"]) == (False, [])
    assert (
        "the same: 6 slices read whole, 6 compared"
        in hindscan("snapshot", "log", "--verify", str(file), project=project).out
    )
    kafka_admin.delete_records([confluent_kafka.TopicPartition(name, 1, 60)])[
        confluent_kafka.TopicPartition(name, 1, 60)
    ].result(20)
    lost = hindscan("snapshot", "log", "--verify", str(file), "--json", project=project, check=1).document
    assert [(one["slice"], one["error"]) for one in lost["differences"]] == [
        (f"offsets [0, 50) of {name}[1]", "DataLost"),
        (f"offsets [50, 100) of {name}[1]", "DataLost"),
    ]
    kafka_admin.delete_topics([name])[name].result(20)
    deadline = time.monotonic() + 30
    while True:
        try:
            kafka_admin.create_topics([NewTopic(name, 2, 1, config={"retention.ms": "-1"})])[name].result(20)
            break
        except confluent_kafka.KafkaException:
            assert time.monotonic() < deadline
    write(kafka_cluster, name, 0, COUNT, lambda n: NOW - n * HOUR)
    other = hindscan("snapshot", "log", "--verify", str(file), project=project, check=1)
    assert "created again" in other.out
    assert f"{name}[0]" in other.out


@pytest.mark.kafka
def test_a_topic_that_is_compacted_says_so_and_what_vanished_is_found(
    log: tuple[Path, str], kafka_cluster: KafkaCluster, topic: MakeTopic, tmp_path: Path
) -> None:
    project, _ = log
    name = topic("compacted", cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.01)
    with (project / "hindscan.toml").open("a") as toml:
        toml.write(f'\n[history.states]\ntopic = "{name}"\ncolumns = {{ n = "int64", who = "string" }}\n')
    with (project / "hindscan.toml").open("a") as toml:
        toml.write(
            f'[history.kept]\ntopic = "{name}"\nmaterialise = true\ncolumns = {{ n = "int64", who = "string" }}\n'
        )
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_cluster.bootstrap, "linger.ms": 0})

    def put(key: str, n: int) -> None:
        producer.produce(
            name, json.dumps({"n": n, "who": key}).encode(), key.encode(), timestamp=int(time.time() * 1000)
        )

    for n in range(20):
        put(f"k{n % 3}", n)
    assert producer.flush(30) == 0, "in one batch: nothing is compacted before there is a second segment"
    file = tmp_path / "states.json"
    hindscan("snapshot", "states", "--read", "-o", str(file), project=project)
    done = hindscan("run", "numbers", "--history", "log=states", "--json", project=project).document
    manifest = json.loads(Path(done["manifest"]).read_text())
    assert any("compacted" in caveat for caveat in manifest["caveats"])
    whole = tmp_path / "kept.json"
    hindscan("snapshot", "kept", "--read", "-o", str(whole), project=project)
    states = hs.load_snapshot(file, project=project)
    deadline = time.monotonic() + 60
    while states.verify().same:
        put("roll", -1)  # the active segment is never compacted
        assert producer.flush(30) == 0
        assert time.monotonic() < deadline, "the broker must compact within a minute"
    answer = hindscan("snapshot", "states", "--verify", str(file), "--json", project=project, check=1).document
    [difference] = answer["differences"]
    assert difference["slice"] == f"offsets [0, 20) of {name}[0]"
    assert difference["what"].startswith("20 records and 0 offsets without one were read, now ")
    assert hindscan("snapshot", "kept", "--verify", str(whole), "--json", project=project).document["same"]
    assert hs.load_snapshot(whole, project=project).to_arrow()["n"].to_pylist() == list(range(20))


def test_files_are_pinned_kept_and_compared(sample: Path, tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    window = ("--since", "2018-03-01", "--until", "2018-09-01")
    printed = hindscan("snapshot", "bids", *window, "--read", "-o", str(file), "--json", project=sample).document
    handle = hs.history("bids", project=sample).snapshot(since="2018-03-01", until="2018-09-01")
    assert printed["rows_exact"]
    assert printed["rows"] == handle.to_arrow().num_rows > 0
    assert printed["times"][0] >= "2018-03-01"
    assert hindscan("snapshot", "bids", "--verify", str(file), "--json", project=sample).document["same"]
    run = hindscan("run", "bidder_scan", "--json", project=sample).document["run"]
    of_run = hindscan("snapshot", "bids", "--verify", run, "--json", project=sample).document
    assert (of_run["same"], of_run["compared"]) == (True, of_run["slices"])
    refused = hindscan("snapshot", "persons", "--verify", run, project=sample, check=2)
    assert "one of its tables must be of history persons" in refused.err
    refused = hindscan("snapshot", "bids", "--key", "k", project=sample, check=2)
    assert "lies in files" in refused.err
    refused = hindscan("snapshot", "auctions", "--verify", str(file), project=sample, check=2)
    assert "must be a snapshot of history auctions; it is one of bids" in refused.err
    slices = json.loads(file.read_text())["read"]
    path = sample / "data" / "bids" / slices[0]["slice"]["path"]
    content, stat = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = hindscan("snapshot", "bids", "--verify", str(file), "--json", project=sample, check=1).document
    assert {one["slice"].rpartition(" ")[2] for one in changed["differences"]} == {slices[0]["slice"]["path"]}
