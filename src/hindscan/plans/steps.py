"""The steps of a stage: which functions of a job it calls, those that are built in filled in.

Serves promise 7: what a step computes is known by its digest, also where it is no user code, so all that is made of it has a key.

::

    JobSpec -> scan_steps | draw_steps -> Steps
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from hindscan.jobs.job import JobSpec, Step
from hindscan.plans.draws import finishing
from hindscan.plans.keys import digest_of

__all__ = ["CONCAT", "Steps", "draw_steps", "scan_steps"]

_Names = tuple[Literal["slice", "calibrate"], str, str]
_How = Literal["function", "concat", "statistics", "none"]

#: Stand in for the digests of steps that are not user code. Changed only when what they compute changes.
CONCAT: Final = Step(digest="builtin:concat:1")
_STATISTICS: Final = Step(digest="builtin:statistics:1")
_STATISTICS_FINISH: Final = Step(digest="builtin:statistics-finish:1")
#: Meaning of what declared statistics say of their sums (`jobs.estimates`).
_ESTIMATES: Final = "builtin:estimates:3"

#: Names of the steps of a stage that scans: each slice, combine, finish.
_SCAN: Final[_Names] = ("slice", "combine", "finish")
_CALIBRATION: Final[_Names] = ("calibrate", "calibrate_combine", "calibrate_finish")


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of one stage, built-in ones filled in; None where there is none."""

    name: Literal["slice", "calibrate"]
    each: Step
    combine: Step | None
    finish: Step | None
    how: _How
    #: Of an ordered job.
    start: Step | None = None
    close: Step | None = None

    @property
    def concatenates(self) -> bool:
        """Whether partials only stand one after another."""
        return self.how == "concat"


def scan_steps(job: JobSpec) -> Steps | None:
    """Give the steps of the stage that scans a history; None for a simulation without a model."""
    each, combine, finish = _SCAN if job.kind == "scan" else _CALIBRATION
    if each not in job.steps:
        return None
    how: _How = job.combine if job.kind == "scan" else job.calibrate_combine
    return Steps(
        name=each,
        each=job.steps[each],
        combine=_combine_step(how, job.steps.get(combine)),
        finish=job.steps.get(finish),
        how=how,
        start=job.steps.get("start"),
        close=job.steps.get("close"),
    )


def draw_steps(job: JobSpec) -> Steps:
    """Give the steps of the stage that draws."""
    finish = job.steps.get("finish")
    if finish is None and job.combine == "statistics":
        finish = _STATISTICS_FINISH
    if finish is not None and job.statistics:
        finish = msgspec.structs.replace(finish, digest=digest_of([finish.digest, _ESTIMATES, finishing(job)]))
    return Steps(
        name="slice",
        each=job.steps["slice"],
        combine=_combine_step(job.combine, job.steps.get("combine")),
        finish=finish,
        how=job.combine,
    )


def _combine_step(how: _How, own: Step | None) -> Step | None:
    match how:
        case "concat":
            return CONCAT
        case "statistics":
            return _STATISTICS
        case "function":
            return own
        case "none":
            return None
