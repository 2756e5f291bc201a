"""Carrying out a plan: what is missing is computed, combined, finished; what exists is not touched.

Keeps promises 6, 7, 8 and 11. State is nowhere but in the partials: whoever executes the same plan again, after whatever death, goes on where
they end. A stored partial that turns out to be damaged is made again, once, by the stage that owns it.

::

    Plan -> an assignment for each stage, packed once -> StageWork, one after another -> StageDone, ... + Tally -> Executed
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import msgspec

from hindscan.errors import CorruptPartial
from hindscan.history.snapshot import Reader
from hindscan.jobs.job import Code, pinned_as
from hindscan.plans.cut import cut_whole
from hindscan.plans.draws import draw_pin
from hindscan.plans.keys import table_digest
from hindscan.plans.pace import Pace
from hindscan.plans.plan import Plan, Stage
from hindscan.progress import Observer
from hindscan.runs.partials import Partials
from hindscan.tasks.executor import Executor
from hindscan.tasks.stage import StageDone, StageWork
from hindscan.tasks.tally import Tally
from hindscan.tasks.task import Assignment, Broadcast

__all__ = ["Executed", "execute"]


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """A plan, carried out."""

    #: Key of the finished table of the last stage: the result.
    finished: str
    #: Keys of what is stored of it: itself, or of a job that is split by key its parts, each sorted by key.
    results: tuple[str, ...]
    stages: tuple[StageDone, ...]
    computed: int
    reused: int
    #: Slices that had to be tried again.
    retried: int
    #: CPU seconds of the steps, measured on the workers.
    cpu_seconds: float
    #: Bytes that were read, as the proofs say.
    bytes_read: int
    seconds: float
    #: What user code printed, task by task.
    output: str


def execute(
    plan: Plan,
    *,
    run: str,
    code: Code,
    readers: Mapping[str, Reader],
    partials: Partials,
    executor: Executor,
    observe: Observer,
    stop: threading.Event,
    slices_per_task: int | None = None,
    allow_failed: float = 0,
    paces: Mapping[str, Pace] | None = None,
) -> Executed:
    """Carry out a plan.

    Parameters
    ----------
    plan : Plan
        What to do; `Plan.fresh` computes everything anew.
    run : str
        Id of the run, for the facts.
    code : Code
        Of the plan's job.
    readers : mapping
        A reader for each pin of the snapshot, by parameter name.
    partials : Partials
        Where partials are; workers get it as a value.
    executor : Executor
        Entered already.
    observe : callable
        Hears every fact, in this thread.
    stop : threading.Event
        Ends the work on the workers when set.
    slices_per_task : int, optional
        Fixed grouping, for tests.
    allow_failed : int or float
        Slices of each stage that may fail for good: a share of all (a float below 1) or a number. Only what the job itself, or its worker, failed with is tolerated.
    paces : mapping, optional
        What slices of each step took in earlier runs. Default: it is learnt on the way.

    Returns
    -------
    Executed
        The finished table is stored under its key.

    Raises
    ------
    hindscan.errors.RunCancelled
        `stop` was set.
    hindscan.errors.ExecutionError
        `JobFailed`, `WorkerDied`, `BadPartial` or another, of the first slice that failed for good.
    hindscan.errors.HistoryError
        A history could not be read as it was pinned.
    """
    began = time.monotonic()
    tables = {
        name: Broadcast(
            reader=readers[name],
            slices=cut_whole(plan.snapshot.pins[name]),
            digest=table_digest(plan.snapshot.pins[name], readers[name].identity()),
            proof_key=plan.table_proofs.get(name),
        )
        for name in plan.job.broadcast
    }
    tally = Tally(run, observe)
    stages: list[StageWork] = []
    for index, stage in enumerate(plan.stages):
        model = stage.model
        if index and plan.job.kind == "simulation" and not plan.points:
            model = plan.stages[index - 1].finished
        assignment = assignment_of(plan, stage, run, code, readers, tables, partials, model)
        pace = (paces or {}).get(stage.step) or Pace()
        sides = [side for side in stages if stage.joined]
        stages.append(
            StageWork(
                plan, stage, assignment, sides, partials, executor, stop, tally, slices_per_task, allow_failed, pace
            )
        )
    _carry_out(stages)
    outcome = [stage.outcome() for stage in stages]
    computed = sum(len(stage.slices) for stage in outcome)
    return Executed(
        finished=outcome[-1].finished,
        results=outcome[-1].results,
        stages=tuple(outcome),
        computed=computed,
        reused=sum(stage.coverage.slices_done for stage in outcome) - computed,
        retried=tally.retried,
        cpu_seconds=tally.cpu_seconds,
        bytes_read=sum(d.proof.bytes for stage in outcome for d in stage.slices if d.proof is not None),
        seconds=time.monotonic() - began,
        output=tally.output,
    )


def _carry_out(stages: Sequence[StageWork]) -> None:
    """Carry out stage by stage; a damaged partial of this or an earlier stage is made again, once.

    The points of a sweep come after all they are calibrated with, and have their slices made beside each other: no worker waits at a point's end.
    """
    points = [stage for stage in stages if stage.of_point]
    stages = [*(stage for stage in stages if not stage.of_point), *points]
    repaired: set[str] = set()
    index = 0
    while index < len(stages):
        try:
            if points and stages[index] is points[0]:
                points[0].make_slices_together(points)
            stages[index].carry_out()
        except CorruptPartial as fault:
            key = str(fault.details.get("key"))
            owner = next((i for i in range(index + 1) if stages[i].owns(key)), None)
            if owner is None or key in repaired:
                raise
            repaired.add(key)
            stages[owner].forget(key)
            index = owner
        else:
            index += 1


def assignment_of(
    plan: Plan,
    stage: Stage,
    run: str,
    code: Code,
    readers: Mapping[str, Reader],
    tables: dict[str, Broadcast],
    partials: Partials,
    model: str | None,
) -> Assignment:
    calibrating = stage.step == "calibrate"
    job = plan.job_of(stage)
    draws = None
    if stage.table is None:
        assert plan.seed is not None
        assert plan.draws is not None
        draws = draw_pin(plan.job, draws=plan.draws, seed=plan.seed)
    return Assignment(
        run=run,
        job=job,
        code=code if stage.join is None else code.joins[stage.join],
        each="calibrate" if calibrating else "slice",
        combine="calibrate_combine" if calibrating else "combine",
        finish="calibrate_finish" if calibrating else "finish",
        how=job.calibrate_combine if calibrating else job.combine,
        reader=readers[stage.table] if stage.table is not None else None,
        draws=draws,
        tables={table: tables[pinned_as(stage.join, table)] for table in job.tables},
        parameters=plan.parameters_of(stage),
        model=model,
        joined=stage.joined,
        partials=partials,
    )
