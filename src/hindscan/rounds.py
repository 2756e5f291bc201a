"""Drawing in rounds: a simulation is carried out up to a look, judged, and carried on, until its rule says that it is enough.

Keeps promises 6 and 8. Each round is an ordinary plan over the draws up to its look, so what earlier rounds (or an earlier, killed attempt) have stored
is reused, and the last one is the plan of a run that asked for so many draws at once. What is judged are the combined statistics of all draws so far. In a sweep each
point is judged on its own, at the looks it would have alone, and has no more draws than these from then on.

::

    RunRequest.stop -> looks -> plan, execute -> estimates -> reached? -> Settled (stored) -> publication
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hindscan.plans.draws import draw_pin, most_draws, unit_draws
from hindscan.plans.stopping import looks, reached, read_stop
from hindscan.plans.sweep import finals
from hindscan.runs.run import Settled
from hindscan.tasks.bench import finished
from hindscan.tasks.kept import KeptSlices
from hindscan.tasks.tally import OUTPUT_MOST

if TYPE_CHECKING:
    import pyarrow as pa

    from hindscan.jobs.job import JobSpec
    from hindscan.planning import Prepared
    from hindscan.plans.plan import Plan, Stage
    from hindscan.plans.stopping import StopRule
    from hindscan.runs.partials import Partials
    from hindscan.runs.run import RunRequest
    from hindscan.tasks.execution import Executed
    from hindscan.tasks.stage import StageDone

__all__ = ["carry_out_in_rounds", "drawn_document", "together"]

#: Points of a sweep, at most, of which a manifest says each what more precision would take: some 40 bytes for each of its 64 kB.
POINTS_TOLD: Final = 500


def carry_out_in_rounds(
    spec: JobSpec,
    request: RunRequest,
    partials: Partials,
    carry: Callable[[RunRequest], tuple[Prepared, Executed]],
    keep: Callable[[Settled], None],
) -> tuple[Prepared, Executed]:
    """Carry a request out, in rounds if it has a rule that has not been settled.

    Parameters
    ----------
    spec : JobSpec
        The job.
    request : RunRequest
        As it was asked for.
    partials : Partials
        Where the combined statistics are.
    carry : callable
        Plans and executes a request.
    keep : callable
        Stores where it stopped.

    Returns
    -------
    (Prepared, Executed)
        Of all rounds together; the plan is that of the last.
    """
    if request.stop is None or request.settled is not None:
        return carry(request)
    rule = read_stop(request.stop, spec.statistics)
    most = most_draws(spec, request.draws, rule.max_draws)
    began, done = time.monotonic(), []
    ends: list[Settled | None] = [None] * max(1, len(request.points))
    for count, draws in enumerate(looks(draw_pin(spec, draws=most, seed=0), unit_draws(spec), most), start=1):
        # Points that have stopped keep their draws.
        so_far = [end or Settled(draws=draws, why="", looks=count) for end in ends]
        prepared, executed = carry(msgspec.structs.replace(request, settled=_all(so_far, request)))
        done.append((prepared, executed))
        seconds = time.monotonic() - began
        for at, stage in enumerate(finals(prepared.plan)):
            if ends[at] is None:
                combined = partials.read(executed.stages[stage].combined)
                why = _why(spec, rule, combined, draws, most, seconds)
                ends[at] = Settled(draws=draws, why=why, looks=count) if why else None
        stopped = [end for end in ends if end is not None]
        if len(stopped) == len(ends):
            keep(_all(stopped, request))
            break
    prepared = done[-1][0]
    return prepared, together(prepared, [executed for _, executed in done])


def _all(ends: Sequence[Settled], request: RunRequest) -> Settled:
    """Say of all points together where they stop; of a single run where it does."""
    if not request.points:
        return ends[0]
    why = ", ".join(sorted({end.why for end in ends}))
    return Settled(
        draws=max(end.draws for end in ends), why=why, looks=max(end.looks for end in ends), points=tuple(ends)
    )


def _why(spec: JobSpec, rule: StopRule, combined: pa.Table, draws: int, most: int, seconds: float) -> str:
    """Say why it is enough; empty if it is not."""
    if reached(rule, finished(spec, combined).to_pylist(), spec.statistics):
        return "precision"
    if draws >= most:
        return "max_draws"
    return "max_seconds" if rule.max_seconds is not None and seconds >= rule.max_seconds else ""


def together(prepared: Prepared, rounds: Sequence[Executed]) -> Executed:
    """Add up what several executions did, the last of them of this plan; slices of earlier ones that it has are its own."""
    last = rounds[-1]
    total = last.computed + last.reused
    stages = []
    for at, stage in enumerate(last.stages):
        keys = prepared.plan.stages[at].keys
        # A slice that the last look has cut short, or had whole, was another before: only what the last plan has is told.
        kept = KeptSlices(
            one
            for each in rounds
            for one in each.stages[at].slices
            if keys[one.position : one.position + 1] == (one.key,)
        )
        stages.append(
            msgspec.structs.replace(
                stage,
                slices=kept,
                seconds=sum(each.stages[at].seconds for each in rounds),
            )
        )
    computed = sum(len(stage.slices) for stage in stages)
    return msgspec.structs.replace(
        last,
        stages=tuple(stages),
        computed=computed,
        reused=total - computed,
        retried=sum(each.retried for each in rounds),
        cpu_seconds=sum(each.cpu_seconds for each in rounds),
        bytes_read=sum(each.bytes_read for each in rounds),
        seconds=sum(each.seconds for each in rounds),
        output="".join(each.output for each in rounds)[-OUTPUT_MOST:],
    )


def drawn_document(plan: Plan, settled: Settled | None, executed: Executed, workers: int) -> Mapping[str, Any]:
    """Describe for the manifest how a simulation was drawn, why it stopped, and what ten times the precision would take; empty for other jobs."""
    spec = plan.job
    if spec.kind != "simulation":
        return {}
    points = [_ten_times(plan.stages[at], executed.stages[at], workers) for at in finals(plan)]
    ten_times = points[0] if not plan.points else _summed(points)
    return {
        "generator": spec.generator,
        "block_size": spec.block_size,
        "sampling": None if spec.sampling is None else msgspec.to_builtins(spec.sampling),
        # Of a sweep the result says it of each point.
        "stopped": {"why": "draws"}
        if settled is None
        else msgspec.to_builtins(msgspec.structs.replace(settled, points=())),
        "ten_times": ten_times,
    }


def _ten_times(stage: Stage, done: StageDone, workers: int) -> dict[str, Any]:
    """Say what ten times the precision would take: the error falls with the square root of the draws. Seconds are null where none were drawn now."""
    draws = sum(piece.rows or 0 for piece in stage.slices)
    share = len(done.slices) / max(done.coverage.slices_done, 1)
    computed = sum(one.seconds for one in done.slices)
    return {"draws": 100 * draws, "seconds": round(100 * computed / share / max(workers, 1), 3) if share else None}


def _summed(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Say it of all points of a sweep together, and of each where a manifest has room for that."""
    seconds = [point["seconds"] for point in points]
    together = {
        "draws": sum(point["draws"] for point in points),
        "seconds": None if None in seconds else round(sum(seconds), 3),
    }
    return together | ({"points": points} if len(points) <= POINTS_TOLD else {})
