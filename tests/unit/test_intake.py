"""The intake: what triggers that listen there make of what was received, recorded before anybody is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hindscan import times
from hindscan.config import Project
from hindscan.config_file import load_project
from hindscan.errors import NotFound
from hindscan.events.event import event_from_json
from hindscan.events.received import Received, received_from_kafka, received_over_http
from hindscan.intake import Intake
from hindscan.jobs.job import Parameter
from hindscan.runs.inbox import list_events
from hindscan.runs.register import get_run, list_runs
from hindscan.runs.store import Store, open_store
from scan_job import CATEGORY, DECLARED, scan_spec

TRIGGERS = """
[triggers.scan]
on = ["http", "kafka:closings"]
filter = { exact = { type = "closed" } }
job = "scan"
parameters = { category = "data.category", year = { path = "data.year", default = 2018 } }
lateness = "1m"
[triggers.all]
on = "kafka:closings"
job = "scan"
as_of = "none"
parameters = { category = { value = "all" } }
"""
SPEC = scan_spec(CATEGORY, Parameter(name="year", type="int(ge=2000)", required=False, default=2018))
T = "2019-05-06T07:08:09Z"


def event(id: str = "1", type: str = "closed", **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": id,
        "source": "/s",
        "type": type,
        "time": T,
        "data": {"category": "cars", **data},
    }


def over_http(document: dict[str, Any]) -> Received:
    return received_over_http(event_from_json(document))


def over_kafka(offset: int, value: bytes | None) -> Received:
    (one,) = received_from_kafka(
        value, [("content-type", b"application/cloudevents+json")], key=None, cluster="default", topic="closings",
        topic_id="id-1", partition=0, offset=offset, record_time=5_000_000,
    )  # fmt: skip
    return one


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "hindscan.toml").write_text(DECLARED + TRIGGERS)
    return load_project(tmp_path, {})


@pytest.fixture
def store(project: Project) -> Any:
    with open_store(project.store_url, project.root) as opened:
        yield opened


def test_a_match_opens_a_run_as_of_the_event_and_waits_for_what_is_late(project: Project, store: Store) -> None:
    (one,) = Intake(project, store, {"scan": SPEC}).take([over_http(event(year=2019))])
    run = get_run(store, one.opened["scan"])
    assert run.request.parameters == {"category": "cars", "year": 2019}
    assert run.request.as_of == times.from_text(T)
    assert (run.code, run.trigger, run.event_id) == ("c0de", "scan", "1")
    assert run.request.position is None
    # "all" listens to the topic only.
    assert set(one.opened) == {"scan"}


def test_a_record_is_decided_by_every_trigger_of_its_topic_and_keeps_its_place(project: Project, store: Store) -> None:
    import json

    intake = Intake(project, store, {"scan": SPEC})
    (one,) = intake.take([over_kafka(7, json.dumps(event()).encode())])
    assert set(one.opened) == {"scan", "all"}
    as_of_event, as_it_is = (get_run(store, one.opened[name]).request for name in ("scan", "all"))
    assert as_of_event.position == {
        "cluster": "default",
        "topic": "closings",
        "topic_id": "id-1",
        "partition": 0,
        "offset": 7,
    }
    assert (as_it_is.as_of, as_it_is.position, as_it_is.parameters["category"]) == (None, None, "all")
    (again,) = intake.take([over_kafka(7, json.dumps(event()).encode())])
    assert (again.opened, again.existing) == ({}, one.opened)


def test_a_trigger_has_no_say_about_what_lies_before_its_start(project: Project, store: Store) -> None:
    import json

    starts = {("scan", "id-1", 0): 8, ("all", "id-1", 0): 0}
    (one,) = Intake(project, store, {"scan": SPEC}).take([over_kafka(7, json.dumps(event()).encode())], starts)
    assert set(one.opened) == {"all"}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (event(category=None), "category"),
        (event(category=5), "category"),
        (event(year=1999), "year"),
        (event(year="2018"), "year"),
    ],
)
def test_what_does_not_fit_the_job_is_quarantined_and_starts_nothing(
    project: Project, store: Store, document: dict[str, Any], said: str
) -> None:
    (one,) = Intake(project, store, {"scan": SPEC}).take([over_http(document)])
    assert one.opened == {}
    assert said in one.quarantined["scan"]
    assert list_runs(store) == []
    (shown,) = list_events(store, quarantined=True)
    assert shown["decisions"][0]["outcome"] == "quarantined"


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff", b'{"specversion": "1.0"}', b"[1]"])
def test_what_is_no_event_is_kept_with_its_reason_and_its_place(
    project: Project, store: Store, value: bytes | None
) -> None:
    (one,) = Intake(project, store, {"scan": SPEC}).take([over_kafka(3, value)])
    assert one.opened == {}
    assert one.quarantined
    (shown,) = list_events(store, quarantined=True)
    assert (shown["outcome"], shown["position"]) == ("quarantined", "closings[0]@3")
    assert shown["reason"]


def test_what_matches_nothing_is_recorded_with_the_reason(project: Project, store: Store) -> None:
    Intake(project, store, {"scan": SPEC}).take([over_http(event(type="opened"))])
    (shown,) = list_events(store)
    assert [(d["trigger"], d["outcome"]) for d in shown["decisions"]] == [("scan", "unmatched")]
    assert "opened" in shown["decisions"][0]["reason"]


def test_a_trigger_of_an_unknown_job_is_refused(project: Project, store: Store) -> None:
    with pytest.raises(NotFound, match="scan"):
        Intake(project, store, {})


def test_an_event_of_too_long_a_chain_opens_no_run_and_only_what_would_match_is_quarantined(
    project: Project, store: Store
) -> None:
    intake = Intake(project, store, {"scan": SPEC})
    deep, other = event("1") | {"chaindepth": 8}, event("2", type="opened") | {"chaindepth": 8}
    one, two, three = intake.take([over_http(deep), over_http(other), over_http(event("3") | {"chaindepth": 7})])
    assert "one chain may have 8 runs" in one.quarantined["scan"]
    assert (one.opened, two.opened, two.quarantined) == ({}, {}, {})
    assert set(three.opened) == {"scan"}
