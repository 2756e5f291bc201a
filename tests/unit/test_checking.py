"""`hindscan check`: finds a combine that depends on how history is cut, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.checking import _groups, check_job, compare
from hindscan.config_file import load_project
from hindscan.planning import ask
from hindscan.template import write_project
from hindscan.workshop import open_workshop

if TYPE_CHECKING:
    from hindscan.checking import Checked

JOB = """
import hindscan as hs

@hs.job(history="bids")
def averages(bids: hs.Data):
    return bids.sql("SELECT avg(price) AS average, count(*) AS bids FROM bids")

@averages.combine
def merge(partials: hs.Data):
    return partials.sql("{merge}")
"""
RIGHT = "SELECT sum(average * bids) / sum(bids) AS average, sum(bids)::BIGINT AS bids FROM partials"
WRONG = "SELECT avg(average) AS average, sum(bids)::BIGINT AS bids FROM partials"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    write_project(folder, bids=5_000)
    return folder


def checked(folder: Path, merge: str) -> Checked:
    (folder / "jobs" / "averages.py").write_text(JOB.format(merge=merge))
    project = load_project(folder)
    with open_workshop(project) as workshop:
        spec, code = workshop.job("averages")
        return check_job(project, spec, code, ask(project, spec, {}))


def test_a_right_combine_passes(folder: Path) -> None:
    found = checked(folder, RIGHT)
    assert found.rows == {"1": 1, "2": 1, "7": 1}
    assert found.differences == []


def test_an_average_of_averages_is_found(folder: Path) -> None:
    found = checked(folder, WRONG)
    assert any("average" in difference for difference in found.differences)


FOLD = """
import hindscan as hs

@hs.job(history="bids", order="partition", state=lambda: {{"bids": 0, "calls": 0}}, combine="concat")
def counted(bids: hs.Data, state):
    after = {{"bids": state["bids"] + bids.arrow(["price"]).num_rows, "calls": state["calls"] + 1}}
    return bids.sql("SELECT price AS top FROM bids WHERE false"), after

@counted.close
def ended(state):
    return {{"top": state["{told}"]}}
"""


@pytest.mark.parametrize(("told", "differences"), [("bids", 0), ("calls", 2)])
def test_a_fold_that_tells_how_often_it_was_called_is_found(folder: Path, told: str, differences: int) -> None:
    (folder / "jobs" / "counted.py").write_text(FOLD.format(told=told))
    project = load_project(folder)
    with open_workshop(project) as workshop:
        spec, code = workshop.job("counted")
        found = check_job(project, spec, code, ask(project, spec, {}))
    assert found.rows == {"1": 1, "2": 1, "7": 1}
    assert len(found.differences) == differences


@given(st.integers(0, 40), st.integers(1, 9))
def test_pieces_hold_every_slice_once_and_in_order(slices: int, pieces: int) -> None:
    groups = _groups(list(range(slices)), pieces)  # type: ignore[arg-type]
    assert [s for group in groups for s in group] == list(range(slices))
    assert len(groups) == min(slices, pieces)
    assert all(groups)


def test_floats_may_differ_in_their_last_digits_and_nothing_else_may() -> None:
    one = pa.table({"a": [1, 2], "x": [0.1, float("nan")]})
    assert compare(one, pa.table({"a": [1, 2], "x": [0.1 + 1e-12, float("nan")]})) == []
    assert compare(one, pa.table({"a": [1, 3], "x": [0.1, float("nan")]}))
    assert compare(one, pa.table({"a": [1, 2], "x": [0.1001, float("nan")]}))
    assert compare(one, one.slice(0, 1))
    assert compare(one, one.rename_columns(["a", "y"]))
