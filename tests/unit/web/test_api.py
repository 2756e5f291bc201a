"""The HTTP edge over a desk made of plain values, spoken to as any client would: over a socket."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import uvicorn
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_text
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from hindscan.errors import NotFound, ParameterError
from hindscan.events.event import Event
from hindscan.events.signature import read_secret
from hindscan.runs.figures import BOUNDS, Figures, Histogram, Lag
from hindscan.web import guard, protocol
from hindscan.web.api import build_api
from hindscan.web.front import Front
from hindscan.web.guard import MAX_BODY_BYTES, Guard
from hindscan.web.protocol import Protocol
from hindscan.web.webhook import Webhooks

Parse = Callable[[str], Iterator[Metric]]

TABLE = pa.table({
    "bidder": pa.array([1, 2, 3], pa.int64()),
    "first": pa.array([0, 1, None], pa.timestamp("us", "UTC")),
})  # fmt: skip


FIGURES = Figures(
    received={"http": 3, "kafka": 2},
    quarantined={"": 1, "on_close": 2},
    runs={"pending": 1, "running": 0, "succeeded": 4, "failed": 0, "cancelled": 0},
    slices={"computed": 7, "reused": 5, "failed": 0},
    event_to_start=Histogram(counts=[1, 2, *[0] * (len(BOUNDS) - 2), 3], seconds=1000.5),
    lags=(Lag(trigger='a "quoted" \\ trigger\n', cluster="default", topic="t", partition=3, offsets=9),),
    clusters={"default": True, "other": False},
    outlets={"hook": (3, 61.5, 1)},
)


class PaperDesk:
    """A desk that remembers what it was asked; one run, `r1`, which has a result."""

    def __init__(self, table: Path) -> None:
        self.table = table
        self.received: list[Event] = []
        self.submitted: list[tuple[str, dict[str, Any], str | None]] = []
        self.broken: dict[str, str] = {}
        self.measured = FIGURES
        #: One for each look at the run that never ends.
        self.looked = threading.Semaphore(0)

    def receive(self, events: Sequence[Event]) -> dict[str, list[str]]:
        self.received += events
        return {"runs": [f"run-{event.id}" for event in events], "existing": [], "quarantined": []}

    def jobs(self) -> list[dict[str, Any]]:
        return [{"job": "scan"}]

    def job(self, name: str) -> dict[str, Any]:
        if name != "scan":
            raise NotFound(f"Looking up job {name!r}: there is only scan.", job=name)
        return {"job": "scan", "parameters": {"type": "object"}}

    def submit(
        self, name: str, body: Mapping[str, Any], idempotency_key: str | None, requested_by: str
    ) -> tuple[dict[str, Any], bool]:
        assert requested_by == "http:127.0.0.1"
        self.job(name)
        if body.get("parameters", {}).get("year") == "x":
            raise ParameterError("year: must be a whole number, found 'x'", faults=["year"])
        self.submitted.append((name, dict(body), idempotency_key))
        return {"id": "r1", "state": "pending"}, len(self.submitted) == 1

    def runs(self, job: str | None, state: str | None, limit: int) -> list[dict[str, Any]]:
        return [{"id": "r1", "job": job, "state": state}][:limit]

    def run(self, run: str) -> dict[str, Any]:
        if run == "waiting":
            self.looked.release()
            return {"id": run, "state": "running"}
        if run != "r1":
            raise NotFound(f"Looking up run {run!r}: there is none.", run=run)
        return {"id": "r1", "state": "succeeded"}

    def cancel(self, run: str) -> dict[str, Any]:
        return self.run(run)

    def retry(self, run: str) -> dict[str, Any]:
        return self.run(run)

    def rerun(self, run: str, body: Mapping[str, Any], requested_by: str) -> dict[str, Any]:
        return {**self.run(run), "id": "r2", **body}

    def facts(self, run: str, after: int) -> list[dict[str, Any]]:
        return [{"number": n, "fact": "SliceFinished", "slice": n} for n in (1, 2) if n > after]

    def result(self, run: str) -> Path:
        self.run(run)
        return self.table

    def manifest(self, run: str) -> dict[str, Any]:
        return {"run": self.run(run)["id"]}

    def histories(self) -> list[dict[str, Any]]:
        return [{"history": "bids"}]

    def triggers(self) -> list[dict[str, Any]]:
        return [{"trigger": "on_close"}]

    def events(self, quarantined: bool, limit: int) -> list[dict[str, Any]]:
        return [{"quarantined": quarantined, "limit": limit}]

    def notes(self) -> dict[str, str]:
        return {}

    def figures(self) -> Figures:
        return self.measured

    def redrive(self, event: str | None, source: str | None, trigger: str | None) -> list[dict[str, Any]]:
        return [{"event": event, "source": source, "trigger": trigger}]

    def begin_replay(self, trigger: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"trigger": trigger, "replay": "a b", **body}

    def replay(self, trigger: str, name: str) -> dict[str, Any]:
        return {"trigger": trigger, "replay": name}

    def begin_audit(self, trigger: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"trigger": trigger, "audit": "n1", **body}

    def audit(self, trigger: str, name: str) -> dict[str, Any]:
        return {"trigger": trigger, "audit": name}

    def faults(self) -> dict[str, str]:
        return self.broken


@contextmanager
def served(desk: PaperDesk, webhooks: Webhooks | None = None) -> Iterator[httpx.Client]:
    config = uvicorn.Config(
        Guard(Front(desk, webhooks or Webhooks(), lambda: build_api(desk, "0", webhooks))),
        http=Protocol,
        host="127.0.0.1",
        port=0,
        log_level="error",
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        yield client
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> PaperDesk:
    path = tmp_path_factory.mktemp("result") / "result.parquet"
    pq.write_table(TABLE, path)
    return PaperDesk(path)


@pytest.fixture(scope="module")
def client(desk: PaperDesk) -> Iterator[httpx.Client]:
    with served(desk) as client:
        yield client


def test_an_event_is_taken_in_all_three_modes(client: httpx.Client, desk: PaperDesk) -> None:
    event = {"specversion": "1.0", "id": "a", "source": "/s", "type": "t", "data": {"n": 1}}
    binary = {
        "ce-specversion": "1.0",
        "ce-id": "b",
        "ce-source": "/s",
        "ce-type": "t",
        "content-type": "application/json",
    }
    batch = [{**event, "id": "c"}, {**event, "id": "d"}]
    for content, headers, ids in (
        (json.dumps(event), {"content-type": "application/cloudevents+json"}, ["a"]),
        ('{"n": 1}', binary, ["b"]),
        (json.dumps(batch), {"content-type": "application/cloudevents-batch+json"}, ["c", "d"]),
    ):
        answer = client.post("/events", content=content, headers=headers)
        assert answer.status_code == 202
        assert answer.json() == {"runs": [f"run-{id}" for id in ids], "existing": [], "quarantined": []}
    assert [(e.id, e.data) for e in desk.received[-4:]] == [(id, {"n": 1}) for id in "abcd"]


def test_an_event_with_faults_is_refused_with_all_of_them(client: httpx.Client, desk: PaperDesk) -> None:
    before = len(desk.received)
    answer = client.post(
        "/events",
        content='{"specversion": "1.0", "id": "", "type": "t"}',
        headers={"content-type": "application/cloudevents+json"},
    )
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json()["faults"]) == 2
    assert len(desk.received) == before


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "", "[::2]", "[::1"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_a_foreign_host_is_refused_on_every_method(client: httpx.Client, host: str, method: str) -> None:
    assert client.request(method, "/runs", headers={"host": host}).status_code in {400, 421}


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "[::1]:80", "LOCALHOST:9"])
def test_a_loopback_host_is_served(client: httpx.Client, host: str) -> None:
    assert client.get("/runs", headers={"host": host}).status_code == 200


def test_a_request_from_another_page_is_refused(client: httpx.Client) -> None:
    assert client.post("/jobs/scan/runs", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/jobs/scan/runs", headers={"origin": "null"}).status_code == 403


def test_a_body_over_the_limit_is_refused_told_or_not(client: httpx.Client) -> None:
    headers = {"content-type": "application/cloudevents+json"}
    assert client.post("/events", content=b" " * (MAX_BODY_BYTES + 1), headers=headers).status_code == 413
    pieces = (b" " * 65_536 for _ in range(MAX_BODY_BYTES // 65_536 + 1))
    assert client.post("/events", content=pieces, headers=headers).status_code == 413


def test_a_submission_answers_where_the_run_is_and_whether_it_is_new(client: httpx.Client, desk: PaperDesk) -> None:
    first = client.post("/jobs/scan/runs", json={"parameters": {"year": 2018}}, headers={"Idempotency-Key": "k"})
    second = client.post("/jobs/scan/runs", json={"parameters": {"year": 2018}}, headers={"Idempotency-Key": "k"})
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.headers["location"] == "/runs/r1"
    assert desk.submitted[-1] == ("scan", {"parameters": {"year": 2018}}, "k")


def test_faults_are_problem_documents_with_the_status_of_their_class(client: httpx.Client) -> None:
    unknown = client.get("/jobs/none")
    assert (unknown.status_code, unknown.json()["job"], unknown.json()["error"]) == (404, "none", "NotFound")
    wrong = client.post("/jobs/scan/runs", json={"parameters": {"year": "x"}})
    assert (wrong.status_code, wrong.json()["faults"]) == (422, ["year"])
    for path, status in (("/nothing", 404), ("/runs?limit=0", 422), ("/runs?limit=x", 422)):
        answer = client.get(path)
        assert answer.status_code == answer.json()["status"] == status
        assert answer.headers["content-type"] == "application/problem+json"
    assert client.post("/jobs/scan/runs", content=b"{", headers={"content-type": "application/json"}).status_code == 422
    assert client.delete("/runs/r1").status_code == 405


def test_a_result_comes_in_the_media_type_that_was_asked_for(client: httpx.Client) -> None:
    def get(accept: str) -> httpx.Response:
        return client.get("/runs/r1/result", headers={"accept": accept})

    assert get("*/*").json() == [
        {"bidder": 1, "first": "1970-01-01T00:00:00Z"},
        {"bidder": 2, "first": "1970-01-01T00:00:00.000001Z"},
        {"bidder": 3, "first": None},
    ]
    assert pq.read_table(io.BytesIO(get("application/vnd.apache.parquet").content)).equals(TABLE)
    assert pa.ipc.open_stream(get("application/vnd.apache.arrow.stream").content).read_all().equals(TABLE)
    assert pyarrow.csv.read_csv(io.BytesIO(get("text/csv").content))["bidder"].to_pylist() == [1, 2, 3]
    assert get("text/html").status_code == 406
    assert get("*/*").headers["content-disposition"].startswith("attachment")


def test_a_run_is_followed_as_server_sent_events_to_its_end(client: httpx.Client) -> None:
    answer = client.get("/runs/r1/stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [line for line in answer.text.splitlines() if line.startswith("id:")] == ["id: 1", "id: 2"]


def test_the_webhook_handshake_names_who_may_send(client: httpx.Client) -> None:
    answer = client.options(
        "/events", headers={"WebHook-Request-Origin": "auctions.example", "WebHook-Request-Rate": "10"}
    )
    assert answer.status_code == 200
    assert answer.headers["WebHook-Allowed-Origin"] == "auctions.example"
    assert answer.headers["WebHook-Allowed-Rate"] == "*"


def test_the_handshake_grants_only_senders_that_the_project_names(desk: PaperDesk) -> None:
    with served(desk, Webhooks(origins=("auctions.example",))) as client:
        for origin, granted in (("auctions.example", True), ("evil.example", False)):
            answer = client.options("/events", headers={"WebHook-Request-Origin": origin})
            assert ("WebHook-Allowed-Origin" in answer.headers, "WebHook-Allowed-Rate" in answer.headers) == (
                granted,
                granted,
            )
            assert "POST" in answer.headers["Allow"]
            sent = post(client, "w", **{"WebHook-Request-Origin": origin})
            assert sent.status_code == (202 if granted else 403)


def test_with_secrets_only_signed_events_are_taken(desk: PaperDesk) -> None:
    secret = base64.b64encode(bytes(32)).decode()
    with served(desk, Webhooks(secrets=(read_secret(secret),))) as client:
        before = len(desk.received)
        refused = post(client, "unsigned")
        assert (refused.status_code, len(refused.json()["faults"])) == (401, 3)
        assert refused.headers["content-type"] == "application/problem+json"
        assert (refused.headers["WWW-Authenticate"], refused.json()["scheme"]) == ("StandardWebhooks",) * 2
        now = str(int(time.time()))
        content = b".".join((b"m-1", now.encode(), event_bytes("signed")))
        signature = base64.b64encode(hmac.new(bytes(32), content, hashlib.sha256).digest()).decode()
        proof = {"webhook-id": "m-1", "webhook-timestamp": now, "webhook-signature": f"v1,{signature}"}
        assert post(client, "signed", **proof).status_code == 202
        assert post(client, "forged", **proof).status_code == 401
        assert [event.id for event in desk.received[before:]] == ["signed"]


def event_bytes(id: str) -> bytes:
    return json.dumps({"specversion": "1.0", "id": id, "source": "/s", "type": "t"}).encode()


def post(client: httpx.Client, id: str, **headers: str) -> httpx.Response:
    kind = {"content-type": "application/cloudevents+json"}
    return client.post("/events", content=event_bytes(id), headers=kind | headers)


def connected(client: httpx.Client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.base_url.port or 0), 20)


def test_half_an_event_is_none(client: httpx.Client, desk: PaperDesk) -> None:
    before = len(desk.received)
    with connected(client) as connection:
        # In binary mode any part of the data would be an event.
        connection.sendall(
            b"POST /events HTTP/1.1\r\nHost: localhost\r\nce-id: half\r\nce-source: /s\r\nce-type: t\r\nce-specversion: 1.0\r\n"
            b"Content-Type: text/plain\r\nContent-Length: 100\r\n\r\nonly so much"
        )
    assert post(client, "whole").status_code == 202
    assert [event.id for event in desk.received[before:]] == ["whole"]


def test_a_client_that_never_ends_its_request_is_let_go(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.1)
    for begun, wanted in (
        (b"", b""),
        (b"POST /events HTTP/1.1\r\nHost: localhost\r\n", b""),
        (b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{", b"HTTP/1.1 408"),
    ):
        with connected(client) as connection:
            connection.sendall(begun)
            assert connection.recv(65_536).startswith(wanted)


def test_those_who_wait_for_runs_take_nothing_from_those_who_send_events(client: httpx.Client, desk: PaperDesk) -> None:
    asked = (
        b"GET /runs/waiting?wait=20 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /runs/waiting/stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    with contextlib.ExitStack() as waiting:
        for number in range(100):
            connection = waiting.enter_context(connected(client))
            connection.sendall(asked[number % 2])
        # All of them are looked after, again and again: there are more than threads, so none holds one.
        for _ in range(400):
            assert desk.looked.acquire(timeout=20)
        assert post(client, "meanwhile").status_code == 202


@pytest.mark.parametrize(("accept", "parse"), [
    ("*/*", prometheus_text), ("text/plain;version=0.0.4", prometheus_text), ("application/openmetrics-text; version=1.0.0", openmetrics_text),
])  # fmt: skip
def test_metrics_are_read_by_the_library_s_own_parser(client: httpx.Client, accept: str, parse: Parse) -> None:
    answer = client.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].partition(";")[0] in accept or accept == "*/*"
    samples = {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }
    assert samples["hindscan_events_received_total", "http"] == 3
    assert samples["hindscan_events_quarantined_total", "on_close"] == 2
    assert samples["hindscan_runs", "succeeded"] == 4
    assert samples["hindscan_slices_total", "reused"] == 5
    assert samples["hindscan_intake_lag", "default", "3", "t", 'a "quoted" \\ trigger\n'] == 9
    assert samples["hindscan_cluster_up", "other"] == 0
    outbox = ("pending", "oldest_seconds", "refused")
    assert [samples[f"hindscan_outbox_{name}", "hook"] for name in outbox] == [3, 61.5, 1]
    assert samples["hindscan_event_to_start_seconds_bucket", "0.01"] == 3
    assert samples["hindscan_event_to_start_seconds_bucket", "300.0"] == 3
    assert samples["hindscan_event_to_start_seconds_bucket", "+Inf"] == 6
    assert (samples["hindscan_event_to_start_seconds_count",], samples["hindscan_event_to_start_seconds_sum",]) == (
        6,
        1000.5,
    )


def test_readiness_names_what_is_wrong(client: httpx.Client, desk: PaperDesk) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").json() == {"status": "ready", "faults": {}, "notes": {}}
    desk.broken["kafka"] = "unreachable"
    try:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["faults"]) == (503, {"kafka": "unreachable"})
    finally:
        desk.broken.clear()


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/events/redrive", {"event": None, "source": None, "trigger": None}),
        ("/events/redrive?trigger=t", {"event": None, "source": None, "trigger": "t"}),
        ("/events/event:12/redrive", {"event": "event:12", "source": None, "trigger": None}),
        ("/events/a%2Fb%20c/redrive?source=/s", {"event": "a/b c", "source": "/s", "trigger": None}),
        ("/events/bids%5B0%5D@7/redrive", {"event": "bids[0]@7", "source": None, "trigger": None}),
    ],
)
def test_a_redrive_names_its_event_or_none(client: httpx.Client, path: str, asked: dict[str, Any]) -> None:
    answer = client.post(path)
    assert (answer.status_code, answer.json()) == (202, {"redriven": [asked]})


def test_every_path_of_the_design_is_in_the_open_api_document(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {
        "/events", "/jobs", "/jobs/{name}", "/jobs/{name}/runs", "/runs", "/runs/{run}", "/runs/{run}/cancel", "/runs/{run}/retry",
        "/runs/{run}/rerun", "/runs/{run}/stream", "/runs/{run}/result", "/runs/{run}/manifest", "/histories", "/triggers", "/healthz", "/readyz",
        "/events/redrive", "/events/{event}/redrive",
    } <= set(paths)  # fmt: skip


def test_answers_forbid_sniffing_and_scripts(client: httpx.Client) -> None:
    headers = client.get("/runs").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]


def test_what_goes_over_the_past_is_begun_at_once_and_found_at_its_place(client: httpx.Client) -> None:
    for kind, name in (("replay", "a b"), ("audit", "n1")):
        begun = client.post(f"/triggers/on%20close/{kind}s", json={"since": "2020-01-01"})
        assert (begun.status_code, begun.json()["since"]) == (202, "2020-01-01")
        assert begun.headers["location"].startswith(f"/triggers/on%20close/{kind}s/")
        assert client.get(begun.headers["location"]).json() == {"trigger": "on close", kind: name}
