"""Commands that work: `plan`, `run`, `check`."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from hindscan import errors
from hindscan.cli.options import DEFAULTS, WHOLE, Options, Parameters, Whole, WindowOptions, pairs, stop_rule
from hindscan.cli.output import Progress, human_bytes, human_count, print_arrow, print_document, print_table
from hindscan.errors import HindscanError, UsageError

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.jobs.job import JobSpec
    from hindscan.runs.run import Run, RunRequest
    from hindscan.tasks.executor import Executor
    from hindscan.workshop import Workshop

__all__ = ["check", "finish", "plan", "run", "run_answer"]

#: Faults that an edited job mends.
_OF_THE_JOB = frozenset({"BadPartial", "CodeLoadError", "JobDefinitionError", "JobFailed", "NotReproducible"})
Histories = Annotated[list[str] | None, Parameter(name=["--history"], negative="")]
Stops = Annotated[list[str] | None, Parameter(name=["--stop"], negative="")]
Flag = Annotated[bool, Parameter(negative="")]


def plan(
    job: str,
    /,
    *,
    parameters: Parameters = None,
    window: WindowOptions = WHOLE,
    seed: Whole | None = None,
    draws: Whole | None = None,
    workers: Whole | None = None,
    history: Histories = None,
    fresh: Flag = False,
    sweep: Flag = False,
    slices: Flag = False,
    options: Options = DEFAULTS,
) -> None:
    """Show what would run: slices, rows, bytes, reuse, cost. Reads metadata only (of a topic without a declared schema one sample too).

    Parameters
    ----------
    job : str
        Its name.
    parameters : list of str
        NAME=VALUE, any number of times.
    window : WindowOptions
        What part of the job's history is read.
    seed : int
        Seed of a simulation.
    draws : int
        Draws of a simulation.
    workers : int
        Workers to plan for.
    history : list of str
        NAME=OTHER reads another history in the place of one.
    sweep : bool
        Parameters given as 1..100, 0..1..0.25 or a,b,c take each of these values in turn: one run, one table.
    fresh : bool
        Reuse nothing.
    slices : bool
        Say of each slice whether it is reused, or why not.
    """
    from hindscan.cli.explained import print_slices, slice_documents
    from hindscan.earlier import earlier_plan
    from hindscan.planning import pin, prepare
    from hindscan.plans.reuse import reasons, totals
    from hindscan.workshop import kind_of_executor, open_workshop

    project = options.load()
    with open_workshop(project) as workshop:
        spec, _ = workshop.job(job)
        request = _typed(
            project, spec, parameters, history, window, seed=seed, draws=draws, workers=workers, fresh=fresh, sweep=sweep,
        )  # fmt: skip
        snapshot = pin(project, spec, request)
        prepared = prepare(
            project,
            spec,
            request,
            snapshot,
            workshop.partials.has,
            proofs=workshop.partials.find_proof,
            paces=lambda: workshop.paces(job),
            workers=workers or project.compute.workers,
        )
        missing = prepared.cost.slices > prepared.cost.reused
        why = reasons(prepared.plan, earlier_plan(workshop, spec, request) if missing else None)
    cost = prepared.cost
    stages = [
        {
            "step": s.step,
            "table": s.table,
            "slices": len(s.slices),
            "reused": len(s.reused),
            "rows": sum(x.rows for x in s.slices),
            "chains": len(s.chains) or None,
        }
        for s in prepared.plan.stages
    ]
    caveats = [caveat for pin in snapshot.pins.values() for caveat in getattr(pin, "caveats", ())]
    document = {
        "job": job, "parameters": request.parameters, "slices": cost.slices, "tasks": cost.tasks, "rows": cost.rows, "bytes": cost.bytes,
        "reused": cost.reused, "rows_to_read": cost.rows_to_read, "bytes_to_read": cost.bytes_to_read,
        "seconds": cost.seconds, "table_bytes": cost.table_bytes, "memory_bytes": cost.worker_bytes,
        "executor": kind_of_executor(project.compute, prepared, workers or project.compute.workers),
        "chains": cost.chains, "longest_slices": cost.longest_slices, "longest_bytes": cost.longest_bytes,
        "seed": prepared.plan.seed, "draws": prepared.plan.draws, "stages": stages,
        "caveats": caveats, "not_reused": totals(why), "each": slice_documents(prepared.plan, why) if slices else None,
    }  # fmt: skip
    if options.json:
        print_document(document)
        return
    print(f"{job} with {', '.join(f'{name}={value}' for name, value in request.parameters.items()) or 'no parameters'}")
    print_table(
        ("step", "table", "slices", "reused", "rows", "chains"),
        [tuple("" if v is None else v for v in s.values()) for s in stages],
    )
    print(
        f"to read: {human_count(cost.rows_to_read)} rows, {human_bytes(cost.bytes_to_read)} in {cost.tasks} tasks on {document['executor']}; "
        f"a worker needs about {human_bytes(cost.worker_bytes)}"
        + ("" if not cost.seconds else f"; about {cost.seconds:.2g} s of one worker, as earlier runs tell")
    )
    if cost.chains:
        print(
            f"in order: {cost.chains} partitions beside each other; the longest has {cost.longest_slices} slices "
            f"({human_bytes(cost.longest_bytes)}) to compute one after another"
        )
    for reason, count in totals(why).items():
        print(f"not reused: {human_count(count)} slices: {reason}")
    for caveat in caveats:
        print(f"note: {caveat}")
    if slices:
        print_slices(prepared.plan, why)


def run(
    job: str,
    /,
    *,
    parameters: Parameters = None,
    window: WindowOptions = WHOLE,
    seed: Whole | None = None,
    draws: Whole | None = None,
    stop: Stops = None,
    max_seconds: float | None = None,
    workers: Whole | None = None,
    priority: Whole = 0,
    history: Histories = None,
    fresh: Flag = False,
    sweep: Flag = False,
    allow_failed: str | None = None,
    detach: Flag = False,
    options: Options = DEFAULTS,
) -> int:
    """Run a job and wait for its result.

    Parameters
    ----------
    job : str
        Its name.
    parameters : list of str
        NAME=VALUE, any number of times.
    window : WindowOptions
        What part of the job's history is read.
    seed : int
        Seed of a simulation. Default: a digest of job, parameters and data.
    draws : int
        Draws of a simulation; with a rule to stop, at most.
    stop : list of str
        NAME=WIDTH draws until half of the interval of a statistic is as narrow (0.01, or 1% of its value), any number of times.
    max_seconds : float
        Draws no further when so long has been drawn.
    workers : int
        How many. Never shows in the result.
    priority : int
        Of the runs that may start those of a higher one do first.
    history : list of str
        NAME=OTHER reads another history in the place of one.
    sweep : bool
        Parameters given as 1..100, 0..1..0.25 or a,b,c take each of these values in turn: one run, one table.
    fresh : bool
        Compute everything, reuse nothing.
    allow_failed : str
        Slices that may fail for good and are then left out: a share of all (0.01) or a number.
    detach : bool
        Print the run's id and leave it to a process of its own.
    """
    with contextlib.ExitStack() as opened_here:
        started: list[Executor] = []

        def begin(project: Project) -> None:
            """Start the worker before the project is checked, and the store and what it imports is there: it needs as long to start as this process does."""
            from hindscan.tasks.starting import start_executor

            executor = start_executor("threads", workers or project.compute.workers, project.compute.memory)
            started.append(executor)
            opened_here.push(executor)

        project = options.load(None if detach else begin)
        from hindscan.runs import codes, opening
        from hindscan.words import asker
        from hindscan.workshop import open_workshop

        workshop = opened_here.enter_context(open_workshop(project))
        for executor in started:
            workshop.keep("threads", executor.workers, executor)
        spec, code = workshop.job(job)
        request = _typed(
            project, spec, parameters, history, window, seed=seed, draws=draws, stop=stop_rule(stop, max_seconds),
            workers=workers, fresh=fresh, allow_failed=_allowance(allow_failed), priority=priority, sweep=sweep,
        )  # fmt: skip
        digest = codes.save_code(workshop.store, spec, code)
        opened = opening.open_run(workshop.store, request, code=digest, requested_by=asker("cli"))
        if detach:
            from hindscan.driver import hand_over

            hand_over(project, opened.id)
            if options.json:
                print_document({"run": opened.id, "state": "pending"})
            else:
                print(opened.id)
            return 0
        return finish(workshop, opened.id, options)


def _allowance(text: str | None) -> int | float | None:
    """Read how many slices may fail: 1 is one slice, 1.0 would be all of them."""
    if text is None:
        return None
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise UsageError(
            f"Reading --allow-failed: it must be a share (0.01) or a whole number, found {text!r}."
        ) from None


def _typed(
    project: Project,
    spec: JobSpec,
    parameters: list[str] | None,
    histories: list[str] | None,
    window: WindowOptions,
    sweep: bool = False,
    **options: object,
) -> RunRequest:
    """Make what was typed a request."""
    from hindscan.planning import ask
    from hindscan.sweeping import typed_points

    fixed, points = typed_points(pairs(parameters, "-p")) if sweep else (pairs(parameters, "-p"), None)
    return ask(
        project,
        spec,
        fixed,
        from_text=True,
        points=points,
        **window.values(),
        histories=pairs(histories, "--history"),
        **options,
    )


def finish(workshop: Workshop, run: str, options: Options) -> int:
    """Carry a waiting run out here, show its progress, print its result; give the exit code."""
    from hindscan.driver import drive

    with Progress(quiet=options.json and not sys.stderr.isatty()) as progress, _cancel_on_interrupt(workshop, run):
        done = drive(workshop, run, observe=progress)
    return _print_run(workshop, done, options)


@contextlib.contextmanager
def _cancel_on_interrupt(workshop: Workshop, run: str) -> Iterator[None]:
    """Make the first Ctrl-C a wish to cancel, so that nothing is left half-published; the second one ends the process."""
    from hindscan.runs.register import request_cancel

    def ask_to_stop() -> None:
        # A run that has just ended needs no cancelling; what it became is printed anyway.
        with contextlib.suppress(HindscanError):
            request_cancel(workshop.store, run)

    def interrupted(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        sys.stderr.write("Stopping the run; once more ends at once.\n")
        threading.Thread(target=ask_to_stop, daemon=True).start()

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_answer(workshop: Workshop, done: Run) -> dict[str, Any]:
    """Write the document of `run --json`."""
    from hindscan import times
    from hindscan.runs.results import read_manifest

    event = (
        None if done.event_id is None else {"source": done.event_source, "id": done.event_id, "trigger": done.trigger}
    )
    answer: dict[str, Any] = {
        "run": done.id, "state": done.state, "job": done.job, "parameters": done.request.parameters, "event": event,
        "result": None, "manifest": None, "slices": None,
        "seconds": round((done.updated_at - done.created_at) / 1e6, 3), "created_at": times.to_text(done.created_at),
    }  # fmt: skip
    if done.error:
        answer |= {"error": done.error, "message": done.message}
    if done.result is not None:
        folder = workshop.project.root / done.result
        manifest = read_manifest(folder)
        answer["result"] = {
            "path": str(folder / "result.parquet"), "rows": manifest.result.rows, "digest": manifest.result.digest,
        }  # fmt: skip
        answer["manifest"] = str(folder / "manifest.json")
        answer["slices"] = {
            "total": manifest.slices.total, "reused": manifest.slices.reused, "computed": manifest.slices.computed,
        }  # fmt: skip
        if manifest.incomplete:
            answer["slices"]["failed"] = manifest.slices.failed
            answer["incomplete"] = True
        answer["seconds"] = round(manifest.seconds, 3)
        if manifest.simulation:
            answer["simulation"] = {"draws": manifest.draws, **manifest.simulation}
    return answer


def _print_run(workshop: Workshop, done: Run, options: Options) -> int:
    import pyarrow.parquet as pq

    answer = run_answer(workshop, done)
    code = 0 if done.state == "succeeded" else getattr(errors, done.error or "", HindscanError).exit_code
    if options.json:
        print_document(answer)
        return code
    if done.state != "succeeded":
        sys.stderr.write(f"{done.message or ''}\n".lstrip("\n"))
        sys.stderr.write(
            f"run {done.id} {done.state}. `hindscan show {done.id}` tells more; `hindscan retry {done.id}` tries again"
            f"{', with the code it has: an edited job is run anew' if done.error in _OF_THE_JOB else ''}.\n"
        )
        return code
    path = Path(answer["result"]["path"])
    print_arrow(pq.read_table(path))
    slices = answer["slices"]
    if answer.get("incomplete"):
        sys.stderr.write(
            f"INCOMPLETE: {slices['failed']} of {slices['total']} slices failed and are left out; the manifest has the coverage, snapshot.parquet the reasons. "
            "Running it again tries only them.\n"
        )
    if "simulation" in answer:
        sys.stderr.write(_drawn_line(answer["simulation"], len(done.request.points)))
    sys.stderr.write(
        f"run {done.id}: {human_count(answer['result']['rows'])} rows in {answer['seconds']:.2f} s; "
        f"{slices['computed']} of {slices['total']} slices computed, {slices['reused']} reused\n{path}\n"
    )
    return 0


def _drawn_line(simulation: Mapping[str, Any], points: int) -> str:
    """Say where a simulation stopped, and what ten times the precision would take; of a sweep for all of its points together."""
    more = simulation["ten_times"]
    seconds = "" if more["seconds"] is None else f", some {more['seconds']:,.1f} s"
    which = f"{points:,} points of up to " if points else ""
    return (
        f"{which}{simulation['draws']:,} draws, stopped by {simulation['stopped']['why']}; "
        f"ten times the precision would take {more['draws']:,}{seconds}\n"
    )


def check(
    job: str,
    /,
    *,
    parameters: Parameters = None,
    window: WindowOptions = WHOLE,
    history: Histories = None,
    options: Options = DEFAULTS,
) -> int:
    """Run a job cut in 1, 2 and 7 pieces and compare the results (floats to 1e-9): finds a combine that is wrong.

    Parameters
    ----------
    job : str
        Its name.
    parameters : list of str
        NAME=VALUE, any number of times.
    window : WindowOptions
        What part of the job's history is read.
    history : list of str
        NAME=OTHER reads another history in the place of one.
    """
    from hindscan.checking import check_job
    from hindscan.workshop import open_workshop

    project = options.load()
    with open_workshop(project) as workshop:
        spec, code = workshop.job(job)
        request = _typed(project, spec, parameters, history, window)
        found = check_job(project, spec, code, request)
    if options.json:
        print_document(
            {"job": job, "same": not found.differences, "cuts": found.rows, "differences": found.differences}
        )
    else:
        print_table(("pieces", "rows of the result"), list(found.rows.items()))
        for difference in found.differences:
            print(f"DIFFERENT: {difference}")
        print(
            "all the same"
            if not found.differences
            else "the result depends on how history is cut: mend combine or finish"
        )
    return 1 if found.differences else 0
