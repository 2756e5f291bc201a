"""A subject that is forgotten is nowhere any more, whoever shared its partials is none the worse, and `kill -9` on the way is completed by repeating it."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hindscan import forgetting, rerunning
from hindscan.config import Project
from hindscan.config_file import load_project
from hindscan.driver import drive
from hindscan.errors import Conflict, Gone, NotFound
from hindscan.events.event import event_from_json
from hindscan.events.received import received_from_kafka, received_over_http
from hindscan.intake import Intake
from hindscan.redriving import redrive
from hindscan.replaying import Replay
from hindscan.runs import codes, inbox, leases, outbox, register
from hindscan.runs.partials import Partials
from hindscan.runs.results import latest, list_results, read_manifest
from hindscan.runs.run import Run
from hindscan.runs.slices import slice_keys_of
from hindscan.runs.store import Store, open_store
from hindscan.workshop import open_workshop

PROJECT = """
[kafka.default]
"bootstrap.servers" = "127.0.0.1:1"
[history.marks]
parquet = "marks"
slice_rows = 2
[triggers.greet]
on = ["http", "kafka:greetings"]
as_of = "none"
job = "greet"
parameters = { who = "data.who" }
[compute]
workers = 1
[copies]
greet = "copies"
[publish.hook]
to = "http://127.0.0.1:1/"
"""
JOB = '''import hindscan as hs
import pyarrow as pa


@hs.job(history="marks")
def greet(marks):
    """How often each is greeted."""
    return marks.sql("SELECT count(*) AS n FROM marks")


@greet.combine
def added(partials):
    return partials.sql("SELECT sum(n)::BIGINT AS n FROM partials")


@greet.finish
def greeting(combined, who: str):
    return combined.sql("SELECT $who AS who, n FROM combined", who=who)
'''
#: In all that is the subject's, and in nothing else.
CANARY = "canary"
SUBJECT = "canary-subject"
POINTS = re.findall(r'faults\.point\("([a-z_.]+)"\)', Path(forgetting.__file__).read_text())


def event(who: str, number: int = 1) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": f"{who}-id-{number}", "source": f"/{who}-source", "type": "greeting", "subject": f"{who}-subject",
        f"{who}ext".replace("-", ""): who, "datacontenttype": "application/json", "data": {"who": who, "n": number},
    }  # fmt: skip


def over_http(document: dict[str, Any]) -> Any:
    return received_over_http(event_from_json(document))


def unreadable(offset: int, value: bytes, headers: list[tuple[str, bytes | None]]) -> Any:
    at = {"cluster": "default", "topic": "greetings", "topic_id": "i", "partition": 0, "offset": offset}
    (one,) = received_from_kafka(value, headers, key=b"canary-key" if b"canary" in value else b"k", record_time=1, **at)
    return one


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which two subjects have results that share the partials of slices, and one has records in quarantine."""
    root = tmp_path_factory.mktemp("forget")
    (root / "hindscan.toml").write_text(PROJECT)
    (root / "marks").mkdir()
    (root / "jobs").mkdir()
    (root / "jobs" / "greet.py").write_text(JOB)
    pq.write_table(pa.table({"i": range(8)}), root / "marks" / "m.parquet", row_group_size=2)
    project = load_project(root, {})
    with open_workshop(project) as workshop:
        spec, code = workshop.job("greet")
        codes.save_code(workshop.store, spec, code)
        intake = Intake(project, workshop.store, {"greet": spec})
        outbox.declare(workshop.store, {"hook": "/hindscan"})
        for who in (CANARY, "other"):
            (recorded,) = intake.take([over_http(event(who))])
            done = drive(workshop, recorded.opened["greet"])
            assert done.state == "succeeded", done.message
        again = rerunning.rerun(project, workshop.store, of(workshop.store, CANARY).id, requested_by="test")
        drive(workshop, again.id)
        intake.take([over_http({**event(CANARY, 2), "data": {"who": ["canary"]}})])
        intake.take([over_http({**event(CANARY), "data": {"who": "canary-another"}})])
        intake.take([over_http(event(CANARY, 3))])
        intake.take([
            unreadable(1, b'{"specversion": "1.0", "subject": "canary-subject", "x": "canary"}', [("content-type", b"application/cloudevents+json")]),
            unreadable(2, b"canary", [("ce_specversion", b"1.0"), ("ce_subject", b"canary-subject")]),
            unreadable(3, b'{"subject": "canary-subject", canary', [("content-type", b"application/cloudevents+json")]),
            unreadable(4, b'{"subject": "somebody else"}', [("content-type", b"application/cloudevents+json")]),
        ])  # fmt: skip
        replayed = Replay(workshop, "greet", since=None, until=None, name="again").run()
        assert replayed.opened == 3
        drive(workshop, replayed.runs[0])
        # A copy that another life has begun.
        (root / "copies" / ".attempts" / f"{replayed.runs[0]}-0").mkdir(parents=True)
        (root / "copies" / ".attempts" / f"{replayed.runs[0]}-0" / "result.parquet").write_bytes(b"canary")
        # The other subject's run waits for nobody.
        register.request_cancel(workshop.store, replayed.runs[1])
    (root / ".hindscan" / "drivers").mkdir()
    (root / ".hindscan" / "drivers" / f"{again.id}.log").write_text("canary")
    return root


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Project:
    shutil.copytree(built, tmp_path / "p")
    return load_project(tmp_path / "p", {})


