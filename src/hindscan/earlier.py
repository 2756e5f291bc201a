"""The plan of an earlier run, made again: what a new plan is compared with to say why it reuses what it reuses.

Keeps the second half of promise 7. Nothing of a plan is stored but what it is made of (request, code and snapshot of its run), and making one is a pure function
of these: so the earlier plan costs a look at the store and no data.

::

    store: runs of the job -> the nearest that succeeded -> its plan -> plans.reuse.reasons
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hindscan.errors import HindscanError
from hindscan.planning import make
from hindscan.plans.keys import digest_of
from hindscan.runs import codes, register, snapshots

if TYPE_CHECKING:
    from hindscan.jobs.job import JobSpec
    from hindscan.plans.plan import Plan
    from hindscan.runs.run import Run, RunRequest
    from hindscan.workshop import Workshop

__all__ = ["earlier_plan"]

#: Runs that are looked through for the nearest, newest first.
RUNS_MOST: Final = 20


def earlier_plan(workshop: Workshop, spec: JobSpec, request: RunRequest) -> Plan | None:
    """Make the plan of the nearest run of a job that succeeded: of the newest, that with the fewest other parameters.

    Returns
    -------
    Plan or None
        With nothing marked as reused. None where no run has succeeded yet, or what it read is declared no more.
    """
    found = register.list_runs(workshop.store, job=spec.name, state="succeeded", limit=RUNS_MOST)
    for run in sorted(found, key=lambda run: _distance(run, spec, request)):
        snapshot = snapshots.load_snapshot(workshop.store, run.id)
        if snapshot is None:
            continue
        try:
            then, _ = codes.load_code(workshop.store, run.code, run.job)
            return make(workshop.project, then, run.request, snapshot, ())[0]
        except HindscanError:
            # A history that is gone, code that no longer loads: that run tells nothing, an older one may.
            continue
    return None


def _distance(run: Run, spec: JobSpec, request: RunRequest) -> int:
    """Count what is different, code included."""
    then, now = run.request.parameters, request.parameters
    names = {*then, *now}
    other = sum(name not in then or name not in now or digest_of(then[name]) != digest_of(now[name]) for name in names)
    return other + (run.code != spec.code) + (run.request.seed != request.seed)
