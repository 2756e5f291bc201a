"""A simulation in this process: no project, no store, no workers, and the same numbers.

Keeps promise 8 at the desk of whoever writes a simulation: the same seed gives the same estimates, to the bit, as a run of the job, stopping rule
included, because blocks, slices, looks and sums are the very same. For tests of a simulation against what is known of it, and for trying one out.

::

    Job + parameters + model -> slice after slice -> merge -> Drawn
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from hindscan.errors import UsageError
from hindscan.jobs import estimates, statistics, totals
from hindscan.jobs.job import JobSpec
from hindscan.jobs.parameters import python_values, validate
from hindscan.jobs.returned import to_model, to_model_table
from hindscan.jobs.simulation import simulate, whole_number
from hindscan.plans.cost import Limits
from hindscan.plans.cut import cut
from hindscan.plans.draws import check_draws, draw_pin, most_draws, refuse_draws_over, unit_draws, whole_draws
from hindscan.plans.stopping import looks, reached, read_stop

if TYPE_CHECKING:
    from hindscan.jobs.declare import Job

__all__ = ["Drawn", "draw"]


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """What was drawn."""

    #: As the result of a run has it.
    table: pa.Table
    draws: int
    #: "draws", or why a rule stopped: "precision", "max_draws".
    why: str = "draws"

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Give the first row of a statistic, or quantity, by its name."""
        rows: list[dict[str, Any]] = self.table.to_pylist()
        found = next((row for row in rows if row["name"] == name), None)
        if found is None:
            there = ", ".join(dict.fromkeys(str(row["name"]) for row in rows))
            raise UsageError(f"Looking at what was drawn: a name must be one of {there}, and is {name!r}.")
        return found


def draw(
    job: Job,
    parameters: Mapping[str, Any] | None = None,
    *,
    seed: int,
    draws: int | None = None,
    stop: Mapping[str, Any] | None = None,
    model: Any = None,
) -> Drawn:
    """Draw a simulation with statistics in this process.

    Parameters
    ----------
    job : Job
        Made by `hs.simulation`.
    parameters : mapping, optional
        By name.
    seed : int
        As of a run.
    draws : int, optional
        How many. Default: the job's. With a rule at most, and by default 100 times the job's.
    stop : mapping, optional
        When it is enough, as in `hs.run`; seconds are not looked at.
    model : table or dict, optional
        What the calibration would give; the function gets it as in a run, a table as one of Arrow and a dict with arrays.

    Returns
    -------
    Drawn
        The estimates.

    Raises
    ------
    hindscan.errors.UsageError
        The job is no simulation with statistics, or something that was asked for is wrong.
    """
    spec = _drawn_here(job)
    values = validate(spec.parameters, parameters or {})
    function = job.steps["slice"]
    taken = [p for p in spec.parameters if p.name in spec.steps["slice"].parameters]
    named = python_values(taken, {p.name: values[p.name] for p in taken}, function)
    seed = _whole("seed", seed, least=0)
    asked = None if draws is None else _whole("draws", draws, least=1)
    rule = None if stop is None else read_stop(stop, spec.statistics, spec.quantities)
    if rule is None:
        most = whole_draws(spec, spec.draws) if asked is None else asked
        check_draws(spec, most)
    else:
        most = most_draws(spec, asked, rule.max_draws)
    refuse_draws_over(spec, most, Limits().max_slices)
    leading = _leading(job, model)
    pin = draw_pin(spec, draws=most, seed=seed)
    merge = totals.merge if spec.statistics else statistics.merge
    finish = functools.partial(estimates.finish, spec.statistics) if spec.statistics else statistics.finish

    so_far: list[pa.Table] = []
    pieces = cut(pin, 1)
    ends = [most] if rule is None else list(looks(pin, unit_draws(spec), most))
    for start, end in itertools.pairwise([0, *ends]):
        for piece in pieces:
            if start < piece.end <= end:  # type: ignore[union-attr]
                made = simulate(
                    lambda block: function(block, *leading, **named), piece, pin, built_in=True, name=spec.name,  # type: ignore[arg-type]
                    wanted=spec.statistics, model=next(iter(leading), None), parameters=named,
                )  # fmt: skip
                so_far = [merge([*so_far, made])]
        table = finish(so_far[0])
        if rule is not None and reached(rule, table.to_pylist(), spec.statistics):
            return Drawn(table=table, draws=end, why="precision")
    return Drawn(table=table, draws=most, why="draws" if rule is None else "max_draws")


def _drawn_here(job: Job) -> JobSpec:
    spec = getattr(job, "spec", None)
    if not isinstance(spec, JobSpec):
        raise UsageError(
            f"Drawing here: a job that @hs.simulation made is required, and {job!r} is none. Run a job of the project's by its name with hs.run."
        )
    if spec.kind != "simulation" or spec.combine != "statistics":
        raise UsageError(f"Drawing {spec.name} here: it must be a simulation with statistics, and is none. Use hs.run.")
    return spec


def _whole(name: str, given: Any, *, least: int) -> int:
    number = whole_number(given, least=least)
    if number is None:
        raise UsageError(f"Drawing here: {name}= must be a whole number from {least} on, and is {given!r}.")
    return number


def _leading(job: Job, model: Any) -> tuple[Any, ...]:
    """Give what the function is given after its block: the model, as a calibration's comes to it."""
    if ("calibrate" in job.steps) != (model is not None):
        fault = "model= must be given, as nothing is calibrated here" if model is None else "it has no calibration, so model= must be left out"  # fmt: skip
        raise UsageError(f"Drawing {job.name} here: {fault}.")
    return () if model is None else (to_model(to_model_table(model, "calibrate")),)
