"""What it takes to work on runs of one project: its store, partials, jobs and executors, opened together and closed together.

Every way in (command line, Python, dispatcher) opens one. Jobs are loaded when first asked for: in this process where the user's own command does it,
in a child process where `serve` must never run user code (promise 12). Executors are kept warm between runs of the same kind.

::

    Project -> open_workshop -> Workshop -> jobs -> runner
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import threading
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Self

from hindscan.errors import NotFound
from hindscan.runs.partials import Partials
from hindscan.runs.store import Store, open_store

if TYPE_CHECKING:
    from types import TracebackType

    from hindscan.config import ComputeSettings, Project
    from hindscan.jobs.job import Code, JobSpec
    from hindscan.jobs.registry import Registered
    from hindscan.planning import Prepared
    from hindscan.plans.pace import Pace
    from hindscan.plans.plan import Stage
    from hindscan.tasks.executor import Executor

__all__ = ["Workshop", "kind_of_executor", "open_workshop"]

#: Below this many uncompressed bytes to read, threads of one child process are done before worker processes have started.
SMALL_BYTES: Final = 512 * 2**20
#: The same for records of a topic: decoding holds the interpreter's lock, so threads do not help it.
SMALL_RECORDS: Final = 400_000
#: Up to so many threads ask statements of SQL beside each other without the interpreter's lock being felt: each holds it for a tenth of its time.
LOCK_FREE_WORKERS: Final = 4
#: How long it is believed what slices of a job took: they are looked up in results, which takes longer than the plan of a small run.
PACE_SECONDS: Final = 10.0


def kind_of_executor(compute: ComputeSettings, prepared: Prepared, workers: int, *, contended: bool = False) -> str:
    """Decide what works on a plan: "threads", "processes" or the address of a scheduler. Never shows in a result.

    Parameters
    ----------
    workers : int
        How many tasks are to be worked on at the same time.
    contended : bool
        Threads were seen to hinder each other over this job's steps.
    """
    if compute.dask != "local":
        return compute.dask
    if contended:
        return "processes"
    from hindscan.history.snapshot import KafkaSlice

    records = sum(
        s.rows
        for stage in prepared.plan.stages
        for s in stage.slices
        if isinstance(s, KafkaSlice) and s.position not in stage.reused
    )
    if prepared.cost.bytes_to_read <= SMALL_BYTES and records <= SMALL_RECORDS:
        return "threads"
    lock_free = workers <= LOCK_FREE_WORKERS and all(_is_lock_free(prepared, each) for each in prepared.plan.stages)
    return "threads" if lock_free else "processes"


def _is_lock_free(prepared: Prepared, stage: Stage) -> bool:
    """Tell whether threads get on with a stage beside each other: nothing but statements of SQL, over files or over topics that compiled loops read."""
    from hindscan.history.snapshot import KafkaSlice, ParquetSlice

    job = prepared.plan.job_of(stage)
    if not all(step.is_sql for step in job.steps.values()):
        return False
    slices = [s for s in stage.slices if isinstance(s, KafkaSlice)]
    if not slices:
        return all(isinstance(s, ParquetSlice) for s in stage.slices)
    from hindscan.history.kafka_reader import KafkaReader

    reader = prepared.readers[stage.table or ""]
    return not job.tables and isinstance(reader, KafkaReader) and reader.is_lock_free(slices)


class Workshop:
    """An open project. A context manager; safe to share between threads but for its executors, which have one user at a time."""

    def __init__(self, project: Project, store: Store, *, jobs_in_child: bool) -> None:
        self.project = project
        self.store = store
        self.partials = Partials(project.artefacts)
        self._jobs_in_child = jobs_in_child
        self._registered: Registered | None = None
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, int], list[Executor]] = {}
        self._paces: dict[str, tuple[float, dict[str, Pace]]] = {}
        #: Digests of the code of jobs whose steps hold the interpreter's lock, as was seen.
        self.contended: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End idle executors and close the store."""
        with self._lock:
            idle = [executor for kept in self._idle.values() for executor in kept]
            self._idle.clear()
        for executor in idle:
            executor.__exit__(None, None, None)
        self.store.close()

    @property
    def registered(self) -> Registered:
        """The project's jobs, loaded when first asked for."""
        from hindscan.jobs import registry

        with self._lock:
            if self._registered is None:
                load = registry.load_folder_in_child if self._jobs_in_child else registry.load_folder
                self._registered = load(self.project.root, self.project.root / self.project.jobs.folder)
            return self._registered

    def take_up(self, project: Project) -> None:
        """Work on what begins from now on as a changed project says; the store and the partials stay."""
        self.project = project

    def job(self, name: str) -> tuple[JobSpec, Code]:
        """Look up a job of the project.

        Raises
        ------
        hindscan.errors.NotFound
            No such job; the message names the nearest, and the files that could not be loaded.
        """
        if self._registered is None and not self._jobs_in_child:
            from hindscan.jobs.registry import load_job

            alone = load_job(self.project.root, self.project.root / self.project.jobs.folder, name)
            if alone is not None:
                return alone
        jobs, broken = self.registered.jobs, self.registered.faults
        if name in jobs:
            return jobs[name]
        own = [fault for fault in broken if PurePosixPath(fault.file).stem == name]
        if own:
            raise NotFound(
                f"Looking up job {name!r}: its file must be one that can be loaded. {own[0].message}",
                job=name,
                file=own[0].file,
            )
        near = difflib.get_close_matches(name, jobs, 1)
        hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(sorted(jobs)) or 'none'}."
        # First: a job that is not there is most often one that could not be loaded.
        files = "; ".join(f"{fault.file}: {fault.message}" for fault in broken)
        lost = f" Not loaded: {files}" if broken else ""
        raise NotFound(
            f"Looking up job {name!r}: it must be in {self.project.jobs.folder}/; it is not.{lost}{hint}", job=name
        )

    def paces(self, job: str) -> dict[str, Pace]:
        """Tell what slices of a job took in its last runs, by step."""
        from hindscan.runs.paces import learnt_paces

        learnt = self._paces.get(job)
        if learnt is None or time.monotonic() - learnt[0] > PACE_SECONDS:
            learnt = self._paces[job] = (time.monotonic(), learnt_paces(self.store, self.project.root, job))
        return copy.deepcopy(learnt[1])  # each run goes on learning for itself

    def warm(self, kind: str, workers: int) -> None:
        """Start an executor before it is asked for: it imports while the caller still plans."""
        self.keep(kind, workers, self._start(kind, workers))

    def keep(self, kind: str, workers: int, executor: Executor) -> None:
        """Take over an executor that was started by somebody else, or is idle again."""
        with self._lock:
            self._idle.setdefault((kind, workers), []).append(executor)

    @contextlib.contextmanager
    def executor(self, kind: str, workers: int) -> Iterator[Executor]:
        """Lend an executor, warm if there is one; one that failed its user is ended, not lent again."""
        with self._lock:
            kept = self._idle.get((kind, workers))
            executor = kept.pop() if kept else None
        if executor is None:
            executor = self._start(kind, workers)
        try:
            yield executor
        except BaseException:
            executor.__exit__(None, None, None)
            raise
        self.keep(kind, workers, executor)

    def _start(self, kind: str, workers: int) -> Executor:
        from hindscan.tasks.starting import start_executor

        return start_executor(kind, workers, self.project.compute.memory)


def open_workshop(project: Project, *, jobs_in_child: bool = False) -> Workshop:
    """Open what a project's runs need.

    Parameters
    ----------
    jobs_in_child : bool
        Load job files in a child process: user code never runs in this one.
    """
    return Workshop(project, open_store(project.store_url, project.root), jobs_in_child=jobs_in_child)
