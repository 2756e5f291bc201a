"""Carrying out one claimed run, from its request to its published result: where everything below meets.

Keeps promises 1, 4, 6, 9 and 11. The runner owns nothing but the claim: state is in the store, partials on disk, so that whoever claims the run after a crash
goes on where it stopped. It pins once and stores the pin before anything is read; executes the plan; publishes under the claim's token; moves the run. A
second thread keeps the lease alive and looks for a wish to cancel; a lost lease stops the work at once.

::

    Claimed -> code, snapshot (stored first) -> prepare -> execute -> publish -> move(succeeded | failed | cancelled)

Points of failure: `runner.claimed`, `runner.pinned`, `runner.planned`, `runner.executed`, `runner.moved`.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from hindscan import faults, times
from hindscan.errors import (
    CorruptPartial,
    Fenced,
    HindscanError,
    RunCancelled,
    SchedulerUnavailable,
    ServiceUnavailable,
    TimeLimitExceeded,
)
from hindscan.planning import pin, prepare, tolerance_of
from hindscan.progress import (
    Fact,
    Observer,
    Progressed,
    RunFinished,
    RunPlanned,
    SliceFailed,
    SliceFinished,
    StageFinished,
    TaskLost,
)
from hindscan.publication import publish_run, published_summary
from hindscan.rounds import carry_out_in_rounds, together
from hindscan.runs import codes, leases, log, register, snapshots
from hindscan.runs.run import Run, State
from hindscan.runs.settled import settle
from hindscan.workshop import kind_of_executor

if TYPE_CHECKING:
    from hindscan.history.snapshot import Snapshot
    from hindscan.jobs.job import Code, JobSpec
    from hindscan.planning import Prepared
    from hindscan.runs.leases import Claimed
    from hindscan.runs.store import Store
    from hindscan.tasks.execution import Executed
    from hindscan.workshop import Workshop

__all__ = ["LEASE_SECONDS", "carry_out"]

#: A run whose owner gave no sign of life for this long is given to another.
LEASE_SECONDS: Final = 8.0
#: How often the owner renews its lease and looks for a wish to cancel.
BEAT_SECONDS: Final = 0.5
#: How often progress goes to the log.
LOG_SECONDS: Final = 0.5
#: How often one attempt looks for a scheduler that it has lost, each time for some seconds, before the run fails (and can be retried).
SCHEDULER_LOSSES_MOST: Final = 4

_logger = logging.getLogger("hindscan.runner")


def carry_out(
    workshop: Workshop,
    claimed: Claimed,
    *,
    observe: Observer | None = None,
    shutdown: threading.Event | None = None,
) -> Run:
    """Work on a claimed run until it is in a final state, or back in the queue.

    Parameters
    ----------
    workshop : Workshop
        The open project.
    claimed : Claimed
        The run and the token.
    observe : callable, optional
        Hears every fact of the run.
    shutdown : threading.Event, optional
        When set the work is stopped and the run goes back to wait: whoever claims it next goes on from the stored partials.

    Returns
    -------
    Run
        As the store has it afterwards.

    Raises
    ------
    hindscan.errors.Fenced
        Another owner took the run over; nothing of it was changed.
    """
    faults.point("runner.claimed")
    store, run = workshop.store, claimed.run
    began = time.monotonic()
    with _Keeper(store, claimed, shutdown) as keeper, _Log(store, run.id, observe) as said:
        state, values, reason = _attempt(workshop, claimed, keeper, said)
        if keeper.why == "fenced":
            raise Fenced(
                f"Working on run {run.id}: its lease must be held; it was lost, so another owner has it.", run=run.id
            )
    wait = _wait(workshop, run, values["error"]) if state == "failed" else None
    if wait is not None:
        reason = f"{reason}; tried again in {wait / 1e6:.3g} s"
        moved = register.put_off(store, run, token=claimed.token, wait=wait, reason=reason, **values)
    else:
        moved = register.move(store, run.id, state, token=claimed.token, reason=reason, **values)
    faults.point("runner.moved")
    if observe is not None and moved.state != "pending":
        observe(RunFinished(run=run.id, state=moved.state, seconds=time.monotonic() - began))
    return moved


def _wait(workshop: Workshop, run: Run, error: str) -> int | None:
    """Tell how long a run that failed waits for its next try, as it or its job says; None: it stays failed."""
    retries = run.request.retries
    if retries is None:
        try:
            retries = _code_of(workshop, run)[0].retries
        except HindscanError:
            # Its code cannot be loaded, which is why it failed.
            return None
    return None if retries is None else retries.wait(run.id, run.failures + 1, error)


def _attempt(
    workshop: Workshop, claimed: Claimed, keeper: _Keeper, observe: Observer
) -> tuple[State, dict[str, Any], str]:
    """Try once; give the state to move to, with the values that go with it and the reason."""
    run = claimed.run
    try:
        folder = _work(workshop, claimed, keeper, observe)
        return "succeeded", {"result": folder, "summary": published_summary(workshop.project.root / folder)}, ""
    except RunCancelled as error:
        if keeper.why == "shutdown":
            return "pending", {}, "its dispatcher was stopped"
        if keeper.why == "time":
            late = TimeLimitExceeded(
                f"Working on run {run.id}: it must be done in {keeper.limit_seconds:g} s, the time limit of "
                f"{f'trigger {run.trigger}' if run.request.time_limit and run.trigger else f'job {run.job}'}. Raise time_limit, or retry: "
                "what is computed is kept."
            )
            return "failed", {"error": "TimeLimitExceeded", "message": str(late)}, str(late)
        return "cancelled", {"error": "RunCancelled", "message": str(error)}, "cancelled on request"
    except Fenced:
        raise
    except HindscanError as error:
        traceback = str(error.details.get("traceback") or "").strip()
        message = f"{traceback}\n\n{error}" if traceback and traceback not in str(error) else str(error)
        return "failed", {"error": type(error).__name__, "message": message}, type(error).__name__
    except Exception as error:
        # A bug of ours must end the run where people look for it, not hang it until its lease runs out.
        _logger.exception("run %s ended by an internal error", run.id)
        text = f"Internal error: {type(error).__name__}: {error}. Please report it with the log."
        return "failed", {"error": "InternalError", "message": text}, text


def _work(workshop: Workshop, claimed: Claimed, keeper: _Keeper, observe: Observer) -> str:
    """Do the work and publish it; give the folder of the result, relative to the project."""
    run, project = claimed.run, workshop.project
    started_at = times.now()
    spec, code = _code_of(workshop, run)
    keeper.limit(run.request.time_limit or spec.time_limit)
    snapshot = snapshots.load_snapshot(workshop.store, run.id)
    if snapshot is None:
        snapshot = snapshots.save_snapshot(workshop.store, run.id, pin(project, spec, run.request))
    faults.point("runner.pinned")
    request = run.request
    done: list[Executed] = []
    damaged: set[object] = set()
    while True:
        try:
            prepared, outcome = carry_out_in_rounds(
                spec,
                request,
                workshop.partials,
                lambda asked: _carried_out(
                    workshop, msgspec.structs.replace(run, request=asked), spec, code, snapshot, keeper, observe
                ),
                lambda settled: settle(workshop.store, run.id, claimed.token, settled),
            )
            done.append(outcome)
            now = register.get_run(workshop.store, run.id)  # with what was settled
            request = now.request
            faults.point("runner.executed")
            keeper.check()
            # The last look at the claim before the result can be seen; whoever lost it publishes nothing.
            leases.heartbeat(workshop.store, claimed, LEASE_SECONDS)
            return publish_run(workshop, now, prepared, together(prepared, done), started_at)
        except CorruptPartial as fault:
            # It is gone now, so that the next plan has it made.
            key = fault.details.get("key")
            if key in damaged:
                raise
            damaged.add(key)
            _logger.warning("run %s: %s", run.id, fault)


def _carried_out(
    workshop: Workshop, run: Run, spec: JobSpec, code: Code, snapshot: Snapshot, keeper: _Keeper, observe: Observer
) -> tuple[Prepared, Executed]:
    """Plan and execute; go on from what is stored where threads hinder each other, or a scheduler that did work is lost and comes back."""
    from hindscan.tasks.contention import Contended, Contention
    from hindscan.tasks.execution import execute

    project, partials = workshop.project, workshop.partials
    workers = run.request.workers or project.compute.workers
    losses, lent = 0, False
    while True:
        prepared = prepare(
            project,
            spec,
            run.request,
            snapshot,
            partials.has,
            proofs=partials.find_proof,
            paces=lambda: workshop.paces(run.job),
            workers=workers,
        )
        cost = prepared.cost
        observe(
            RunPlanned(
                run=run.id, slices=cost.slices, reused=cost.reused, tasks=cost.tasks, rows=cost.rows, bytes=cost.bytes
            )
        )
        faults.point("runner.planned")
        kind = kind_of_executor(project.compute, prepared, workers, contended=code.digest in workshop.contended)
        watched = kind == "threads" and workers > 1 and not prepared.plan.fresh
        try:
            with workshop.executor(kind, workers) as executor:
                lent = True
                return prepared, execute(
                    prepared.plan,
                    run=run.id,
                    code=code,
                    readers=prepared.readers,
                    partials=partials,
                    executor=executor,
                    observe=Contention(prepared.plan, workers, observe).hear if watched else observe,
                    stop=keeper.stop,
                    slices_per_task=project.compute.slices_per_task,
                    allow_failed=tolerance_of(project, spec, run.request),
                    paces=prepared.paces,
                )
        except Contended:
            workshop.contended.add(code.digest)
            _logger.info("run %s: its threads wait for each other; going on in processes", run.id)
        except SchedulerUnavailable:
            losses += 1
            # One that never answered is an address that is wrong: its user hears so at once.
            if not lent or losses > SCHEDULER_LOSSES_MOST or keeper.stop.wait(losses):
                raise
            _logger.warning("run %s: the scheduler is gone; trying to reach it again", run.id)


def _code_of(workshop: Workshop, run: Run) -> tuple[JobSpec, Code]:
    """Give the code the run was opened with; a run opened without one gets the project's of now."""
    if run.code:
        return codes.load_code(workshop.store, run.code, run.job)
    return workshop.job(run.job)


