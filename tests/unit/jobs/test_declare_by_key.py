"""Declaring jobs that are split by key."""

from __future__ import annotations

from typing import Any

import pytest

from hindscan.errors import JobDefinitionError
from hindscan.jobs.declare import job, simulation


def one(bids: Any) -> Any: ...


@pytest.mark.parametrize(
    ("by", "wanted"), [("bidder", ("bidder",)), (["auction", "bidder"], ("auction", "bidder")), (None, ())]
)
def test_the_spec_says_by_what_a_job_is_split(by: Any, wanted: tuple[str, ...]) -> None:
    spec = job(history="bids", by=by, parts=7)(one).spec
    assert (spec.by, spec.parts) == (wanted, 7)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"by": []}, r"by= must name one column or a list of different ones, and is \[\]"),
        ({"by": ["a", "a"]}, r"by= must name .* and is \['a', 'a'\]"),
        ({"by": ["a", 3]}, r"by= must name .* and is \['a', 3\]"),
        ({"by": ""}, r"by= must name .* and is ''"),
        ({"by": 3}, r"by= must name .* and is 3"),
        ({"by": "a", "parts": 0}, r"parts= must be a whole number from 1 to 4096, and is 0"),
        ({"by": "a", "parts": 5000}, r"parts= must be .* and is 5000"),
        ({"by": "a", "parts": True}, r"parts= must be .* and is True"),
    ],
)
def test_what_cannot_be_a_split_is_told(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(JobDefinitionError, match=fault):
        job(history="bids", **options)(one)


def test_a_calibration_is_not_split() -> None:
    def draw(block: Any, model: Any) -> Any: ...

    with pytest.raises(JobDefinitionError, match="its calibration 'one' is split by key, and a model is one table"):
        simulation(calibrate=job(history="bids", by="bidder")(one))(draw)
