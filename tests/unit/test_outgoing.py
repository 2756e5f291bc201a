"""What runs say of themselves reaches a webhook at least once, under one id, in the order of each run; nothing is given up in silence."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clock import Clock
from hindscan import times
from hindscan.cli.app import run_app
from hindscan.config import Project
from hindscan.config_file import load_project
from hindscan.errors import ConfigError, SignatureRefused
from hindscan.outgoing import Sender
from hindscan.runs import leases, opening, outbox, register
from hindscan.runs.run import RunRequest
from hindscan.runs.store import Store, open_store
from hindscan.web.webhook import Webhooks
from receiver import Receiver, receiver


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as listening:
        yield listening


def a_project(folder: Path, to: str, more: str = "") -> Project:
    (folder / "hindscan.toml").write_text(f'[publish.hook]\nto = "{to}"\n{more}')
    return load_project(folder, {})


def a_sender(project: Project, store: Store, owner: str = "me") -> Sender:
    outbox.declare(store, {name: outlet.source for name, outlet in project.outlets.items()})
    return Sender(project, store, project.outlets["hook"], owner=owner)


def a_run(store: Store, state: Any = "succeeded", job: str = "scan") -> str:
    run = opening.open_run(store, RunRequest(job=job)).id
    claimed = leases.claim(store, "me", 10.0, run)
    assert claimed is not None
    register.move(store, run, state, token=claimed.token)
    return run


def said(hook: Receiver) -> list[tuple[str, str]]:
    return [(event.data["run"], event.type.rpartition(".")[2]) for event in hook.events]  # type: ignore[call-overload,index]


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_every_move_is_posted_once_in_order(tmp_path: Path, store: Store, hook: Receiver, mode: str) -> None:
    sender = a_sender(a_project(tmp_path, hook.url, f'mode = "{mode}"'), store)
    runs = [a_run(store), a_run(store, "failed")]
    assert sender.send_due() == 4
    assert said(hook) == [
        (runs[0], "started"), (runs[0], "succeeded"), (runs[1], "started"), (runs[1], "failed"),
    ]  # fmt: skip
    assert hook.modes == [mode] * 4
    assert {event.source for event in hook.events} == {f"/hindscan/{tmp_path.name}"}
    assert sender.send_due() == 0
    assert outbox.waiting_count(store, "hook") == 0


@pytest.mark.parametrize("answer", [500, 503, 404, 401, 429, 302, 307])
def test_what_is_not_acknowledged_is_sent_again_with_the_same_id_and_before_what_follows(
    tmp_path: Path, store: Store, hook: Receiver, clock: Clock, answer: int
) -> None:
    sender = a_sender(a_project(tmp_path, hook.url), store)
    a_run(store)
    hook.answers = [answer, answer]
    assert sender.send_due() == 0
    assert sender.send_due() == 0, "it is not due yet"
    assert len(hook.events) == 1
    clock.now += 200_000
    assert sender.send_due() == 0
    clock.now += 400_000
    assert sender.send_due() == 2
    assert [event.type.rpartition(".")[2] for event in hook.events] == ["started"] * 3 + ["succeeded"]
    assert len({event.id for event in hook.events[:3]}) == 1
    assert hook.events[0] == hook.events[2]


def test_a_receiver_that_is_not_there_loses_nothing(tmp_path: Path, store: Store, hook: Receiver, clock: Clock) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        sender = a_sender(a_project(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}/"), store)
        runs = [a_run(store), a_run(store)]
        assert sender.send_due() == 0
        assert outbox.waiting_count(store, "hook") == 4
    clock.now += 60_000_000
    assert a_sender(a_project(tmp_path, hook.url), store).send_due() == 4
    assert [run for run, _ in said(hook)] == [runs[0], runs[0], runs[1], runs[1]]


def test_a_receiver_that_is_gone_for_good_is_not_asked_again_about_that_event(
    tmp_path: Path, store: Store, hook: Receiver
) -> None:
    sender = a_sender(a_project(tmp_path, hook.url), store)
    a_run(store)
    hook.answers = [410]
    assert sender.send_due() == 2
    assert len(hook.events) == 2
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT state, reason FROM outbox ORDER BY seq").all()
    assert rows[0][0] == "refused"
    assert "410" in rows[0][1]
    assert rows[1][0] == "sent"


def test_a_filter_chooses_and_one_that_cannot_decide_keeps_the_event_with_its_reason(
    tmp_path: Path, store: Store, hook: Receiver
) -> None:
    only = 'filter = { all = [ { suffix = { type = ".succeeded" } }, { sql = "INT(subject) < 5" } ] }'
    sender = a_sender(a_project(tmp_path, hook.url, only), store)
    for job in ("1", "scan", "7"):
        a_run(store, job=job)
    while sender.send_due():
        pass
    assert [event.subject for event in hook.events] == ["1"]
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT state, reason FROM outbox ORDER BY seq").all()
    assert [state for state, _ in rows] == ["unmatched", "sent", "unmatched", "refused", "unmatched", "unmatched"]
    assert "CESQL" in rows[3][1] or "INT" in rows[3][1]


def test_a_second_sender_waits_for_the_lease_of_the_first(
    tmp_path: Path, store: Store, hook: Receiver, clock: Clock
) -> None:
    project = a_project(tmp_path, hook.url)
    first, second = a_sender(project, store, "a"), a_sender(project, store, "b")
    a_run(store)
    assert first.send_due() == 2
    a_run(store)
    assert second.send_due() == 0
    assert len(hook.events) == 2
    clock.now += 8_000_000
    assert second.send_due() == 2
    assert first.send_due() == 0
    assert len(hook.events) == 4


def test_a_cluster_that_is_not_declared_is_refused(tmp_path: Path, store: Store) -> None:
    project = a_project(tmp_path, "kafka:prod:run-events")
    with pytest.raises(ConfigError, match=r"\[publish.hook\]: the Kafka cluster of kafka:prod:run-events"):
        a_sender(project, store)


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ("", "to"),
        ('to = "ftp://host/"', "to"),
        ('to = "http://"', "to"),
        ('to = "http://user:word@host/"', "to"),
        ('to = "http://host:nn/"', "to"),
        ('to = "http"', "to"),
        ('to = "kafka:"', "to"),
        ('to = 5', "to"),
        ('to = "kafka:t"\nmode = "batched"', "mode"),
        ('to = "kafka:t"\nsource = "a b"', "source"),
        ('to = "kafka:t"\nfilter = { exact = 5 }', "filter"),
        ('to = "kafka:t"\nfilters = {}', "filters"),
        ('to = "http://h/"\nsecrets = "${A}"', "secrets"),
        ('to = "http://h/"\nsecrets = ["hunter2hunter2hunter2hunter2hunter2"]', "secrets"),
        ('to = "http://h/"\nsecrets = ["${MISSING}"]', "secrets"),
        ('to = "http://h/"\nsecrets = ["${SHORT}"]', "secrets"),
        ('to = "kafka:t"\nsecrets = ["${GOOD}"]', "secrets"),
        ('to = "http://h/"\nmode = "binary"\nsecrets = ["${GOOD}"]', "mode"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_outlet_is_told_when_the_file_is_loaded(tmp_path: Path, written: str, field: str) -> None:
    (tmp_path / "hindscan.toml").write_text(f"[publish.hook]\n{written}\n")
    env = {"SHORT": "aHVudGVyMg==", "GOOD": base64.b64encode(b"g" * 32).decode()}
    with pytest.raises(ConfigError, match=rf"hindscan.toml:\d: publish.hook.{field}") as told:
        load_project(tmp_path, env)
    assert not any(secret in str(told.value) for secret in ("hunter2", *env.values()))


def test_a_password_in_an_address_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text('[publish.hook]\nto = "http://user:hunter2@host/"\n')
    with pytest.raises(ConfigError) as told:
        load_project(tmp_path, {})
    assert "hunter2" not in str(told.value)


def as_standard_webhooks(secret: bytes, headers: dict[str, str], body: bytes) -> str:
    """Sign by the words of the specification, apart from the code under test."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def test_a_webhook_is_signed_by_every_secret_under_the_id_of_its_event(
    tmp_path: Path, store: Store, hook: Receiver, clock: Clock
) -> None:
    old, new = b"o" * 24, b"n" * 32
    (tmp_path / "hindscan.toml").write_text(f'[publish.hook]\nto = "{hook.url}"\nsecrets = ["${{NEW}}", "${{OLD}}"]\n')
    env = {"NEW": "whsec_" + base64.b64encode(new).decode(), "OLD": base64.b64encode(old).decode()}
    project = load_project(tmp_path, env)
    assert not any(secret in f"{project!r} {project.outlets!r}" for secret in (*env.values(), str(new), str(old)))
    sender = a_sender(project, store)
    a_run(store)
    hook.answers = [500]
    assert sender.send_due() == 0
    clock.now += 1_000_000
    assert sender.send_due() == 2
    ids = []
    for (named, body), event in zip(hook.raw, hook.events, strict=True):
        headers = {name.lower(): value for name, value in named}
        ids.append(headers["webhook-id"])
        assert headers["webhook-id"] == event.id
        assert headers["webhook-signature"].split(" ") == [
            as_standard_webhooks(key, headers, body) for key in (new, old)
        ]
        # A hindscan that knows either takes it; one that knows neither does not.
        as_sent = [(name.lower().encode(), value.encode()) for name, value in named]
        for known in ((old,), (new,), (b"x" * 24, new)):
            Webhooks(secrets=known).check(as_sent, body, time.time())
        with pytest.raises(SignatureRefused):
            Webhooks(secrets=(b"x" * 24,)).check(as_sent, body, time.time())
    assert ids[0] == ids[1] != ids[2]


