"""What goes wrong says what was done, required and found, and loses nothing."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from acceptance.command import hindscan
from hindscan.cli.app import run_app

if TYPE_CHECKING:
    from conftest import MakeTopic
    from hindscan.testing import KafkaCluster

COUNT = """
import ctypes, os, signal
import hindscan as hs

@hs.job(history="bids", tables={{}})
def counted(bids: hs.Data, year: int = 2018):
    \"\"\"Count bids, unless told otherwise by what lies beside.\"\"\"
    months = bids.sql("SELECT min(month(date_time)) AS month, count(*) AS bids FROM bids WHERE year(date_time) = $year", year=year)
    if months["month"][0].as_py() == 7 and not os.path.exists({marker!r}):
        {fault}
    return months

@counted.combine
def add(partials: hs.Data):
    return partials.sql("SELECT min(month) AS month, sum(bids)::BIGINT AS bids FROM partials")
"""


def failing_job(project: Path, fault: str) -> Path:
    """Write a job that fails on July 2018 until a file lies beside; give that file."""
    marker = project / "mended"
    (project / "jobs" / "counted.py").write_text(COUNT.format(marker=str(marker), fault=fault))
    return marker


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "bidder_scam"), ["bidder_scam", "bidder_scan"]),
        (("run", "bidder_scan", "-p", "yaer=2018"), ["yaer", "year"]),
        (("run", "bidder_scan", "-p", "year=soon"), ["year", "soon"]),
        (("run", "bidder_scan", "-p", "year"), ["NAME=VALUE"]),
        (("run", "bidder_scan", "--history", "bids=nowhere"), ["nowhere", "bids_log"]),
        (("run", "bidder_scan", "--as-of", "yesterday"), ["--as-of", "yesterday"]),
        (("run", "bidder_scan", "--seed", "1"), ["seed", "simulation"]),
        (("run", "bidder_scan", "--offsets", "0:1-2"), ["offsets", "files"]),
        (("run", "auction_theory", "--draws", "99999999999999999999"), ["max_slices", "100,000"]),
        (("run", "auction_theory", "--draws", "1.5"), ["--draws", "whole number"]),
        (("replay", "scan_on_close", "--since", "2020-01-02", "--until", "2020-01-01"), ["since", "until"]),
        (("audit", "scan_on_close", "--since", "2020-01-02", "--until", "2020-01-02"), ["since", "until"]),
        (("match", "scan_on_close", "kafka:t", "--since", "2020-01-02", "--until", "2020-01-01"), ["since", "until"]),
        (("show", "nothing"), ["nothing"]),
        (("result", "bidder_scan@latest"), ["bidder_scan"]),
        (("jobs", "nothing"), ["nothing", "bidder_scan"]),
        (("snapshot", "nothing"), ["nothing", "bids"]),
        (("runs", "--state", "done"), ["done", "succeeded"]),
        (("emit",), ["--type"]),
    ],
)
def test_what_was_asked_wrongly_is_refused_with_the_nearest_right_thing(
    sample: Path, arguments: tuple[str, ...], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process: what is refused starts no work, and two dozen interpreters would take a minute to say so.
    assert run_app([*arguments, "--project", str(sample)]) == 2
    plain = capsys.readouterr()
    assert plain.out == ""
    assert [word for word in said if word not in plain.err] == []
    assert run_app([*arguments, "--json", "--project", str(sample)]) == 2
    document = json.loads(capsys.readouterr().out)
    assert [word for word in said if word not in document["message"]] == []


def test_a_wrong_project_file_is_refused_with_every_fault_and_its_line(sample: Path) -> None:
    file = sample / "hindscan.toml"
    file.write_text(
        file.read_text().replace("workers = 2", 'workers = "two"').replace('time = "date_time"', 'tme = "date_time"', 1)
    )
    answer = hindscan("histories", project=sample, check=2)
    assert "compute.workers" in answer.err
    assert "history.bids" in answer.err
    assert "tme" in answer.err
    assert answer.err.count("hindscan.toml:") >= 2


def test_a_broken_file_is_named(sample: Path) -> None:
    victim = sorted((sample / "data" / "bids").rglob("*.parquet"))[5]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    answer = hindscan("run", "bidder_scan", project=sample, check=1)
    assert str(victim.relative_to(sample / "data" / "bids")) in answer.err
    assert "CorruptData" in answer.err or "damaged" in answer.err or "footer" in answer.err


def test_a_flipped_byte_in_a_page_is_found(sample: Path) -> None:
    victim = sorted((sample / "data" / "bids").rglob("*.parquet"))[5]
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 0x10
    victim.write_bytes(content)
    answer = hindscan("run", "bidder_scan", "-p", "year=2017", project=sample, check=1)
    assert victim.name in answer.err


def test_a_job_that_raises_shows_its_traceback_first_and_keeps_the_other_partials(sample: Path) -> None:
    marker = failing_job(sample, 'raise ValueError("no bids in July")')
    answer = hindscan("run", "counted", "--json", project=sample, check=1).document
    assert answer["state"] == "failed"
    assert answer["error"] == "JobFailed"
    assert answer["message"].startswith("Traceback (most recent call last)")
    assert "counted.py" in answer["message"]
    assert "no bids in July" in answer["message"]
    marker.touch()
    retried = hindscan("retry", answer["run"], "--json", project=sample).document
    assert retried["run"] == answer["run"]
    assert retried["slices"] == {"total": 36, "reused": 35, "computed": 1}
    rows = json.loads(hindscan("result", answer["run"], "--format", "json", project=sample).out)
    assert rows[0]["bids"] > 0


@pytest.mark.parametrize("fault", ["ctypes.string_at(0)", "os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_job_that_kills_its_worker_fails_alone(sample: Path, fault: str) -> None:
    marker = failing_job(sample, fault)
    answer = hindscan("run", "counted", "--json", project=sample, check=1).document
    assert (answer["state"], answer["error"]) == ("failed", "WorkerDied")
    marker.touch()
    retried = hindscan("retry", answer["run"], "--json", project=sample).document
    assert retried["slices"] == {"total": 36, "reused": 35, "computed": 1}


def test_a_job_file_that_is_broken_hides_no_other(sample: Path) -> None:
    (sample / "jobs" / "broken.py").write_text("def nonsense(:\n")
    (sample / "jobs" / "leaving.py").write_text("import sys\nsys.exit(3)\n")
    document = hindscan("jobs", "--json", project=sample).document
    assert {"bidder_scan", "hot_items", "closing_price"} <= {job["job"] for job in document["jobs"]}
    assert {"jobs/broken.py", "jobs/leaving.py"} == {fault["file"] for fault in document["faults"]}


@pytest.mark.parametrize("command", ["plan", "run"])
def test_no_broker_is_an_error_within_seconds_and_exit_code_3(sample: Path, command: str) -> None:
    began = time.monotonic()
    answer = hindscan(
        command,
        "bidder_scan",
        "--history",
        "bids=bids_log",
        project=sample,
        check=3,
        HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS='"127.0.0.1:1"',
    )
    assert time.monotonic() - began < 25
    assert "127.0.0.1:1" in answer.err


def test_a_store_of_a_newer_version_is_refused(sample: Path) -> None:
    hindscan("runs", project=sample)
    with sqlite3.connect(sample / ".hindscan" / "hindscan.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from_the_future'")
    connection.close()
    answer = hindscan("runs", project=sample, check=1)
    assert "StoreTooNew" in answer.err


def test_a_busy_port_is_refused_with_exit_code_3(sample: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = hindscan("serve", "--port", port, project=sample, check=3)
    assert "PortInUse" in answer.err
    assert port in answer.err


def test_a_server_off_loopback_or_at_no_port_is_refused(sample: Path) -> None:
    for option, value, words in (("--host", "192.0.2.1", "loopback"), ("--port", "65536", "must be 0 to 65535")):
        answer = hindscan("serve", option, value, project=sample, check=2)
        assert words in answer.err


@pytest.mark.kafka
def test_a_missing_topic_is_an_error_within_ten_seconds(sample: Path, kafka_cluster: KafkaCluster) -> None:
    cluster = {"HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"'}
    began = time.monotonic()
    answer = hindscan(
        "run",
        "bidder_scan",
        "--history",
        "bids=bids_log",
        "--json",
        project=sample,
        check=1,
        HINDSCAN_HISTORY__BIDS_LOG__TOPIC='"absent"',
        **cluster,
    )
    assert time.monotonic() - began < 20
    assert answer.document["error"] == "SourceMissing"
    assert "absent" in answer.document["message"]


@pytest.mark.kafka
def test_an_undecodable_record_is_named_or_set_aside_as_the_history_says(
    sample: Path, kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    from hindscan.kafka.writer import TopicWriter

    name = topic("bids", partitions=1)
    good = '{"auction": 1, "bidder": 7, "price": 5, "channel": "web", "category": "cars", "date_time": "2018-03-04T05:06:07Z"}'
    with TopicWriter({"bootstrap.servers": kafka_cluster.bootstrap}, name) as writer:
        writer.write(
            [
                (b"1", good.encode(), 0),
                (b"1", good.replace('"auction": 1', '"auction": "one"').encode(), 0),
                (b"1", good.encode(), 0),
            ]
        )
    env = {
        "HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"', "HINDSCAN_HISTORY__BIDS_LOG__TOPIC": f'"{name}"',
    }  # fmt: skip
    scan = ("run", "bidder_scan", "--history", "bids=bids_log", "--json")
    failed = hindscan(*scan, project=sample, check=1, **env).document
    assert failed["error"] == "BadRecord"
    assert [word for word in (name, "offset 1", "auction") if word not in failed["message"]] == []
    aside = hindscan(*scan, project=sample, HINDSCAN_HISTORY__BIDS_LOG__ON_BAD_RECORD='"set aside"', **env).document
    manifest = json.loads(Path(aside["manifest"]).read_text())
    assert (aside["result"]["rows"], manifest["set_aside"]) == (1, 1)


@pytest.mark.kafka
def test_an_event_for_a_topic_that_is_not_there_is_told_so(
    kafka_cluster: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hindscan.errors import SourceMissing
    from hindscan.kafka import writer

    monkeypatch.setattr(writer, "_SEND_SECONDS", 1.0)
    with pytest.raises(SourceMissing, match="nowhere"):
        writer.send({"bootstrap.servers": kafka_cluster.bootstrap}, "nowhere", b"", key=b"", headers=())
