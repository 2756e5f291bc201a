"""Declaring a job: what a signature says, and everything that can be wrong with it at once."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec
import pytest

from hindscan.errors import JobDefinitionError
from hindscan.jobs.declare import Job, job, simulation
from hindscan.jobs.job import Parameter, Step


def scan(bids: Any, auctions: Any, category: str = "cars", year: int = 2018) -> Any:
    """What every bidder bid,
    in one year.

    Parameters
    ----------
    bids, auctions
        Tables.
    year : int
        Calendar year,
        in UTC.

    Returns
    -------
    nothing
    """
    return (bids, auctions, category, year)


def test_a_job_is_callable_like_its_function_and_its_spec_is_the_signature() -> None:
    made = job(history="bids", tables={"auctions": "all_auctions"}, max_slices=9)(scan)
    assert made("b", auctions="a", year=1) == ("b", "a", "cars", 1)
    spec = made.spec
    assert (spec.name, spec.kind, spec.table, spec.history) == ("scan", "scan", "bids", "bids")
    assert spec.tables == {"auctions": "all_auctions"}
    assert spec.parameters == (
        Parameter(name="category", type="str", required=False, default="cars"),
        Parameter(name="year", type="int", required=False, default=2018, doc="Calendar year, in UTC."),
    )
    assert spec.steps == {"slice": Step(digest="", parameters=("category", "year"), tables=("auctions",))}
    assert (spec.combine, spec.max_slices, spec.doc) == ("none", 9, "What every bidder bid, in one year.")
    assert msgspec.json.decode(msgspec.json.encode(spec), type=type(spec)) == spec


def test_each_step_sees_the_parameters_it_names_and_the_job_has_all_of_them() -> None:
    made = job(history="bids", tables={"auctions": "auctions"})(scan)

    @made.combine
    def merge(partials: Any, category: str = "cars") -> Any:
        return partials

    @made.finish
    def done(combined: Any, *, auctions: Any, top: int | None = None) -> Any:
        return combined

    assert merge(3) == 3
    spec = made.spec
    assert spec.combine == "function"
    assert spec.steps["combine"].parameters == ("category",)
    assert spec.steps["finish"] == Step(digest="", parameters=("top",), tables=("auctions",))
    assert [p.name for p in spec.parameters] == ["category", "year", "top"]


def test_types_come_from_annotations_or_else_from_defaults() -> None:
    def one(
        rows: Any,
        at: dt.datetime,
        share=0.5,
        kind: Literal["a", "b"] = "a",
        n: Annotated[int, msgspec.Meta(ge=1, description="How many.")] = 3,
        day: dt.date = dt.date(2018, 1, 1),
    ) -> NotImportedHere: ...  # type: ignore[name-defined,no-untyped-def]  # noqa: F821

    assert [(p.name, p.type, p.required, p.default, p.doc) for p in job(history="h")(one).spec.parameters] == [
        ("at", "datetime", True, None, ""),
        ("share", "float", False, 0.5, ""),
        ("kind", 'literal["a", "b"]', False, "a", ""),
        ("n", "int(ge=1)", False, 3, "How many."),
        ("day", "date", False, "2018-01-01", ""),
    ]


def test_a_simulation_takes_block_and_model_and_keeps_built_in_statistics() -> None:
    def fit(bids: Any, year: int = 2018) -> Any: ...

    @simulation(history="bids", calibrate=fit, block_size=16, draws=100)
    def price(block: Any, model: Any, bidders: int = 8) -> Any: ...

    spec = price.spec
    assert (spec.kind, spec.table, spec.history, spec.combine) == ("simulation", "bids", "bids", "statistics")
    assert (spec.block_size, spec.draws, spec.calibrate_combine) == (16, 100, "none")
    assert {name: step.parameters for name, step in spec.steps.items()} == {
        "slice": ("bidders",),
        "calibrate": ("year",),
    }


def test_a_calibration_that_fans_out_is_a_job_of_its_own() -> None:
    @job(history="bids", tables={"auctions": "auctions"})
    def fit(bids: Any, auctions: Any, year: int = 2018) -> Any: ...

    @fit.combine
    def merge(partials: Any) -> Any: ...

    @simulation(calibrate=fit)
    def price(block: Any, model: Any) -> Any: ...

    spec = price.spec
    assert (spec.history, spec.table, spec.calibrate_combine, spec.tables) == (
        "bids",
        "bids",
        "function",
        {"auctions": "auctions"},
    )
    assert set(spec.steps) == {"slice", "calibrate", "calibrate_combine"}


def test_a_simulation_needs_neither_history_nor_model() -> None:
    @simulation(combine="concat")
    def dice(block: Any, sides: int = 6) -> Any: ...

    assert (dice.spec.table, dice.spec.history, dice.spec.combine) == (None, None, "concat")


def faults_of(declare: Any) -> list[str]:
    with pytest.raises(JobDefinitionError) as caught:
        declare()
    faults = caught.value.details["faults"]
    assert isinstance(faults, list)
    for fault in faults:
        assert fault in str(caught.value)
    return faults


def test_a_decorator_without_parentheses_is_told_to_have_some() -> None:
    with pytest.raises(JobDefinitionError, match=r"job 'draw': write @hs.simulation\(\)"):

        @simulation
        def draw(block): ...


def test_all_faults_of_a_declaration_are_told_at_once() -> None:
    def bad(rows: Any, /, seed: int, x: dict[str, int], y: int = None, z=None, *rest: int, **more: int) -> Any: ...  # type: ignore[no-untyped-def,assignment]  # noqa: RUF013

    faults = faults_of(
        lambda: job(history="", tables={"auctions": "auctions"}, combine="sum", max_bytes=0, time_limit=-1, name="a b")(
            bad
        )
    )  # type: ignore[arg-type]
    for expected in [
        "`rows: 'Any'` of slice is positional-only",
        "`*rest: 'int'` of slice is variadic positional",
        "`**more: 'int'` of slice is variadic keyword",
        "`seed` of slice is an option of every run",
        "`x` of slice has an annotation that no parameter can have: dict",
        "`y` of slice has a default that must be an integer, and is null",
        "`z` of slice has neither an annotation nor a default",
        "its name must be letters",
        "history= must name a history",
        "combine= must be 'concat'",
        "max_bytes= must be a positive whole number, and is 0",
        "time_limit= must be a positive number",
    ]:
        assert any(fault.startswith(expected) for fault in faults), (expected, faults)
    assert len(faults) == 12


@pytest.mark.parametrize(
    ("later", "fault"),
    [
        (lambda partials, year=2017: 0, "`year` is `int = 2017` in combine and `int = 2018` in an earlier step"),
        (lambda partials, year=1.5: 0, "`year` is `float = 1.5` in combine and `int = 2018`"),
        (lambda: 0, "combine must take what it works on first, and takes ()"),
        (lambda partials, seed=1: 0, "`seed` of combine is an option of every run"),
    ],
)
def test_a_further_step_that_does_not_fit_is_refused_and_not_kept(later: Any, fault: str) -> None:
    made = job(history="bids", tables={"auctions": "auctions"})(scan)
    assert faults_of(lambda: made.combine(later))[0].startswith(fault)
    assert list(made.steps) == ["slice"]


def test_what_contradicts_itself_is_refused() -> None:
    @job(history="bids", combine="concat")
    def fit(bids: Any) -> Any: ...

    def price(block: Any, model: Any) -> Any: ...

    def alone(block: Any) -> Any: ...

    async def later(rows: Any) -> Any: ...

    assert "both combine='concat' and a combine" in faults_of(lambda: fit.combine(lambda partials: 0))[0]
    assert (
        "on history 'bids', and history= says 'other'"
        in faults_of(lambda: simulation(history="other", calibrate=fit)(price))[0]
    )
    assert "belong together" in faults_of(lambda: simulation(history="other")(alone))[0]
    assert "must take the block and the model first" in faults_of(lambda: simulation(calibrate=fit)(alone))[0]
    assert "coroutine" in faults_of(lambda: job(history="h")(later))[0]
    assert (
        "first parameter, which gets the sliced"
        in faults_of(lambda: job(history="h", tables={"bids": "x"}, name="j")(lambda bids: 0))[0]
    )


def test_a_table_may_be_of_a_later_step_but_must_be_of_one() -> None:
    @job(history="bids", tables={"auctions": "auctions"})
    def lean(bids: Any) -> Any: ...

    assert faults_of(lambda: lean.spec) == ["`auctions` in tables= is no parameter of any step"]
    lean.finish(lambda combined, auctions: 0)
    assert lean.spec.steps["finish"].tables == ("auctions",)


def test_a_cell_run_again_replaces_its_step() -> None:
    made = job(history="bids", tables={"auctions": "auctions"})(scan)
    made.finish(lambda combined, a=1: 0)
    made.finish(lambda combined, b=1: 0)
    assert [p.name for p in made.spec.parameters] == ["category", "year", "b"]


def test_the_root_gives_the_decorators_by_their_short_names() -> None:
    import hindscan as hs

    assert hs.job is job
    assert hs.simulation is simulation
    assert hs.Job is Job
