"""The draws of a simulation as something pinned: how many there can be, and what finishes them.

Keeps promises 7 and 8: what a draw is (seed, block size, generator, sampling) is in the keys of slices, how many there are is not; and a run has whole
units only, sets of draws that belong together, so that no estimate rests on half of one.

::

    JobSpec + draws asked for -> check_draws, whole_draws, refuse_draws_over -> DrawPin -> cut
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from hindscan.errors import ParameterError, PlanRefused
from hindscan.history.snapshot import DrawPin
from hindscan.jobs.job import JobSpec
from hindscan.jobs.sampling import unit_of
from hindscan.plans.cut import count_draws

__all__ = ["check_draws", "draw_pin", "finishing", "most_draws", "refuse_draws_over", "unit_draws", "whole_draws"]

#: Draws at most where nothing says so, in draws the job has by default.
MOST_TIMES: Final = 100


def draw_pin(job: JobSpec, *, draws: int, seed: int) -> DrawPin:
    """Pin the draws of a run."""
    return DrawPin(
        draws=draws,
        seed=seed,
        block_size=job.block_size,
        generator=job.generator,
        sampling=None if job.sampling is None else msgspec.to_builtins(job.sampling),
    )


def unit_draws(job: JobSpec) -> int:
    """Give how many consecutive draws belong together in the job's sampling and its statistics."""
    batches = [getattr(one, "batch", 1) for one in job.statistics.values()]
    return math.lcm(unit_of(job.sampling, job.block_size), *batches)


def whole_draws(job: JobSpec, draws: int) -> int:
    """Give the least number of draws from this one on that has whole units only."""
    unit = unit_draws(job)
    return -(-draws // unit) * unit


def most_draws(job: JobSpec, *asked: int | None) -> int:
    """Give the draws at most of a run with a rule to stop: the least of those that are asked for.

    Raises
    ------
    hindscan.errors.ParameterError
        As `check_draws`.
    """
    given = [draws for draws in asked if draws is not None]
    for draws in given:
        check_draws(job, draws)
    return min(given) if given else whole_draws(job, job.draws * MOST_TIMES)


def check_draws(job: JobSpec, draws: int) -> None:
    """Refuse a number of draws that a job cannot have.

    Raises
    ------
    hindscan.errors.ParameterError
        No whole number, fewer than one, or not of whole units.
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ParameterError(
            f"Planning job {job.name}: draws must be at least 1, and whole, not {draws!r}. Ask for one draw or more.",
            job=job.name,
        )
    if draws != whole_draws(job, draws):
        raise ParameterError(
            f"Planning job {job.name}: its draws belong together in sets of {unit_draws(job):,}, so there must be a multiple of these, and {draws:,} is none. "
            f"Ask for {whole_draws(job, draws):,}.",
            job=job.name,
        )


def refuse_draws_over(job: JobSpec, draws: int, max_slices: int | None, *, points: int = 1) -> None:
    """Refuse more draws than a plan may have slices for, before any is cut: cutting 10**20 draws would itself not end.

    Parameters
    ----------
    max_slices : int, optional
        Of the project; that of the job comes first. None: no limit.
    points : int
        Of a sweep, each with so many draws.

    Raises
    ------
    hindscan.errors.PlanRefused
        More slices than `max_slices`.
    """
    most = job.max_slices if job.max_slices is not None else max_slices
    slices = points * count_draws(draw_pin(job, draws=draws, seed=0))
    if most is not None and slices > most:
        each = f" at each of {points:,} points" if points > 1 else ""
        raise PlanRefused(
            f"Planning job {job.name}: max_slices is {most:,}, and {draws:,} draws{each} need {slices:,}. Ask for fewer draws, or raise the limit.",
            job=job.name,
            over=["max_slices"],
        )


def finishing(job: JobSpec) -> dict[str, Any]:
    """Give all that finishing estimates depends on beside their sums."""
    return {name: msgspec.to_builtins(one) for name, one in job.statistics.items()}