class _Keeper:
    """Keeps the lease of a run alive while it is worked on, and sets `stop` when the work must end."""

    def __init__(self, store: Store, claimed: Claimed, shutdown: threading.Event | None) -> None:
        self._store, self._claimed, self._shutdown = store, claimed, shutdown
        self._done = threading.Event()
        self._ends: float | None = None
        self._thread = threading.Thread(target=self._beat, name=f"keeper-{claimed.run.id}", daemon=True)
        #: Set when the work must end.
        self.stop = threading.Event()
        #: Why: "cancelled", "fenced", "shutdown" or "time".
        self.why = ""
        self.limit_seconds = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def limit(self, seconds: float | None) -> None:
        """End the work after so many seconds."""
        if seconds is not None:
            self.limit_seconds = seconds
            self._ends = time.monotonic() + seconds

    def check(self) -> None:
        """Refuse to go on if the work must end.

        Raises
        ------
        hindscan.errors.RunCancelled
            It must.
        """
        if self.stop.is_set():
            raise RunCancelled(
                f"Working on run {self._claimed.run.id}: it was stopped ({self.why}).", run=self._claimed.run.id
            )

    def _end(self, why: str) -> None:
        if not self.why:
            self.why = why
        self.stop.set()

    def _beat(self) -> None:
        renewed = time.monotonic()
        while not self._done.wait(BEAT_SECONDS / 5 if self._ends or self._shutdown else BEAT_SECONDS):
            if self._shutdown is not None and self._shutdown.is_set():
                self._end("shutdown")
            if self._ends is not None and time.monotonic() > self._ends:
                self._end("time")
            if time.monotonic() - renewed < BEAT_SECONDS:
                continue
            try:
                if leases.heartbeat(self._store, self._claimed, LEASE_SECONDS):
                    self._end("cancelled")
                renewed = time.monotonic()
            except Fenced:
                self._end("fenced")
                return
            except ServiceUnavailable:
                # The store may come back before the lease ends; after that somebody else may have the run.
                _logger.warning("run %s: the store does not answer", self._claimed.run.id)
                if time.monotonic() - renewed > LEASE_SECONDS:
                    self._end("fenced")
                    return