@pytest.fixture
def store(project: Project) -> Iterator[Store]:
    with open_store(project.store_url, project.root) as opened:
        yield opened


def of(store: Store, who: str) -> Run:
    found = register.list_runs(store, event=(f"/{who}-source", f"{who}-id-1"))
    return next(run for run in found if run.trigger == "greet")


def places(root: Path) -> list[str]:
    """Tell where the canary still sings: in the store, in files and in their names."""
    return [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.name != "hindscan.toml"
        and path.is_file()
        and (CANARY in path.name or CANARY.encode() in path.read_bytes())
    ]


def made(project: Project, run: Run) -> set[str]:
    return set(Partials(project.artefacts).exists(slice_keys_of(project.root / str(run.result))[0]))


def finished(root: Path) -> dict[str, Any]:
    return {
        path.parent.name: pq.read_table(path).to_pylist() for path in root.glob(".hindscan/results/*/*/result.parquet")
    }


def test_nothing_is_left_of_a_subject_but_digests_and_redacted_manifests(project: Project, store: Store) -> None:
    canary, other = of(store, CANARY), of(store, "other")
    assert len(places(project.root)) >= 10, "the test would see it"
    with store.read() as connection:
        said = connection.exec_driver_sql("SELECT count(*) FROM outbox WHERE event LIKE '%canary%'").scalar()
    assert said
    before = sorted(path for path in project.root.rglob("partials/*/*"))
    dry = forgetting.forget(project, store, SUBJECT, dry_run=True)
    assert sorted(path for path in project.root.rglob("partials/*/*")) == before
    assert (len(dry.runs), dry.events, dry.quarantined, dry.results, dry.copies) == (5, 3, 4, 3, 3)
    assert (dry.histories, dry.left, dry.partials) == (("marks",), (), len(before) - 1)
    done = forgetting.forget(project, store, SUBJECT)
    assert (done.runs, done.partials) == (dry.runs, dry.partials)
    assert [path.name for path in (project.root / "copies").iterdir() if path.name != ".attempts"] == [other.id]
    store.close()
    assert places(project.root) == []
    # All that is left is what the other subject's result was finished from, which nobody shares.
    assert len(list(project.root.rglob("partials/*/*"))) == 1
    (kept,) = [folder for folder in list_results(project.artefacts) if folder.name == canary.id]
    manifest = read_manifest(kept)
    assert (manifest.forgotten, manifest.run, manifest.parameters, manifest.event) == (True, canary.id, {}, {})
    assert [path.name for path in kept.iterdir()] == ["manifest.json"]
    assert finished(project.root) == {other.id: [{"who": "other", "n": 8}]}
    assert latest(project.artefacts, "greet") == project.root / str(other.result)
    with pytest.raises(NotFound, match="none has"):
        forgetting.forget(project, store, SUBJECT)


