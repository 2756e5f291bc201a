"""What runs say of themselves reaches a webhook at least once, under one id, in the order of each run; nothing is given up in silence."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hindscan.config import Project, load_project
from hindscan.errors import ConfigError
from hindscan.outgoing import Sender
from hindscan.runs import leases, opening, outbox, register
from hindscan.runs.run import RunRequest
from hindscan.runs.store import Store, open_store
from receiver import Receiver, receiver


class Clock:
    now = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with open_store("sqlite:///s.db", tmp_path, clock) as opened:
        yield opened


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
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_outlet_is_told_when_the_file_is_loaded(tmp_path: Path, written: str, field: str) -> None:
    (tmp_path / "hindscan.toml").write_text(f"[publish.hook]\n{written}\n")
    with pytest.raises(ConfigError, match=rf"hindscan.toml:\d: publish.hook.{field}"):
        load_project(tmp_path, {})


def test_a_password_in_an_address_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text('[publish.hook]\nto = "http://user:hunter2@host/"\n')
    with pytest.raises(ConfigError) as told:
        load_project(tmp_path, {})
    assert "hunter2" not in str(told.value)
