"""Declaring jobs that are joined with others by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hindscan.errors import JobDefinitionError
from hindscan.jobs.code import bundle, load
from hindscan.jobs.declare import Job, job, simulation
from hindscan.jobs.job import Code, JobSpec


def of_bids(bids: Any, year: int = 2018) -> Any:
    return bids, year


def of_lots(lots: Any, persons: Any, year: int = 2018, least: int = 1) -> Any:
    return lots, persons, year, least


def together(combined: Any, lots: Any) -> Any:
    return combined, lots


def lots(**options: Any) -> Job:
    given = {"history": "auctions", "by": "id", "tables": {"persons": "people"}, "name": "offered", **options}
    return job(**given)(of_lots)


def sales(**options: Any) -> Job:
    made = job(**{"history": "bids", "by": "auction", "join": {"lots": lots()}, "name": "sales", **options})(of_bids)
    made.finish(together)
    return made


def test_the_spec_has_the_joined_job_its_histories_and_its_parameters() -> None:
    spec = sales().spec
    assert spec.joins["lots"].by == ("id",)
    assert [(p.name, p.default) for p in spec.parameters] == [("year", 2018), ("least", 1)]
    assert spec.steps["finish"].joins == ("lots",)
    assert spec.histories == {"bids": "bids", "lots": "auctions", "lots.persons": "people"}
    assert spec.broadcast == ("lots.persons",)


def test_a_joined_job_travels_as_it_would_alone(tmp_path: Path) -> None:
    spec, code = bundle(sales(), tmp_path)
    alone, _ = bundle(lots(), tmp_path)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=JobSpec) == spec
    arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(code), type=Code)
    assert load(arrived.joins["lots"])["slice"](1, 2) == (1, 2, 2018, 1)
    assert spec.joins["lots"] == alone
    # What it computes is part of what the job is, and of no step of its own.
    other, _ = bundle(
        sales(join={"lots": job(history="auctions", by="id", tables={"persons": "people"})(_other)}), tmp_path
    )
    assert other.code != spec.code
    assert other.steps == spec.steps


def _other(lots: Any, persons: Any, year: int = 2018, least: int = 1) -> Any:
    return persons, lots, year, least


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"by": 3}, "by= must name one column .*and is 3"),
        ({"by": None}, "join= is for jobs that are split by key: say by= in both"),
        ({"by": ["auction", "bidder"]}, r"`lots` .* as many columns as this one \(auction, bidder\), and is by id"),
        ({"parts": 8}, r"`lots` .* into as many parts as this one \(8\), and is into 16"),
        ({"join": {"lots": lots(by=None)}}, r"must be split by as many columns as this one \(auction\), and is by none"),
        ({"join": {"lots": of_lots}}, "`lots` in join= must be a job, and is <function of_lots"),
        ({"join": lots()}, "join= must name jobs by parameters of finish, and is <hindscan job 'offered'"),
        ({"join": {"lots": sales()}}, "'sales', which must be computed slice by slice over one history, and is a simulation"),
        ({"join": {"lots": lots(), "bids": lots()}}, "`bids` in join= is the name of another table of the job"),
        ({"join": {"lots": lots(), "more": lots()}}, "`more` in join= is no parameter of finish, which says how it is joined"),
        ({"tables": {"lots": "auctions"}}, "`lots` in join= is the name of another table of the job"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_told(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(JobDefinitionError, match=fault):
        _ = sales(**options).spec


def test_a_parameter_is_one_on_both_sides() -> None:
    def other(bids: Any, least: float = 0.5) -> Any: ...

    with pytest.raises(
        JobDefinitionError, match=r"`least` is `int = 1` in the joined job lots and `float = 0.5` in an earlier step"
    ):
        job(history="bids", by="auction", join={"lots": lots()})(other)


def test_only_finish_gets_what_is_joined() -> None:
    made = sales()
    with pytest.raises(JobDefinitionError, match="`lots` of combine is joined, and only finish gets what is joined"):
        made.combine(together)
    assert "combine" not in made.steps


def test_a_simulation_is_not_joined() -> None:
    def draw(block: Any) -> Any: ...

    with pytest.raises(JobDefinitionError, match="must be computed slice by slice over one history"):
        sales(join={"lots": simulation()(draw)})
