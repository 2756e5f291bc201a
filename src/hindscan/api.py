"""`import hindscan as hs`: submitting, following and exploring from Python.

The same things as on the command line, as values. `hs.run` opens a run and hands it over: a `serve` on the same store takes it, or a process of its own, which survives a
notebook's kernel; user code never runs in the caller. A handle holds nothing but the run's id: every look is at the store, so that it is the same from any process.

::

    hs.run(job, parameters) -> RunHandle -> wait -> result -> pandas, Arrow, Polars, manifest
    hs.history(name).snapshot(as_of), hs.load_snapshot(file) -> explore.PinnedHistory -> sql, pandas, Arrow
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hindscan.config import Project
from hindscan.config_file import find_root, load_project
from hindscan.errors import ExecutionError, NotFound
from hindscan.runs.run import FINAL, Run, State
from hindscan.words import asker

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from hindscan.anytime import PartialResult
    from hindscan.backtesting import PastEvent
    from hindscan.explore import PinnedHistory, Time
    from hindscan.history.window import Offsets
    from hindscan.jobs.declare import Job
    from hindscan.plans.plan import Plan
    from hindscan.runs.results import Manifest
    from hindscan.workshop import Workshop

__all__ = ["HistoryHandle", "Result", "RunHandle", "RunList", "events", "history", "load_snapshot", "run", "runs"]


def run(
    job: str | Job,
    parameters: Mapping[str, Any] | None = None,
    *,
    as_of: Time | None = None,
    since: Time | None = None,
    until: Time | None = None,
    last: str | timedelta | None = None,
    offsets: Offsets | None = None,
    partitions: Sequence[int] | None = None,
    keys: Sequence[str | bytes] | None = None,
    seed: int | None = None,
    draws: int | None = None,
    stop: Mapping[str, Any] | None = None,
    workers: int | None = None,
    priority: int = 0,
    histories: Mapping[str, str] | None = None,
    fresh: bool = False,
    allow_failed: float | None = None,
    sweep: Mapping[str, Iterable[Any]] | Sequence[Mapping[str, Any]] | None = None,
    project: str | os.PathLike[str] | None = None,
) -> RunHandle:
    """Start a run and come back at once.

    Parameters
    ----------
    job : str or Job
        A name in the project's `jobs/`, or a job defined here: in a notebook cell or a script.
    parameters : mapping, optional
        By name.
    as_of, since, until : str, date or datetime, optional
        Bounds on the time of the rows; without an offset UTC.
    last : str or timedelta, optional
        Rows of this long before `as_of`, else before now: ``"7d"``.
    offsets, partitions, keys : optional
        What is read of a topic; see `HistoryHandle.snapshot`.
    seed, draws : int, optional
        Of a simulation.
    stop : mapping, optional
        Draw until intervals are narrow enough: ``{"price": {"half_width": 0.01}}`` or ``{"relative": 0.01}``, with ``confidence``; and ``max_draws`` and
        ``max_seconds`` beside the names. `draws` are then the most there may be.
    workers : int, optional
        How many; never shows in the result.
    priority : int
        Of the runs that may start those of a higher one do first.
    histories : mapping, optional
        Other histories for the job's tables, by name.
    fresh : bool
        Compute everything, reuse nothing.
    allow_failed : int or float, optional
        Slices that may fail for good and are then left out of the result: a share of all (0.01) or a number. Default: the job's.
    sweep : mapping or sequence of mappings, optional
        Values of parameters, every combination of which is a point; or the points themselves. One run, whose result has the swept parameters as leading columns.
    project : path, optional
        Folder of the project file. Default: the nearest upwards.

    Raises
    ------
    hindscan.errors.UsageError
        The job, a parameter or an option is wrong; nothing was started.
    """
    from hindscan.driver import hand_over
    from hindscan.explore import window_values
    from hindscan.planning import ask
    from hindscan.runs import codes, opening
    from hindscan.sweeping import given_points
    from hindscan.workshop import open_workshop

    loaded = _load(project)
    with open_workshop(loaded) as workshop:
        if isinstance(job, str):
            spec, code = workshop.job(job)
        else:
            from hindscan.jobs.code import bundle

            spec, code = bundle(job, loaded.root)
        request = ask(
            loaded, spec, parameters or {},
            **window_values(
                as_of=as_of, since=since, until=until, last=last, offsets=offsets, partitions=partitions, keys=keys
            ),
            seed=seed, draws=draws, stop=None if stop is None else dict(stop), workers=workers,
            histories=dict(histories or {}), fresh=fresh, allow_failed=allow_failed, priority=priority,
            points=None if sweep is None else given_points(sweep),
        )  # fmt: skip
        digest = codes.save_code(workshop.store, spec, code)
        opened = opening.open_run(workshop.store, request, code=digest, requested_by=asker("python"))
    hand_over(loaded, opened.id)
    return RunHandle(loaded, opened.id)


def runs(
    job: str | None = None,
    *,
    state: State | None = None,
    limit: int = 100,
    project: str | os.PathLike[str] | None = None,
) -> RunList:
    """List runs, newest first.

    Parameters
    ----------
    job : str, optional
        Only this job's.
    state : str, optional
        Only those in this state.
    limit : int
        How many at most.
    project : path, optional
        Folder of the project file. Default: the nearest upwards.
    """
    from hindscan.runs.register import list_runs
    from hindscan.runs.store import open_store

    loaded = _load(project)
    with open_store(loaded.store_url, loaded.root) as store:
        return RunList(loaded, list_runs(store, job=job, state=state, limit=limit))


def events(*arguments: Any, **options: Any) -> list[PastEvent]:
    """Give past events, oldest first; see `backtesting.events`."""
    from hindscan import backtesting

    return backtesting.events(*arguments, **options)


def history(name: str, *, project: str | os.PathLike[str] | None = None) -> HistoryHandle:
    """Look up a declared history; nothing is opened.

    Raises
    ------
    hindscan.errors.NotFound
        There is none of that name.
    """
    loaded = _load(project)
    loaded.history(name)
    return HistoryHandle(loaded, name)


class RunHandle:
    """One run, by its id. Made by `run` and `runs`."""

    def __init__(self, project: Project, id: str) -> None:
        self._project = project
        self.id = id

    def __repr__(self) -> str:
        found = self._run()
        return f"<run {self.id} of {found.job}: {found.state}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
            for name, value in self.describe().items()
            if value not in (None, "", {}, [])
        )
        return f"<table>{rows}</table>"

    @property
    def state(self) -> State:
        """Where it is: pending, running, succeeded, failed or cancelled."""
        return self._run().state

    def describe(self) -> dict[str, Any]:
        """Tell all the store knows of it, as `hindscan show --json` does."""
        from hindscan.words import run_document

        return run_document(self._run())

    def wait(self, timeout: float | None = None, *, progress: bool = True) -> RunHandle:
        """Wait until it is final.

        Parameters
        ----------
        timeout : float, optional
            Seconds. Default: for ever.
        progress : bool
            Show it on standard error.

        Raises
        ------
        TimeoutError
            It is not final yet; it goes on.
        hindscan.errors.ExecutionError
            It failed or was cancelled; the message is the run's own, the user's traceback first.
        """
        from hindscan.cli.output import Progress
        from hindscan.driver import follow

        with self._workshop() as workshop, Progress(quiet=not progress) as shown:
            found = follow(workshop, self.id, observe=shown, seconds=timeout)
        if found.state not in FINAL:
            raise TimeoutError(f"run {self.id} is {found.state} after {timeout:g} s")
        if found.state != "succeeded":
            raise ExecutionError(f"{found.message or ''}\nrun {self.id} {found.state}".lstrip("\n"), run=self.id)
        return self

    def cancel(self) -> None:
        """Ask for it to be stopped; the work on its workers ends within seconds."""
        from hindscan.runs.register import request_cancel

        with self._workshop() as workshop:
            request_cancel(workshop.store, self.id)

    def retry(self) -> RunHandle:
        """Try again what failed or is missing, on the same snapshot."""
        from hindscan.driver import hand_over
        from hindscan.runs import register

        with self._workshop() as workshop:
            register.retry(workshop.store, self.id)
        hand_over(self._project, self.id)
        return self

    def rerun(
        self,
        parameters: Mapping[str, Any] | None = None,
        *,
        latest: bool = False,
        slices: Sequence[int] = (),
        workers: int | None = None,
        fresh: bool | None = None,
    ) -> RunHandle:
        """Start a new run that does this one's work again, with the same or edited parameters; only what is not there is computed.

        Parameters
        ----------
        parameters : mapping, optional
            Those that are to be different.
        latest : bool
            Pin the histories anew instead of reading what this run has read.
        slices : sequence of int
            Positions of slices that are computed although their partials exist, with all that is made of them.
        workers : int, optional
            How many.
        fresh : bool, optional
            Compute everything anew.

        Raises
        ------
        hindscan.errors.UsageError
            A parameter is wrong; nothing was started.
        hindscan.errors.Conflict
            This run never got as far as a snapshot.
        """
        from hindscan.driver import hand_over
        from hindscan.rerunning import rerun

        with self._workshop() as workshop:
            opened = rerun(
                self._project, workshop.store, self.id, parameters=parameters, latest=latest, slices=slices,
                requested_by=asker("python"), workers=workers, fresh=fresh,
            )  # fmt: skip
        hand_over(self._project, opened.id)
        return RunHandle(self._project, opened.id)

    def extend(self, *, draws: int) -> RunHandle:
        """Start a new run of this simulation with more draws: the same seed and snapshot, so only what is new is computed.

        Raises
        ------
        hindscan.errors.UsageError
            It is no finished simulation, or has as many draws already.
        """
        from hindscan.driver import hand_over
        from hindscan.rerunning import extend

        manifest = self.result.manifest
        with self._workshop() as workshop:
            opened = extend(
                workshop.store,
                self.id,
                draws=draws,
                seed=manifest.seed,
                drawn=manifest.draws,
                requested_by=asker("python"),
            )
        hand_over(self._project, opened.id)
        return RunHandle(self._project, opened.id)

    @property
    def plan(self) -> Plan:
        """The plan over the run's snapshot, with what could be reused now.

        Raises
        ------
        hindscan.errors.NotFound
            Nothing was pinned yet.
        """
        from hindscan.planning import prepare
        from hindscan.runs import codes, snapshots

        found = self._run()
        with self._workshop() as workshop:
            snapshot = snapshots.load_snapshot(workshop.store, self.id)
            if snapshot is None:
                raise NotFound(f"Looking up the plan of run {self.id}: its histories must be pinned; they are not yet.")
            spec, _ = codes.load_code(workshop.store, found.code, found.job)
            return prepare(
                self._project,
                spec,
                found.request,
                snapshot,
                workshop.partials.has,
                proofs=workshop.partials.find_proof,
                workers=self._project.compute.workers,
            ).plan

    @property
    def result(self) -> Result:
        """The published result.

        Raises
        ------
        hindscan.errors.NotFound
            There is none (yet).
        """
        from hindscan.runs import register

        found = self._run()
        register.refuse_forgotten(found, "Looking up the result of")
        if found.result is None:
            raise NotFound(
                f"Looking up the result of run {self.id}: it must have succeeded; it is {found.state}. {found.message or 'Wait for it: run.wait().'}",
                run=self.id,
            )
        return Result(self._project.root / found.result)

    def partial(self) -> PartialResult:
        """Combine what is done so far, in a process of its own: while the run goes on, and after a failure or a cancel.

        Returns
        -------
        PartialResult
            The table, which says of itself that it is incomplete, and its coverage by partition or file. Nothing is published.

        Raises
        ------
        hindscan.errors.NotFound
            Nothing is done yet.
        """
        from hindscan.anytime import partial_result

        with self._workshop() as workshop:
            return partial_result(self._project, workshop.store, workshop.partials, self.id)

    @contextmanager
    def _workshop(self) -> Iterator[Workshop]:
        from hindscan.workshop import open_workshop

        with open_workshop(self._project) as workshop:
            yield workshop

    def _run(self) -> Run:
        from hindscan.runs.register import get_run

        with self._workshop() as workshop:
            return get_run(workshop.store, self.id)


class RunList(Sequence[RunHandle]):
    """Runs, newest first; made by `runs`."""

    def __init__(self, project: Project, found: Sequence[Run]) -> None:
        self._project, self._found = project, found

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return RunList(self._project, self._found[index])
        return RunHandle(self._project, self._found[index].id)

    def __repr__(self) -> str:
        return "\n".join(f"{found.id}  {found.job}  {found.state}" for found in self._found) or "no runs"

    def to_pandas(self) -> pd.DataFrame:
        """Give one row per run."""
        import pandas as pd

        from hindscan.words import run_document

        return pd.DataFrame([run_document(found) for found in self._found])


class Result:
    """The table a run published, and its manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: The table's file.
        self.path = folder / "result.parquet"

    def __repr__(self) -> str:
        manifest = self.manifest
        return f"<result of {manifest.job}: {manifest.result.rows} rows in {self.path}>"

    @property
    def manifest(self) -> Manifest:
        """How the result came about."""
        from hindscan.runs.results import read_manifest

        return read_manifest(self.folder)

    def to_arrow(self) -> pa.Table:
        """Give the table as Arrow."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path)

    def to_pandas(self) -> pd.DataFrame:
        """Give the table as a pandas data frame."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_polars(self) -> pl.DataFrame:
        """Give the table as a Polars data frame."""
        import polars as pl

        return pl.read_parquet(self.path)