def test_a_forgotten_event_that_comes_again_opens_nothing_and_is_not_kept(project: Project, store: Store) -> None:
    canary = of(store, CANARY)
    forgetting.forget(project, store, SUBJECT)
    with open_workshop(project) as workshop:
        intake = Intake(project, store, {"greet": workshop.job("greet")[0]})
    for _ in range(2):
        first, held, fresh = intake.take([over_http(event(CANARY, number)) for number in (1, 2, 9)])
        assert (first.opened, first.existing, first.conflict) == ({}, {"greet": canary.id}, False)
        assert (held.opened, held.existing) == ({}, {})
    assert "greet" in fresh.existing, "what was never seen is no forgotten event"
    assert len([one for one in inbox.list_events(store) if one["gone"] == "forgotten"]) == 7
    forgetting.forget(project, store, SUBJECT)
    store.close()
    assert places(project.root) == []


def test_what_is_forgotten_is_refused_by_name(project: Project, store: Store) -> None:
    canary = of(store, CANARY)
    done = forgetting.forget(project, store, SUBJECT)
    waiting = [run for run in done.runs if register.get_run(store, run).state == "cancelled"]
    assert len(waiting) == 2
    for run in waiting:
        with pytest.raises(Gone, match="deleted on request"):
            register.retry(store, run)
    with open_workshop(project) as workshop:
        again = Replay(workshop, "greet", since=None, until=None, name="later").run()
        assert (again.events, again.gone) == (1, 3)
    with pytest.raises(Gone, match="deleted on request"):
        rerunning.rerun(project, store, canary.id, requested_by="test")
    with pytest.raises(Gone, match="deleted on request"):
        register.refuse_forgotten(register.get_run(store, canary.id), "Looking up the result of")
    (held,) = [one for one in inbox.list_events(store, quarantined=True) if one["decisions"]]
    with pytest.raises(Gone, match="forgotten"):
        redrive(project, store, Intake(project, store, {"greet": specs(project)}), held["event"])
    assert register.get_run(store, canary.id).request.parameters == {}


def specs(project: Project) -> Any:
    with open_workshop(project) as workshop:
        return workshop.job("greet")[0]


def test_whoever_shared_partials_computes_them_again_with_the_same_content(project: Project, store: Store) -> None:
    other = of(store, "other")
    shared = made(project, other)
    assert len(shared) == 4
    forgetting.forget(project, store, SUBJECT)
    assert made(project, other) == set()
    with open_workshop(project) as workshop:
        again = drive(workshop, rerunning.rerun(project, workshop.store, other.id, requested_by="test").id)
    assert made(project, again) == shared
    digests = [read_manifest(project.root / str(run.result)).result.digest for run in (other, again)]
    assert digests[0] == digests[1]


def test_nothing_is_deleted_while_one_of_the_runs_is_running(project: Project, store: Store) -> None:
    claimed = leases.claim(store, "me", 60)
    assert claimed is not None
    before = places(project.root)
    with pytest.raises(Conflict, match=f"{claimed.run.id} is"):
        forgetting.forget(project, store, SUBJECT)
    assert {path for path in places(project.root) if "partials" in path or "results" in path} == {
        path for path in before if "partials" in path or "results" in path
    }


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_on_the_way_is_completed_by_repeating_it(project: Project, point: str) -> None:
    child = os.fork()
    if not child:
        try:
            forgetting.faults.point = lambda name: name == point and os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
            with open_store(project.store_url, project.root) as opened:
                forgetting.forget(project, opened, SUBJECT)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with open_store(project.store_url, project.root) as store:
        assert [run.state for run in register.list_runs(store) if run.state == "pending"] == []
        if point == "forgetting.redacted":
            with pytest.raises(NotFound):
                forgetting.forget(project, store, SUBJECT)
        else:
            forgetting.forget(project, store, SUBJECT)
    assert places(project.root) == []
    assert len(list(project.root.rglob("partials/*/*"))) == 1
    assert [row[0]["who"] for row in finished(project.root).values()] == ["other"]
