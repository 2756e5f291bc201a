"""A changed project file and changed jobs are taken up by a server that goes on, and no event is lost or doubled by it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from acceptance.command import hindscan
from acceptance.serving import Server, closed, finished, http_only, post, serve
from clock import until

if TYPE_CHECKING:
    import httpx2 as httpx

    from conftest import MakeTopic
    from hindscan.testing import KafkaCluster

COUNT = """
import hindscan as hs

@hs.job(history="bids", combine=None)
def {name}(bids: hs.Data, category: str, year: int):
    return {{"n": {value}}}

@{name}.combine
def most(partials: hs.Data):
    return partials.arrow().slice(0, 1)
"""


def change(project: Path, old: str, new: str) -> None:
    file = project / "hindscan.toml"
    text = file.read_text()
    assert old in text
    whole = project / "hindscan.toml.new"
    whole.write_text(text.replace(old, new))
    whole.replace(file)


def triggers(client: httpx.Client) -> list[str]:
    return [one["trigger"] for one in client.get("/triggers").json()["triggers"]]


def note(client: httpx.Client) -> str:
    found: str = client.get("/readyz").json()["notes"].get("reload", "")
    return found


def rows(client: httpx.Client, run: str) -> object:
    return client.get(f"/runs/{run}/result").json()


def test_triggers_and_jobs_change_while_the_server_runs_and_a_broken_change_is_refused(sample: Path) -> None:
    http_only(sample)
    (sample / "jobs/counted.py").write_text(COUNT.format(name="counted", value=1))
    with serve(sample) as server, server.client() as client:
        change(sample, 'job = "bidder_scan"', 'job = "counted"')
        until(lambda: client.get("/triggers").json()["triggers"][0]["job"] == "counted", "the changed trigger")
        (one,) = post(client, closed("1")).json()["runs"]
        assert finished(client, one)["job"] == "counted"

        (sample / "jobs/counted.py").write_text(COUNT.format(name="counted", value=2))
        until(lambda: rows(client, again(client)) == [{"n": 2}], "the changed job")

        (sample / "jobs/counted.py").write_text("import hindscan as hs\nraise SystemExit(3)\n")
        until(lambda: "jobs/counted.py" in note(client), "the note on the broken job")
        assert rows(client, again(client)) == [{"n": 2}]

        change(
            sample,
            'filter = { exact = { type = "auction.closed" } }',
            'filter = { exakt = { type = "auction.closed" } }',
        )
        until(lambda: "exakt" in note(client), "the note on the broken file")
        assert client.get("/readyz").status_code == 200
        (two,) = post(client, closed("2")).json()["runs"]
        assert finished(client, two)["state"] == "succeeded"
        assert server.process.poll() is None, server.log()


def again(client: httpx.Client) -> str:
    """Submit the job, and wait for the run."""
    answer = client.post("/jobs/counted/runs", json={"parameters": {"category": "cars", "year": 2018}})
    assert answer.status_code == 201, answer.text
    run: str = answer.json()["id"]
    assert finished(client, run)["state"] == "succeeded"
    return run


def test_a_paused_trigger_keeps_its_events_until_it_goes_on(sample: Path) -> None:
    http_only(sample)
    with serve(sample) as server, server.client() as client:
        change(sample, 'as_of = "event"', 'as_of = "event"\npaused = true')
        until(lambda: client.get("/triggers").json()["triggers"][0].get("paused"), "the pause")
        (held,) = post(client, closed("held")).json()["runs"]
        # What is asked for by hand goes past it.
        asked = client.post("/jobs/bidder_scan/runs", json={"parameters": {"category": "cars", "year": 2018}}).json()
        assert finished(client, asked["id"])["state"] == "succeeded"
        assert client.get(f"/runs/{held}").json()["state"] == "pending"
        change(sample, "paused = true", "paused = false")
        assert finished(client, held)["state"] == "succeeded"


def test_a_server_that_shall_not_reload_does_not(sample: Path) -> None:
    http_only(sample)
    with serve(sample, HINDSCAN_SERVE__RELOAD="false") as server, server.client() as client:
        change(sample, "[triggers.scan_on_close]", "[triggers.other]")
        seen = time.monotonic()
        until(lambda: time.monotonic() - seen > 3, "three seconds of looking")
        assert triggers(client) == ["scan_on_close"]


@pytest.mark.kafka
def test_a_renamed_trigger_goes_on_where_the_old_one_stood(
    sample: Path, kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("auction-events")
    change(sample, "kafka:auction-events", f"kafka:{name}")
    env = {"HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": f'"{kafka_cluster.bootstrap}"', "HINDSCAN_SERVE__GROUP": name}

    def emit(id: str) -> None:
        event = sample / "event.json"
        event.write_text(json.dumps(closed(id)))
        hindscan("emit", str(event), "--to", f"kafka:{name}", project=sample, **env)

    def by_trigger(client: httpx.Client) -> list[tuple[str, str]]:
        runs = [run["event"] for run in client.get("/runs").json()["runs"]]
        return sorted((event["id"], event["trigger"]) for event in runs)

    with serve(sample, **env) as server, server.client() as client:
        emit("1")
        until(lambda: by_trigger(client) == [("1", "scan_on_close")], "the first run")
        change(sample, "[triggers.scan_on_close]", '[triggers.scan]\nwas = "scan_on_close"')
        emit("2")
        emit("3")
        until(lambda: len(by_trigger(client)) == 3, "all runs")
        until(lambda: triggers(client) == ["scan"], "the new name")
        emit("4")
        until(lambda: len(by_trigger(client)) == 4, "the fourth run")
        found = by_trigger(client)
        assert [id for id, _ in found] == ["1", "2", "3", "4"], server.log()
        assert found[-1] == ("4", "scan")
        check_no_doubt(server)


def check_no_doubt(server: Server) -> None:
    """Neither warnings of the group nor errors of the change stand in the log."""
    assert "ERROR" not in server.log()
