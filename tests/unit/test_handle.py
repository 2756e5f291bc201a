"""A run in a notebook: what is shown of it fits a cell, and any run is found by its id."""

from __future__ import annotations

from pathlib import Path

import pytest

import hindscan as hs
from hindscan.driver import drive
from hindscan.handle import RunHandle
from hindscan.planning import ask
from hindscan.runs import codes, opening
from hindscan.workshop import open_workshop
from small_project import small_project


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def handle(root: Path) -> RunHandle:
    project = small_project(root)
    with open_workshop(project) as workshop:
        spec, code = workshop.job("total")
        digest = codes.save_code(workshop.store, spec, code)
        request = ask(project, spec, {"category": "<cars>"})
        run = opening.open_run(workshop.store, request, code=digest, requested_by="test").id
        assert drive(workshop, run).state == "succeeded"
    return RunHandle(project, run)


def test_what_a_cell_shows_is_short_and_escaped(handle: RunHandle, root: Path) -> None:
    found = hs.runs(project=root)
    assert repr(found) == f"{handle.id}  total  succeeded"
    for shown in (found._repr_html_(), handle._repr_html_()):
        assert handle.id in shown
        assert "&lt;cars&gt;" in shown
        assert "<cars>" not in shown
    assert repr(handle.plan).startswith("<plan of total: 1 slices, 1 of them reused, 3 rows")
    assert repr(handle.partial()).startswith(f"<what run {handle.id}, which is succeeded, has so far: 1 of 1 slices")


def test_a_run_is_found_by_its_id_whatever_was_listed(handle: RunHandle, root: Path) -> None:
    none = hs.runs(state="failed", project=root)
    assert len(none) == 0
    assert none[handle.id].state == "succeeded"
    with pytest.raises(hs.errors.NotFound, match="no run 'nope'"):
        none["nope"]


def test_a_result_can_be_asked_in_sql(handle: RunHandle) -> None:
    assert handle.result.sql("SELECT total IS NULL AS none, $more AS more FROM result", more=1).to_pylist() == [
        {"none": True, "more": 1}
    ]