class _Log:
    """Sends facts to the observer as they come, and to the log of the run in few rows."""

    #: Facts that are logged one by one; finished slices are counted.
    _KEPT = (RunPlanned, SliceFailed, StageFinished, TaskLost)

    def __init__(self, store: Store, run: str, observe: Observer | None) -> None:
        self._store, self._run, self._observe = store, run, observe
        self._waiting: list[Fact] = []
        self._stage, self._done, self._rows = "", 0, 0
        self._counted = False
        self._written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()

    def __call__(self, fact: Fact) -> None:
        """Take one fact."""
        if self._observe is not None:
            self._observe(fact)
        if isinstance(fact, SliceFinished):
            self._stage, self._done, self._rows = fact.stage, self._done + 1, self._rows + fact.rows
            self._counted = True
        elif isinstance(fact, self._KEPT):
            self._waiting.append(fact)
        if isinstance(fact, RunPlanned) or time.monotonic() - self._written > LOG_SECONDS:
            self._write()

    def _write(self) -> None:
        if self._counted:
            self._waiting.append(Progressed(run=self._run, stage=self._stage, done=self._done, rows=self._rows))
            self._counted = False
        if self._waiting:
            log.log_facts(self._store, self._waiting)
            self._waiting = []
        self._written = time.monotonic()
