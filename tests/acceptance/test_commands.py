"""Every command, as a user types it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from acceptance.command import bidder_scan_oracle, hindscan, same_rows
from clock import until
from hindscan.cli.app import COMMANDS
from hindscan.runs.digest import table_digest

if TYPE_CHECKING:
    from conftest import MakeTopic
    from hindscan.testing import KafkaCluster

SLOW = """
import pathlib, time
import hindscan as hs

@hs.job(history="bids", combine="concat")
def slow(bids: hs.Data):
    pathlib.Path({began!r}).touch()
    time.sleep(600)
    return bids.sql("SELECT count(*) AS bids FROM bids")
"""


def test_every_command_answers_help(tmp_path: Path) -> None:
    answer = hindscan("--help", project=tmp_path)
    assert [name for name in COMMANDS if name not in answer.out] == []


def test_init_makes_a_project_whose_jobs_run_and_never_overwrites_one(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    made = hindscan("init", str(folder), "--json", project=tmp_path).document
    assert "hindscan.toml" in made["files"]
    document = hindscan("run", "bidder_scan", "--json", project=folder).document
    same_rows(pq.read_table(document["result"]["path"]), bidder_scan_oracle(folder / "data"))
    assert "hold one" in hindscan("init", str(folder), project=tmp_path, check=2).err


def test_plan_tells_the_cost_before_and_the_reuse_after(sample: Path) -> None:
    before = hindscan("plan", "bidder_scan", "--json", project=sample).document
    assert (before["slices"], before["reused"], before["rows"]) == (36, 0, 120_000)
    assert before["bytes"] > 0
    assert before["tasks"] >= 1
    assert not list((sample / ".hindscan").glob("partials/*/*"))
    hindscan("run", "bidder_scan", project=sample)
    after = hindscan("plan", "bidder_scan", "--json", project=sample).document
    assert (after["reused"], after["tasks"], after["rows_to_read"]) == (36, 0, 0)
    other = hindscan("plan", "bidder_scan", "-p", "year=2019", "--json", project=sample).document
    assert other["reused"] == 0


def test_as_of_hides_what_came_later(sample: Path) -> None:
    scan = ("run", "hot_items", "-p", "top=100000", "--json")
    all_rows, early = (hindscan(*scan, *more, project=sample).document for more in ((), ("--as-of", "2018-01-01")))
    assert early["result"]["rows"] < all_rows["result"]["rows"]
    ends = pq.read_table(early["result"]["path"])["start"].to_pylist()
    assert max(ends).year == 2017


def test_a_job_that_is_split_by_key_publishes_one_sorted_table(sample: Path) -> None:
    document = hindscan("run", "bidder_totals", "-p", "least=3", "--json", project=sample).document
    table = pq.read_table(document["result"]["path"])
    wanted = duckdb.sql(
        "SELECT bidder, count(*) AS bids, sum(price)::BIGINT AS total, max(price) AS top, sum(price)::BIGINT / count(*) AS mean "
        f"FROM read_parquet('{sample}/data/bids/**/*.parquet') GROUP BY bidder HAVING count(*) >= 3 ORDER BY bidder"
    )
    assert [tuple(row.values()) for row in table.to_pylist()] == wanted.fetchall()
    assert (document["result"]["digest"], document["result"]["rows"]) == (table_digest(table), table.num_rows)
    again = hindscan("run", "bidder_totals", "-p", "least=1", "--json", project=sample).document
    assert again["slices"]["computed"] == 0


def test_a_result_is_printed_and_saved_in_every_format(sample: Path) -> None:
    document = hindscan("run", "bidder_scan", "--json", project=sample).document
    run, table = document["run"], pq.read_table(document["result"]["path"])
    rows = json.loads(hindscan("result", run, "--format", "json", project=sample).out)
    assert [row["bidder"] for row in rows] == table["bidder"].to_pylist()
    for name in ("csv", "parquet", "arrow"):
        hindscan("result", "bidder_scan@latest", "--format", name, "-o", str(sample / f"out.{name}"), project=sample)
    assert pyarrow.csv.read_csv(sample / "out.csv")["total"].to_pylist() == table["total"].to_pylist()
    assert pq.read_table(sample / "out.parquet").equals(table)
    assert f"{table.num_rows:,} rows in all" in hindscan("result", run, project=sample).out


def test_runs_and_show_tell_what_happened(sample: Path) -> None:
    run = hindscan("run", "bidder_scan", "--json", project=sample).document["run"]
    (listed,) = hindscan("runs", "--job", "bidder_scan", "--state", "succeeded", "--json", project=sample).document[
        "runs"
    ]
    assert listed["id"] == run
    shown = hindscan("show", run, "--json", project=sample).document
    states = [fact["state"] for fact in shown["facts"] if fact["fact"] == "StateChanged"]
    assert states[-1] == "succeeded"
    assert any(fact["fact"] == "RunPlanned" for fact in shown["facts"])
    # When is said of every fact in one way, as everywhere.
    assert max(fact["at"] for fact in shown["facts"]) == shown["updated_at"]
    assert run in hindscan("show", run, project=sample).out
    assert hindscan("runs", "--state", "failed", "--json", project=sample).document == {"runs": []}


def test_cancel_ends_a_run_that_another_process_works_on(sample: Path) -> None:
    began = sample / "began"
    (sample / "jobs" / "slow.py").write_text(SLOW.format(began=str(began)))
    run = hindscan("run", "slow", "--detach", "--json", project=sample).document["run"]
    until(began.exists, "the first line of the job")
    asked = time.monotonic()
    hindscan("cancel", run, project=sample)
    state = until(
        lambda: (found := hindscan("show", run, "--json", project=sample).document["state"]) == "cancelled" and found,
        "the cancelled run",
    )
    assert state == "cancelled"
    assert time.monotonic() - asked < 20
    assert not list((sample / ".hindscan").glob("results/slow/*"))
    assert "nothing left to cancel" in hindscan("cancel", run, project=sample, check=2).err


def test_check_passes_the_shipped_jobs(sample: Path) -> None:
    for job in ("bidder_scan", "bidder_totals", "hot_items", "closing_prices"):
        document = hindscan("check", job, "--json", project=sample).document
        assert (document["same"], set(document["cuts"])) == (True, {"1", "2", "7"})


def test_a_simulation_gives_the_same_bits_for_any_number_of_workers(sample: Path) -> None:
    digests = {
        hindscan(
            "run",
            "closing_price",
            "--draws",
            "300000",
            "--seed",
            "7",
            "--fresh",
            "--workers",
            workers,
            "--json",
            project=sample,
        ).document["result"]["digest"]
        for workers in ("1", "2", "5")
    }
    assert len(digests) == 1


def test_match_tells_which_events_a_filter_takes_and_why_not(sample: Path) -> None:
    events = sample / "events.jsonl"
    good = {"specversion": "1.0", "id": "1", "source": "/s", "type": "auction.closed", "data": {"price": 5}}
    lines = [good, {**good, "id": "2", "type": "auction.opened"}, {**good, "id": "3", "data": {"price": "x"}}]
    events.write_text("\n".join(json.dumps(line) for line in lines))
    named = hindscan("match", "scan_on_close", str(events), "--json", project=sample).document
    assert [event["outcome"] for event in named["events"]] == ["matched", "unmatched", "matched"]
    assert "auction.opened" in named["events"][1]["reason"]
    priced = hindscan(
        "match", '{"jmespath": "data.price > `3`"}', str(events), "--json", project=sample, check=1
    ).document
    assert priced["failed"] == 1
    toml = (sample / "hindscan.toml").read_text()
    every = '\n[triggers.every]\non = "http"\njob = "bidder_scan"\n'
    strict = every.replace("every", "by_region") + "strict = true\nfilter = { sql = \"region = 'eu'\" }\n"
    (sample / "hindscan.toml").write_text(toml + every + strict)
    as_trigger = hindscan("match", "by_region", str(events), "--json", project=sample, check=1).document
    assert as_trigger["failed"] == 3
    assert hindscan("match", "every", str(events), "--json", project=sample).document["matched"] == 3
    assert "offsets" in hindscan("match", "by_region", str(events), "--offsets", "0:1-2", project=sample, check=2).err
    events.write_text("{}\nnonsense\n")
    assert hindscan("match", '{"sql": "TRUE"}', str(events), "--json", project=sample, check=1).document["failed"] == 2


def test_doctor_finds_what_is_right_and_what_is_wrong(sample: Path) -> None:
    file = sample / "hindscan.toml"
    text = file.read_text()
    file.write_text(
        text.split("[kafka.default]")[0] + text[text.index("[history.bids]") : text.index("[history.bids_log]")]
    )
    right = hindscan("doctor", "--json", project=sample).document
    assert right["ok"] is True
    assert {"store", "jobs", "history bids", "workers"} <= {finding["what"] for finding in right["findings"]}
    (sample / "jobs" / "broken.py").write_text("1 +\n")
    wrong = hindscan("doctor", "--json", project=sample, check=1).document
    assert [finding["what"] for finding in wrong["findings"] if not finding["ok"]] == ["job file jobs/broken.py"]
    file.write_text(text)
    assert hindscan("doctor", project=sample, check=3).out.count("WRONG") >= 2


def test_declared_things_are_listed(sample: Path) -> None:
    assert {"bids", "bids_log"} <= {
        h["history"] for h in hindscan("histories", "--json", project=sample).document["histories"]
    }
    assert [t["trigger"] for t in hindscan("triggers", "--json", project=sample).document["triggers"]] == [
        "scan_on_close"
    ]
    assert "scan_on_close  kafka:auction-events, http  bidder_scan" in hindscan("triggers", project=sample).out
    shown = hindscan("jobs", "bidder_scan", "--json", project=sample).document
    assert shown["parameters"]["properties"]["year"]["default"] == 2018
    pin = hindscan("snapshot", "bids", "--as-of", "2018-01-01", "--json", project=sample).document["pin"]
    assert pin["kind"] == "parquet"


@pytest.mark.kafka
def test_the_demo_shows_the_main_job_from_end_to_end(tmp_path: Path, kafka_cluster: KafkaCluster) -> None:
    del kafka_cluster  # the demo starts its own broker; the fixture says whether one can be had
    folder = tmp_path / "demo"
    document = hindscan("demo", "--bids", "40000", "--folder", str(folder), "--json", project=tmp_path).document
    assert document["topic"]["same_result"] is True
    assert document["again"]["runs_started"] == 0
    assert document["again"]["existing"] == [document["event"]["run"]]
    assert document["again"]["computed"] == 0
    assert document["monte_carlo"]["rows"] == 1
    assert Path(document["result"]).is_file()
    same_rows(pq.read_table(document["result"]), bidder_scan_oracle(folder / "data"))
    assert hindscan("runs", "--json", project=folder).document["runs"]


@pytest.mark.kafka
def test_match_reads_exact_ranges_of_a_topic(sample: Path, kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("past", partitions=2)
    env = {"HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"'}
    producer = Producer({"bootstrap.servers": kafka_cluster.bootstrap})
    for number in range(20):
        event = {"specversion": "1.0", "id": str(number), "source": "/s", "type": "t" if number % 3 else "u"}
        body = json.dumps(event).encode() if number != 7 else b"no event"
        headers = [("content-type", b"application/cloudevents+json")]
        producer.produce(name, body, partition=number % 2, timestamp=1_000 * (number + 1), headers=headers)
    producer.flush(30)

    def match(*window: str, check: int = 0) -> set[tuple[str, str]]:
        command = ("match", '{"exact": {"type": "t"}}', f"kafka:{name}", *window, "--json")
        document = hindscan(*command, project=sample, check=check, **env).document
        return {(event["at"].removeprefix(name), event["outcome"]) for event in document["events"]}

    outcome = ["failed" if number == 7 else "matched" if number % 3 else "unmatched" for number in range(20)]
    every = {(f"[{number % 2}]@{number // 2}", outcome[number]) for number in range(20)}
    assert match(check=1) == every
    assert match("--offsets", "0:2-5") == {(f"[0]@{at}", outcome[2 * at]) for at in (2, 3, 4)}
    assert match("--since", "1970-01-01T00:00:11Z", "--until", "1970-01-01T00:00:15Z") == {
        (f"[{number % 2}]@{number // 2}", outcome[number]) for number in range(10, 14)
    }
    beyond = hindscan(
        "match", '{"sql": "TRUE"}', f"kafka:{name}", "--offsets", "0:2-11,5:0-1", project=sample, check=2, **env
    )
    assert "not 11" in beyond.err
    assert "no partition 5" in beyond.err
