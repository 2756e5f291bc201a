"""Declaring an ordered job: which step works on what, and what cannot be one."""

from __future__ import annotations

from typing import Any

import pytest

from hindscan.errors import JobDefinitionError
from hindscan.jobs.declare import Job, job, simulation


def nothing(gap: int = 30) -> Any:
    return {"last": gap}


def each(bids: Any, state: Any, auctions: Any, year: int = 2018) -> Any:
    """What happened between two bids."""
    return bids, state


def ordered(**options: Any) -> Job:
    given = {
        "history": "bids",
        "order": "partition",
        "state": nothing,
        "combine": "concat",
        "tables": {"auctions": "a"},
    }
    return job(**{**given, **options})(each)


def faults_of(declare: Any) -> list[str]:
    with pytest.raises(JobDefinitionError) as caught:
        declare()
    faults = caught.value.details["faults"]
    assert isinstance(faults, list)
    return faults


def test_the_slice_works_on_rows_and_state_the_start_on_nothing_and_the_close_on_the_last_state() -> None:
    made = ordered()

    @made.close
    def ended(state: Any, auctions: Any, last: bool = False) -> Any: ...

    spec = made.spec
    assert (spec.order, spec.table, spec.combine) == ("partition", "bids", "concat")
    assert {name: (step.parameters, step.tables) for name, step in spec.steps.items()} == {
        "slice": (("year",), ("auctions",)),
        "start": (("gap",), ()),
        "close": (("last",), ("auctions",)),
    }
    assert [p.name for p in spec.parameters] == ["year", "gap", "last"]
    assert made("b", "s", "a") == ("b", "s")
    assert ended is not made


def test_a_job_that_says_nothing_has_no_order() -> None:
    assert job(history="bids", name="j")(lambda bids: 0).spec.order is None


def test_what_cannot_be_an_ordered_job_is_told() -> None:
    def one(bids: Any) -> Any: ...

    def draw(block: Any, model: Any) -> Any: ...

    assert any("order= and state= belong together" in fault for fault in faults_of(lambda: ordered(order=None)))
    assert faults_of(lambda: ordered(state=None))[0].startswith("order= and state= belong together")
    assert faults_of(lambda: ordered(order="time")) == ["order= must be 'partition' or left out, and is 'time'"]
    assert "start must be a function, and is 3" in faults_of(lambda: ordered(state=3))
    assert faults_of(lambda: job(history="bids", order="partition", state=nothing)(one)) == [
        "slice must take the slice and the state first, and takes (bids)"
    ]
    assert "`state` in tables= is the second parameter, which gets the state" in faults_of(
        lambda: ordered(tables={"auctions": "a", "state": "s"})
    )
    assert faults_of(lambda: ordered().close(lambda: 0)) == ["close must take the state first, and takes ()"]
    plain = job(history="bids")(one)
    assert faults_of(lambda: plain.close(lambda state: 0))[0].startswith("@one.close is for ordered jobs")
    assert list(plain.steps) == ["slice"]
    assert (
        "its calibration 'each' is an ordered job, and slices of a calibration know nothing of each other"
        in faults_of(lambda: simulation(calibrate=ordered())(draw))
    )