class HistoryHandle:
    """A declared history; made by `history`."""

    def __init__(self, project: Project, name: str) -> None:
        self._project, self.name = project, name

    def __repr__(self) -> str:
        return f"<history {self.name}>"

    def snapshot(
        self,
        *,
        as_of: Time | None = None,
        since: Time | None = None,
        until: Time | None = None,
        last: str | timedelta | None = None,
        offsets: Offsets | None = None,
        partitions: Sequence[int] | None = None,
        keys: Sequence[str | bytes] | None = None,
    ) -> PinnedHistory:
        """Pin it: reads metadata, no rows (of a topic without a declared schema a sample).

        Parameters
        ----------
        as_of, since, until : str, date or datetime, optional
            Bounds on the time of the rows; without an offset UTC.
        last : str or timedelta, optional
            Rows of this long before `as_of`, else before now: ``"7d"``.
        offsets : mapping, optional
            Of a topic: `[start, end)` by partition, and nothing else of it; None is where the log begins or ends.
        partitions : sequence of int, optional
            Of a topic: the only partitions.
        keys : sequence of str or bytes, optional
            Of a topic: only records with one of these keys.
        """
        from hindscan.explore import PinnedHistory, window_values
        from hindscan.history.window import make_window
        from hindscan.pinned import pin_history

        asked = window_values(
            as_of=as_of, since=since, until=until, last=last, offsets=offsets, partitions=partitions, keys=keys
        )
        window = make_window(**asked, doing=f"Asking for a snapshot of {self.name}")
        return PinnedHistory(self._project, pin_history(self._project, self.name, window))


def load_snapshot(file: str | os.PathLike[str], *, project: str | os.PathLike[str] | None = None) -> PinnedHistory:
    """Take up a snapshot that was saved: the same rows, or an error by name.

    Raises
    ------
    hindscan.errors.UsageError
        The file is none.
    """
    from hindscan.explore import PinnedHistory
    from hindscan.pinned import load_pinned

    loaded = _load(project)
    return PinnedHistory(loaded, load_pinned(loaded, Path(file)))


def _load(project: str | os.PathLike[str] | None) -> Project:
    return load_project(find_root() if project is None else Path(project))
