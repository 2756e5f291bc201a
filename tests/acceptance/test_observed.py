"""What is seen of a running dispatcher from outside: signed events, figures, a log by ids, and who asked."""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
from prometheus_client.parser import text_string_to_metric_families

from acceptance.command import hindscan
from acceptance.serving import closed, finished, http_only, serve

SECRETS = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", base64.b64encode(b"the key that comes after it, later").decode()]


def send(client: httpx.Client, event: dict[str, Any], secret: str, id: str = "m-1") -> httpx.Response:
    body = json.dumps(event).encode()
    now = str(int(time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = hmac.new(key, b".".join((id.encode(), now.encode(), body)), hashlib.sha256).digest()
    headers = {
        "content-type": "application/cloudevents+json", "webhook-id": id, "webhook-timestamp": now,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }  # fmt: skip
    return client.post("/events", content=body, headers=headers)


def figures(client: httpx.Client) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_signed_event_is_followed_from_its_receipt_to_its_run_by_figures_and_log(sample: Path) -> None:
    file = http_only(sample) / "hindscan.toml"
    file.write_text(
        file.read_text() + '\n[serve]\nwebhook_secrets = ["${NEW}", "${OLD}"]\nlog = "json"\nlog_level = "debug"\n'
    )
    env = {"NEW": SECRETS[1], "OLD": SECRETS[0]}
    with serve(sample, **env) as server, server.client() as client:
        assert (
            client.post("/events", json=closed(), headers={"content-type": "application/cloudevents+json"}).status_code
            == 401
        )
        assert client.get("/events").json() == {"events": []}
        (run,) = send(client, closed(), SECRETS[0]).json()["runs"]
        # The same webhook again, and its event under another webhook's id and the other secret: the ledger knows it.
        for id, secret in (("m-1", SECRETS[0]), ("m-2", SECRETS[1])):
            assert send(client, closed(), secret, id).json() == {"runs": [], "existing": [run], "quarantined": []}
        assert send(client, {**closed("bad"), "data": {"category": ["no"]}}, SECRETS[1]).json()["quarantined"]
        emitted = sample / "event.json"
        emitted.write_text(json.dumps(closed()))
        port = server.address.rpartition(":")[2]
        assert (
            "existing: " + run in hindscan("emit", str(emitted), project=sample, HINDSCAN_SERVE__PORT=port, **env).out
        )
        done = finished(client, run)
        assert (done["state"], done["requested_by"]) == ("succeeded", "trigger:scan_on_close")
        seen = figures(client)
        slices = client.get(f"/runs/{run}/manifest").json()["slices"]
        log = server.log()
    assert seen["hindscan_events_received_total", "http"] == 2
    assert seen["hindscan_events_quarantined_total", "scan_on_close"] == 1
    assert seen["hindscan_runs", "succeeded"] == 1
    assert seen["hindscan_event_to_start_seconds_count",] == 1
    assert seen["hindscan_slices_total", "computed"] == slices["computed"]

    lines = [json.loads(line) for line in log.splitlines()]
    assert {"at", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
    of_run = [line for line in lines if line.get("run") == run]
    assert {json.dumps(line["event"], sort_keys=True) for line in of_run} == {'{"id": "a-1", "source": "/auctions"}'}
    assert [line["state"] for line in of_run if "state" in line] == ["succeeded"]
    assert len({(line["stage"], line["slice"]) for line in of_run if "slice" in line}) >= slices["computed"]
    assert [line["trigger"] for line in lines if line.get("event", {}).get("id") == "bad"] == ["scan_on_close"]
    assert not any(secret in log for secret in SECRETS)

    # Another dispatcher on the same store counts the same; nobody must prove anything to it.
    file.write_text(file.read_text().partition("[serve]")[0])
    with serve(sample) as server, server.client() as client:
        again = figures(client)
        asked = client.post("/jobs/bidder_scan/runs", json={"parameters": {"year": 2017}}).json()
        assert asked["requested_by"] == "http:127.0.0.1"
        assert finished(client, asked["id"])["state"] == "succeeded"
        assert client.get(f"/runs/{asked['id']}/manifest").json()["requested_by"] == "http:127.0.0.1"
    assert again == seen
    by_hand = hindscan("run", "bidder_scan", "-p", "year=2017", "--json", project=sample).document["run"]
    shown = hindscan("show", by_hand, "--json", project=sample).document
    assert shown["requested_by"] == f"cli:{getpass.getuser()}"


def test_a_key_gives_the_same_run_for_the_same_body_and_nothing_for_another(sample: Path) -> None:
    with serve(http_only(sample)) as server, server.client() as client:

        def submit(key: str, job: str = "bidder_scan", **body: Any) -> httpx.Response:
            return client.post(f"/jobs/{job}/runs", json=body, headers={"Idempotency-Key": key})

        # `last` means another time at each call; the request is the same all the same.
        first = submit("k", last="7d", parameters={"year": 2018})
        again = submit("k", parameters={"year": 2018}, last="7d")
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]
        assert first.headers["location"] == again.headers["location"] == f"/runs/{first.json()['id']}"
        for other in (submit("k", parameters={"year": 2017}), submit("k")):
            assert (other.status_code, other.json()["error"], other.json()["run"]) == (
                409,
                "Conflict",
                first.json()["id"],
            )
        assert submit("k2", last="7d", parameters={"year": 2018}).status_code == 201
        assert len(client.get("/runs").json()["runs"]) == 2
