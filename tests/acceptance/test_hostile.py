"""Whatever is sent, the dispatcher answers with a reason, stays up, and starts nothing that was not asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from acceptance.command import CHECKOUT
from acceptance.hostile import CASES, Case, answer_to, event, structured
from acceptance.serving import Server, http_only, serve


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    project = tmp_path_factory.mktemp("hostile")
    for name in ("data", "jobs"):
        shutil.copytree(CHECKOUT / name, project / name)
    shutil.copy(CHECKOUT / "hindscan.toml", project)
    with serve(http_only(project)) as server:
        yield server


@pytest.fixture(scope="module")
def port(server: Server) -> int:
    found = urlsplit(server.address).port
    assert found is not None
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_request_is_refused_with_its_reason(port: int, case: Case) -> None:
    status, headers, body = answer_to(port, case.raw)
    assert (status, headers["content-type"]) == (case.status, "application/problem+json"), body
    problem = json.loads(body)
    assert problem["status"] == status
    assert problem["detail"]
    for word in case.words:
        assert word in body.decode()


def test_nothing_of_all_that_has_started_a_run_or_is_stored(server: Server, port: int) -> None:
    for case in CASES[:: len(CASES) // 20]:
        answer_to(port, case.raw)
    with server.client() as client:
        assert client.get("/runs").json() == {"runs": []}
        assert client.get("/events").json() == {"events": []}
    status, _, body = answer_to(port, structured(json.dumps(event(id="good"))))
    assert (status, len(json.loads(body)["runs"])) == (202, 1)
    assert "Traceback" not in server.log()
