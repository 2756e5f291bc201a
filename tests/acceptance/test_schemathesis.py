"""The API against its own OpenAPI document: schemathesis makes requests, good and bad, and judges the answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import cast

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS, load_all_checks

from acceptance.command import CHECKOUT
from acceptance.serving import SECONDS, closed, finished, http_only, post, serve
from hindscan.web.api import build_api
from hindscan.web.desk import Desk

load_all_checks()
#: A submission can be valid JSON and still be wrong: which parameters a job has, the document of the API does not say.
CHOSEN = [check for check in CHECKS.get_all() if check.__name__ != "positive_data_acceptance"]


#: As the server gives it at /openapi.json; building it asks no desk.
schema = schemathesis.openapi.from_dict(build_api(cast(Desk, None), "0").openapi())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A real server with one finished run: its address, and the run's id."""
    project = tmp_path_factory.mktemp("schemathesis")
    for name in ("data", "jobs"):
        shutil.copytree(CHECKOUT / name, project / name)
    shutil.copy(CHECKOUT / "hindscan.toml", project)
    with serve(http_only(project)) as server, server.client() as client:
        assert client.get("/openapi.json").json()["paths"] == schema.raw_schema["paths"]
        (run,) = post(client, closed()).json()["runs"]
        finished(client, run)
        yield server.address, run
        assert "Traceback" not in server.log()


@schema.parametrize()
@settings(
    max_examples=12,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_the_document_of_the_api_has_it(case: schemathesis.Case, server: tuple[str, str]) -> None:
    address, run = server
    # Names are drawn at random, so that hardly one would ever be found: every other is one that there is.
    if "run" in case.path_parameters and len(str(case.path_parameters["run"])) % 2:
        case.path_parameters["run"] = run
    response = case.call(base_url=address, timeout=SECONDS)
    case.validate_response(response, checks=CHOSEN)
