"""`import hindscan as hs`: submitting, listing and exploring from Python.

The same things as on the command line, as values. `hs.run` opens a run and hands it over: a `serve` on the same store takes it, or a process of its own, which survives a
notebook's kernel; user code never runs in the caller.

::

    hs.run(job, parameters), hs.runs() -> handle.RunHandle -> wait -> result -> pandas, Arrow, Polars, manifest
    hs.history(name).snapshot(as_of), hs.load_snapshot(file) -> explore.PinnedHistory -> sql, pandas, Arrow
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hindscan.config import Project
from hindscan.config_file import find_root, load_project
from hindscan.errors import UsageError
from hindscan.handle import RunHandle, RunList
from hindscan.words import asker

if TYPE_CHECKING:
    from hindscan.backtesting import PastEvent
    from hindscan.explore import PinnedHistory, Time
    from hindscan.history.window import Offsets
    from hindscan.jobs.declare import Job
    from hindscan.runs.run import State

__all__ = ["HistoryHandle", "events", "history", "load_snapshot", "run", "runs"]


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

    if not isinstance(parameters, Mapping | None):
        raise UsageError(f"Asking for a run: its parameters must be a mapping, value by name; found {parameters!r}.")
    loaded = _load(project)
    with open_workshop(loaded) as workshop:
        if isinstance(job, str):
            spec, code = workshop.job(job)
        else:
            from hindscan.jobs.code import bundle
            from hindscan.jobs.declare import Job

            if not isinstance(job, Job):
                raise UsageError(
                    f"Asking for a run: the job must be a name, or a function under @hs.job or @hs.simulation; found {job!r}."
                )
            spec, code = bundle(job, loaded.root)
        request = ask(
            loaded, spec, parameters or {},
            **window_values(
                as_of=as_of, since=since, until=until, last=last, offsets=offsets, partitions=partitions, keys=keys
            ),
            seed=seed, draws=draws, stop=stop, workers=workers,
            histories=dict(histories or {}), fresh=fresh, allow_failed=allow_failed, priority=priority,
            points=None if sweep is None else given_points(sweep),
        )  # fmt: skip
        digest = codes.save_code(workshop.store, spec, code)
        opened = opening.open_run(workshop.store, request, code=digest, requested_by=asker("python"))
    return RunHandle(loaded, opened.id, driver=hand_over(loaded, opened.id))


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

    Raises
    ------
    hindscan.errors.UsageError
        There is no such state.
    """
    from hindscan.runs.leases import release_expired
    from hindscan.runs.register import list_runs
    from hindscan.runs.store import open_store
    from hindscan.words import state_of

    loaded = _load(project)
    chosen = None if state is None else state_of(state)
    with open_store(loaded.store_url, loaded.root) as store:
        release_expired(store)
        return RunList(loaded, list_runs(store, job=job, state=chosen, limit=limit))


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
