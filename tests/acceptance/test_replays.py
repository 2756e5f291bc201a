"""What a user types to go over the past again: a replay gives the same bits whatever arrived late, a dry run tells before, an audit says whether all is there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from acceptance.command import bidder_scan_oracle, hindscan, same_rows
from acceptance.serving import closed, finished, http_only, post, serve
from clock import until

SINCE = ("--since", "2020-01-01")


def arrive_late(project: Path) -> None:
    """Write bids of 2018 that were not there before: those of one file, again."""
    first = min((project / "data" / "bids" / "year=2018").rglob("*.parquet"))
    late = first.with_name("late.parquet")
    pq.write_table(pq.read_table(first, partitioning=None), late)


def test_a_replay_gives_the_same_bits_although_data_arrived_late_and_repin_sees_it(sample: Path) -> None:
    http_only(sample)
    with serve(sample) as server, server.client() as client:
        (run,) = post(client, closed(year=2018)).json()["runs"]
        first = finished(client, run)
        then = bidder_scan_oracle(sample / "data")
        arrive_late(sample)
        dry = hindscan("replay", "scan_on_close", *SINCE, "--dry-run", "--json", project=sample).document
        assert (dry["matched"], dry["linked"], dry["opened"], len(dry["plans"])) == (1, 1, 0, 1)
        same = hindscan("replay", "scan_on_close", *SINCE, "--name", "again", "--json", project=sample).document
        anew = hindscan(
            "replay", "scan_on_close", *SINCE, "--name", "anew", "--repin", "--json", project=sample
        ).document
        replayed, repinned = (finished(client, told["runs"][0]) for told in (same, anew))
        manifests = [client.get(f"/runs/{one['id']}/manifest").json() for one in (first, replayed, repinned)]
    digests = [manifest["result"]["digest"] for manifest in manifests]
    assert digests[0] == digests[1] != digests[2]
    assert [manifest["parent"] for manifest in manifests] == ["", run, run]
    assert manifests[1]["slices"]["computed"] == 0
    same_rows(pq.read_table(sample / str(replayed["result"]) / "result.parquet"), then)
    same_rows(pq.read_table(sample / str(repinned["result"]) / "result.parquet"), bidder_scan_oracle(sample / "data"))
    again = hindscan("replay", "scan_on_close", *SINCE, "--name", "again", project=sample)
    assert "replay 'again': 0 runs opened, 1 were there" in again.out


def test_an_audit_exits_with_1_until_what_is_missing_is_submitted(sample: Path) -> None:
    http_only(sample)
    with serve(sample) as server, server.client() as client:
        for number in range(2):
            (run,) = post(client, closed(f"a-{number}")).json()["runs"]
            finished(client, run)
        assert "0 found" in hindscan("audit", "scan_on_close", *SINCE, project=sample).out
        with closing(sqlite3.connect(sample / ".hindscan" / "hindscan.db")) as store, store:
            store.execute("DELETE FROM decisions WHERE id = 'a-1'")
            store.execute("DELETE FROM runs WHERE event_id = 'a-1'")
        told = hindscan("audit", "scan_on_close", *SINCE, "--json", project=sample, check=1).document
        assert [(one["kind"], one["id"], one["repaired"]) for one in told["findings"]] == [
            ("no decision", "a-1", False)
        ]
        repaired = hindscan("audit", "scan_on_close", *SINCE, "--repair", project=sample)
        assert "1 found, 1 repaired" in repaired.out
        assert "0 found" in hindscan("audit", "scan_on_close", *SINCE, project=sample).out
        (missing,) = [one for one in client.get("/runs").json()["runs"] if one["event"]["id"] == "a-1"]
        assert finished(client, missing["id"])["state"] == "succeeded"
    hindscan("audit", "nothing", *SINCE, project=sample, check=2)
    hindscan("audit", "scan_on_close", "--since", "soon", project=sample, check=2)


def test_replays_and_audits_are_begun_over_http_and_found_when_they_are_done(sample: Path) -> None:
    http_only(sample)
    with serve(sample) as server, server.client() as client:
        (run,) = post(client, closed()).json()["runs"]
        finished(client, run)
        at = "/triggers/scan_on_close"

        def done(kind: str, **asked: object) -> dict[str, Any]:
            begun = client.post(f"{at}/{kind}", json=asked)
            assert begun.status_code == 202, begun.text
            place = begun.headers["location"]
            return until(lambda: (told := client.get(place).json())["state"] == "done" and told, "its end")

        dry = done("replays", since="2020-01-01", name="n", dry_run=True)
        assert (dry["matched"], dry["opened"], dry["decided"], len(dry["plans"])) == (1, 0, {}, 1)
        replayed = done("replays", since="2020-01-01", name="n")
        assert (replayed["opened"], replayed["decided"]) == (1, {"matched": 1})
        assert finished(client, replayed["runs"][0])["parent"] == run
        assert done("replays", since="2020-01-01", name="n")["opened"] == 0
        with closing(sqlite3.connect(sample / ".hindscan" / "hindscan.db")) as store, store:
            store.execute("DELETE FROM decisions WHERE trigger = 'scan_on_close'")
            store.execute("DELETE FROM runs WHERE trigger = 'scan_on_close'")
        assert done("audits", repair=True)["sound"]
        assert done("audits")["findings"] == []
        for kind, asked, words in [
            ("replays", {"since": "soon"}, "since: it"),
            ("replays", {"name": "a b"}, "a replay's name"),
            ("replays", {"sinc": "2020-01-01"}, "sinc"),
            ("audits", {"repair": 1}, "repair"),
        ]:
            refused = client.post(f"{at}/{kind}", json=asked)
            assert (refused.status_code, words in refused.json()["detail"]) == (422, True), refused.text
        assert client.post("/triggers/none/replays", json={}).status_code == 404
        assert client.get(f"{at}/replays/none").status_code == 404
        assert client.get(f"{at}/audits/none").status_code == 404
        audit = client.post(f"{at}/audits", json={}).headers["location"]
        until(lambda: client.get(audit).json()["state"] == "done", "its end")
    with serve(sample) as server, server.client() as client:
        told = client.get(f"{at}/replays/n").json()
        assert (told["state"], told["opened"], told["decided"]) == ("done", 0, {"matched": 1})
        assert client.get(audit).json()["sound"]