def test_a_receiver_that_fails_for_long_is_asked_seldom_and_gets_all_in_order_afterwards(
    tmp_path: Path, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = a_sender(a_project(tmp_path, "http://127.0.0.1:1/"), store)
    runs = [a_run(store) for _ in range(8)]
    began, asked, got = clock.now, [], []

    def post(event: Any) -> None:
        # The other end of the wire, on the clock of the test.
        asked.append(event)
        if clock.now < began + 1_200_000_000:
            raise OSError("HTTP Error 503")
        got.append((event.id, event.data["run"], event.type.rpartition(".")[2]))

    monkeypatch.setattr(sender, "_post", post)
    while outbox.waiting_count(store, "hook"):
        sender.send_due()
        if clock.now < began + 1_200_000_000 <= clock.now + sender.pause_seconds * 1e6:
            assert 40 < len(asked) < 80
            waiting = outbox.entries(store)
            assert (len(waiting), {one["state"] for one in waiting}) == (16, {"waiting"})
            assert any("503" in one["reason"] for one in waiting)
        clock.now += int(sender.pause_seconds * 1e6)
        assert clock.now < began + 1_600_000_000
    assert len({identity for identity, _, _ in got}) == len(got) == 16
    by_run = {run: [kind for _, about, kind in got if about == run] for run in runs}
    assert set(map(tuple, by_run.values())) == {("started", "succeeded")}


def test_a_receiver_is_left_alone_as_long_as_it_asks_within_reason(
    tmp_path: Path, store: Store, hook: Receiver, clock: Clock
) -> None:
    sender = a_sender(a_project(tmp_path, hook.url), store)
    for asked, waits in (("7", 7), ("99999", 300), ("soon", 0.2), ("-1", 0.2)):
        a_run(store)
        hook.answers, hook.retry_after = [429], asked
        assert sender.send_due() == 0
        (one,) = [row for row in outbox.entries(store) if row["tries"]]
        assert times.from_text(one["next_at"]) == clock.now + waits * 1_000_000
        clock.now += 301_000_000
        assert sender.send_due() == 2


def test_what_was_given_up_is_sent_again_by_hand_and_what_was_sent_goes_after_its_time(
    tmp_path: Path, store: Store, hook: Receiver, clock: Clock
) -> None:
    sender = a_sender(a_project(tmp_path, hook.url), store)
    run = a_run(store)
    hook.answers = [410, 500]
    assert sender.send_due() == 0
    refused, waiting = outbox.entries(store)
    assert (refused["state"], waiting["state"], refused["run"], waiting["tries"]) == ("refused", "waiting", run, 1)
    assert [one["entry"] for one in outbox.entries(store, state="refused", outlet="hook")] == [refused["entry"]]
    assert outbox.entries(store, outlet="other") == []
    with store.read() as connection:
        assert outbox.backlogs(connection) == {"hook": outbox.Backlog(waiting=1, oldest=clock.now, refused=1)}
    assert outbox.send_again(store, outlet="other") == 0
    assert outbox.send_again(store) == 2
    assert sender.send_due() == 2
    assert [event.id for event in hook.events] == [refused["id"], waiting["id"], refused["id"], waiting["id"]]
    clock.now += 1
    assert outbox.send_again(store, entry=waiting["entry"]) == 1
    assert outbox.purge(store, clock.now) == 1
    assert [one["entry"] for one in outbox.entries(store)] == [waiting["entry"]]
    assert sender.send_due() == 1
    assert outbox.purge(store, clock.now) == 0
    assert outbox.send_again(store, entry=99) == 0


def test_the_command_shows_what_is_stuck_and_has_it_sent(
    tmp_path: Path, hook: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    project = a_project(tmp_path, hook.url)
    with open_store(project.store_url, tmp_path) as kept:
        sender = a_sender(project, kept)
        run = a_run(kept)
        hook.answers = [410, 503]
        assert sender.send_due() == 0
        where = ["--project", str(tmp_path)]
        assert run_app(["outbox", "--json", *where]) == 0
        refused, waiting = json.loads(capsys.readouterr().out)["outbox"]
        assert (refused["state"], waiting["state"], waiting["tries"], waiting["run"]) == ("refused", "waiting", 1, run)
        assert "503" in waiting["reason"]
        assert run_app(["outbox", *where]) == 0
        assert "410" in capsys.readouterr().out
        assert run_app(["outbox", "--send", "99", *where]) == 2
        assert run_app(["outbox", "--send", "1", "--send-all", *where]) == 2
        assert run_app(["outbox", "--send-all", *where]) == 0
        assert sender.send_due() == 2
