"""Replays and audits over a real topic: what the log holds is what is compared, and where the past ends the present begins."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from confluent_kafka import Producer

from clock import until
from hindscan.auditing import Audit, Audited
from hindscan.errors import Conflict, UsageError
from hindscan.listening import listeners
from hindscan.redriving import redrive
from hindscan.replaying import Replay, open_intake
from hindscan.runs import register
from hindscan.workshop import Workshop, open_workshop
from small_project import closing, small_project

if TYPE_CHECKING:
    from conftest import MakeTopic
    from hindscan.testing import KafkaCluster

pytestmark = pytest.mark.kafka

#: Milliseconds of the first record.
BEGAN = 1_600_000_000_000
HEADERS: list[Any] = [("content-type", b"application/cloudevents+json")]


class Topic:
    """A topic of two partitions that `scan` listens to; the n-th record has a time n seconds after the first."""

    def __init__(self, name: str, servers: str) -> None:
        self.name, self._producer, self._count = name, Producer({"bootstrap.servers": servers}), 0

    def send(self, *values: dict[str, Any] | bytes, seconds: int | None = None) -> None:
        for value in values:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            at = BEGAN + 1000 * (self._count if seconds is None else seconds)
            self._producer.produce(self.name, body, partition=self._count % 2, headers=HEADERS, timestamp=at)
            self._count += 1
        assert self._producer.flush(30) == 0


@pytest.fixture
def log(topic: MakeTopic, kafka_cluster: KafkaCluster) -> Topic:
    return Topic(topic("closings", partitions=2), kafka_cluster.bootstrap)


@pytest.fixture
def workshop(tmp_path: Path, log: Topic, kafka_cluster: KafkaCluster) -> Iterator[Workshop]:
    more = f'[kafka.default]\n"bootstrap.servers" = "{kafka_cluster.bootstrap}"\n[serve]\ngroup = "{log.name}"\n'
    with open_workshop(small_project(tmp_path, on=f'"kafka:{log.name}"', more=more)) as opened:
        yield opened


def listen(workshop: Workshop, decided: int) -> None:
    """Listen as `serve` does, until the trigger has decided about so many events."""
    (listener,) = listeners(workshop.project, workshop.store, open_intake(workshop).take)
    with listener:
        until(lambda: len(decisions(workshop)) >= decided or listener.error, f"{decided} decisions")
    assert listener.error is None


def decisions(workshop: Workshop, trigger: str = "scan") -> list[str]:
    return [row[0] for row in rows(workshop, f"SELECT id FROM decisions WHERE trigger = '{trigger}'")]


def rows(workshop: Workshop, statement: str) -> list[Any]:
    with workshop.store.read() as connection:
        return list(connection.execute(sa.text(statement)))


def execute(workshop: Workshop, *statements: str) -> None:
    with workshop.store.write() as connection:
        for statement in statements:
            assert connection.execute(sa.text(statement)).rowcount == 1, statement


def audited(workshop: Workshop, *, repair: bool = False, since: int | None = None, until: int | None = None) -> Audited:
    return Audit(workshop, "scan", since=since, until=until, repair=repair).run()


def test_an_audit_of_the_log_finds_exactly_what_is_missing_and_repairs_it(workshop: Workshop, log: Topic) -> None:
    log.send(*(closing(str(number)) for number in range(8)), b"no event", closing("x", type="opened"), closing("3"))
    listen(workshop, 9)
    sound = audited(workshop)
    assert (sound.findings, sound.records, sound.events, sound.waiting, sound.gone) == ([], 11, 9, 0, 0)
    log.send(closing("not yet"))
    execute(
        workshop,
        "DELETE FROM runs WHERE event_id = '2'", "DELETE FROM decisions WHERE id = '2'", "DELETE FROM events WHERE id = '2'",
        "DELETE FROM runs WHERE event_id = '5'", "DELETE FROM decisions WHERE id = '5'",
        "DELETE FROM runs WHERE event_id = '7'",
        "DELETE FROM decisions WHERE id = 'x'",
        "DELETE FROM quarantine",
    )  # fmt: skip
    places = {number: f"{log.name}[{number % 2}]@{number // 2}" for number in range(12)}
    expected = {
        ("no event", "2", places[2]), ("no decision", "5", places[5]), ("no run", "7", places[7]), ("no decision", "x", places[9]),
        ("not in quarantine", None, places[8]),
    }  # fmt: skip
    found = audited(workshop)
    assert {(f.kind, f.id, f.position) for f in found.findings} == expected
    assert (len(found.findings), found.sound, found.waiting) == (5, False, 1)
    before = rows(workshop, "SELECT topic, partition, next_offset FROM positions ORDER BY partition")
    repaired = audited(workshop, repair=True)
    assert ({(f.kind, f.id, f.position) for f in repaired.findings}, repaired.sound) == (expected, True)
    assert audited(workshop).findings == []
    assert rows(workshop, "SELECT topic, partition, next_offset FROM positions ORDER BY partition") == before
    runs = register.list_runs(workshop.store)
    assert Counter(run.event_id for run in runs) == Counter(str(number) for number in range(8))
    # As if on time: with the place of its record, which cuts the triggering partition.
    again = next(run for run in runs if run.event_id == "2")
    assert again.request.position == next(run for run in runs if run.event_id == "4").request.position | {"offset": 1}  # type: ignore[operator]
    assert (again.trigger, again.parent) == ("scan", None)
    listen(workshop, 10)
    assert len(decisions(workshop)) == 10


def test_an_audit_takes_records_by_their_time_wherever_they_stand(workshop: Workshop, log: Topic) -> None:
    for number, seconds in enumerate([50, 10, 30, 20, 40, 60]):
        log.send(closing(str(number)), seconds=seconds)
    listen(workshop, 6)
    execute(workshop, *(f"DELETE FROM decisions WHERE id = '{number}'" for number in range(6)))
    micros = BEGAN * 1000
    found = audited(workshop, since=micros + 20_000_000, until=micros + 50_000_000)
    assert sorted(f.id or "" for f in found.findings) == ["2", "3", "4"]


def test_what_a_trigger_has_not_reached_yet_is_waited_for_and_not_submitted(workshop: Workshop, log: Topic) -> None:
    log.send(*(closing(str(number)) for number in range(4)))
    listen(workshop, 4)
    text = workshop.project.file.read_text()
    late = f'[triggers.late]\non = "kafka:{log.name}"\njob = "total"\nparameters = {{ category = "data.category" }}\n'
    workshop.project.file.write_text(text + late)
    from hindscan.config_file import load_project

    with open_workshop(load_project(workshop.project.root, {})) as both:
        done = Audit(both, "late", since=None, until=None, repair=True).run()
        assert (done.findings, done.waiting) == ([], 4)
        assert decisions(both, "late") == []


def test_a_new_trigger_is_replayed_from_the_log_and_begins_exactly_where_that_ended(
    workshop: Workshop, log: Topic
) -> None:
    log.send(*(closing(str(number)) for number in range(20)))
    dry = Replay(workshop, "scan", since=None, until=None, name="first").run(dry_run=True)
    assert (dry.events, dry.matched, dry.opened, len(dry.plans), decisions(workshop)) == (20, 20, 0, 3, [])
    assert {plan["slices"] for plan in dry.plans} == {1}
    with pytest.raises(UsageError, match="leave --until out"):
        Replay(workshop, "scan", since=None, until=BEGAN * 2000, name="first").run(activate=True)
    done = Replay(workshop, "scan", since=None, until=None, name="first").run(activate=True)
    assert done.activated == {f"{log.name}[0]": 10, f"{log.name}[1]": 10}
    assert (done.opened, sorted(decisions(workshop, "scan@first"), key=int)) == (20, [str(n) for n in range(20)])
    assert Replay(workshop, "scan", since=None, until=BEGAN * 1000 + 20_000_000, name="first").run().opened == 0
    assert {row[0] for row in rows(workshop, "SELECT trigger FROM positions")} == {"scan"}
    log.send(*(closing(str(number)) for number in range(20, 25)))
    listen(workshop, 5)
    assert sorted(decisions(workshop)) == [str(number) for number in range(20, 25)]
    assert Counter(run.event_id for run in register.list_runs(workshop.store)) == Counter(str(n) for n in range(25))
    assert audited(workshop).findings == []
    with pytest.raises(Conflict, match="it has begun already"):
        Replay(workshop, "scan", since=None, until=None).run(dry_run=True, activate=True)


def test_a_replay_from_the_topic_sees_what_the_ledger_never_had(workshop: Workshop, log: Topic) -> None:
    log.send(closing("early"))
    text = workshop.project.file.read_text()
    workshop.project.file.write_text(text.replace('start = "earliest"', 'start = "now"'))
    from hindscan.config_file import load_project

    with open_workshop(load_project(workshop.project.root, {})) as late:
        (listener,) = listeners(late.project, late.store, open_intake(late).take)
        log.send(closing("live"), b"no event")
        with listener:
            until(lambda: decisions(late), "the live event")
        ledger = Replay(late, "scan", since=None, until=None, name="ledger").run()
        assert (ledger.events, decisions(late, "scan@ledger")) == (1, ["live"])
        topic = Replay(late, "scan", since=None, until=None, name="topic", from_topic=True).run()
        assert (topic.events, topic.unreadable, topic.linked) == (2, 1, 1)
        assert sorted(decisions(late, "scan@topic")) == ["early", "live"]
        # What lies before the trigger's start is none of its own.
        assert audited(late).findings == []


@pytest.fixture
def plain(tmp_path: Path, log: Topic, kafka_cluster: KafkaCluster) -> Iterator[Callable[..., Workshop]]:
    """Open a project whose trigger wraps records that are no CloudEvents, with this mapping."""
    opened: list[Workshop] = []

    def open_with(event: str) -> Workshop:
        more = f'[kafka.default]\n"bootstrap.servers" = "{kafka_cluster.bootstrap}"\n[serve]\ngroup = "{log.name}"\n'
        project = small_project(
            tmp_path, on=f'"kafka:{log.name}"\nevent = {{ type = "\'closed\'", {event} }}', more=more
        )
        opened.append(open_workshop(project))
        return opened[-1]

    yield open_with
    for workshop in opened:
        workshop.close()


def test_wrapped_records_are_audited_redriven_and_replayed_by_the_mapping_as_it_is_now(
    plain: Callable[..., Workshop], log: Topic
) -> None:
    log.send(
        *(b'{"n": %d, "category": "cars", "at": "2018-01-08"}' % number for number in range(6)),
        b'{"n": 6, "category": "cars"}',
        b"{",
    )
    first = plain('time = "at"')
    listen(first, 6)
    sound = audited(first)
    assert (sound.findings, sound.records, sound.events) == ([], 8, 6)
    ids = dict(rows(first, 'SELECT id, "offset" FROM events WHERE partition = 0'))
    lost = next(identity for identity, offset in ids.items() if offset == 1)
    execute(
        first, f"DELETE FROM runs WHERE event_id = '{lost}'", f"DELETE FROM decisions WHERE id = '{lost}'",
        f"DELETE FROM events WHERE id = '{lost}'",
    )  # fmt: skip
    assert [(f.kind, f.id) for f in audited(first, repair=True).findings] == [("no event", lost)]
    # The record without a time can be read by a mended mapping: an audit leaves it held, a redrive takes it at its own place.
    mended = plain('subject = "category"')
    assert audited(mended, repair=True).findings == []
    redriven = redrive(mended.project, mended.store, open_intake(mended), None)
    assert sorted(one.outcome for one in redriven) == ["matched", "quarantined"]
    (taken,) = [one for one in redriven if one.outcome == "matched"]
    run = register.get_run(mended.store, str(taken.run))
    assert (run.request.position or {})["offset"] == 3
    assert run.request.as_of == (BEGAN + 6000) * 1000
    assert len(decisions(mended)) == 7
    # Under a mapping that names an id every record has another identity: none is submitted a second time.
    renamed = plain('id = "n"')
    found = audited(renamed, repair=True)
    assert {(f.kind, f.repaired) for f in found.findings} == {("other identity", False)}
    assert len(found.findings) == 7
    assert len(decisions(renamed)) == 7
    # A replay is asked for by name, and takes them as they are read now.
    again = Replay(renamed, "scan", since=None, until=None, name="again", from_topic=True).run()
    assert (again.events, again.unreadable, again.opened, again.linked) == (7, 1, 7, 0)
    assert Replay(renamed, "scan", since=None, until=None, name="ledger").run().linked == 7


def test_a_notification_about_several_objects_is_audited_object_by_object(
    tmp_path: Path, log: Topic, kafka_cluster: KafkaCluster
) -> None:
    more = f'[kafka.default]\n"bootstrap.servers" = "{kafka_cluster.bootstrap}"\n[serve]\ngroup = "{log.name}"\n'
    on = f'"kafka:{log.name}"\nformat = "s3"'
    project = small_project(tmp_path, on=on, more=more)
    text = project.file.read_text().replace('type = "closed"', 'type = "com.amazonaws.s3.ObjectCreated:Put"')
    project.file.write_text(text.replace('"data.category"', '{ value = "cars" }'))
    from hindscan.config_file import load_project

    records = [
        {
            "eventSource": "aws:s3", "awsRegion": "eu", "eventTime": "2018-01-08T00:00:00Z", "eventName": "ObjectCreated:Put",
            "responseElements": {"x-amz-request-id": f"r{n}", "x-amz-id-2": "h"},
            "s3": {"bucket": {"name": "lake"}, "object": {"key": f"{n}.parquet"}},
        }
        for n in range(3)
    ]  # fmt: skip
    envelope = {"Type": "Notification", "TopicArn": "arn:aws:sns:eu:1:t", "Message": json.dumps({"Records": records})}
    log.send(envelope)
    with open_workshop(load_project(tmp_path, {})) as workshop:
        listen(workshop, 3)
        assert audited(workshop).findings == []
        execute(
            workshop, "DELETE FROM runs WHERE event_id = 'r1.h'", "DELETE FROM decisions WHERE id = 'r1.h'",
            "DELETE FROM events WHERE id = 'r1.h'",
        )  # fmt: skip
        assert [(f.kind, f.id) for f in audited(workshop, repair=True).findings] == [("no event", "r1.h")]
        assert audited(workshop).findings == []
        assert sorted(decisions(workshop)) == ["r0.h", "r1.h", "r2.h"]
