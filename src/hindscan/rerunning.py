"""Running a run again: the same work, or part of it edited, as a new run that is linked to the first.

Keeps promise 1: a rerun reads exactly what the run read, its own stored snapshot, unless the latest data is asked for; then every bound is resolved anew,
as the request has it. The code is the run's own too: what was edited since is `hindscan run`. Nothing is computed that is there already, but for slices
that are named: these, and all that is made of them, are computed again. Every way in (command line, Python, HTTP) comes here.

::

    Run -> request, code, snapshot + edits -> rerun -> Run(pending, parent), which whoever asked drives or hands over
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from hindscan.errors import Conflict, UsageError
from hindscan.planning import ask, check_most, make
from hindscan.runs import codes, opening, register, snapshots

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.jobs.job import JobSpec
    from hindscan.runs.run import Run, RunRequest
    from hindscan.runs.store import Store

__all__ = ["extend", "rerun"]

#: Options that say what is read: a stored snapshot has answered them.
_READ: Final = ("as_of", "since", "until", "last", "offsets", "partitions", "keys", "histories")


def rerun(
    project: Project,
    store: Store,
    run: str,
    *,
    parameters: Mapping[str, object] | None = None,
    from_text: bool = False,
    latest: bool = False,
    slices: Sequence[int] = (),
    requested_by: str,
    **options: object,
) -> Run:
    """Open a run that does a run's work again.

    Parameters
    ----------
    run : str
        Id of the first one, in whatever state it is.
    parameters : mapping, optional
        Those that are to be different.
    from_text : bool
        Their values are texts.
    latest : bool
        Pin the histories anew instead of reading what the run has read.
    slices : sequence of int
        Positions of slices that are computed although their partials exist.
    requested_by : str
        "cli:USER", "python:USER", "http:ADDRESS".
    **options : object
        Options of the run that are to be different; None is left out. What is read can only be changed with `latest`.

    Returns
    -------
    Run
        It waits, and names the first as its parent.

    Raises
    ------
    hindscan.errors.NotFound
        There is no such run.
    hindscan.errors.Gone
        What it was asked for was forgotten.
    hindscan.errors.Conflict
        It never got as far as a snapshot.
    hindscan.errors.UsageError
        A parameter or an option is wrong; nothing was opened.
    """
    original = register.get_run(store, run)
    register.refuse_forgotten(original, "Running again")
    given = {name: value for name, value in options.items() if value is not None}
    read = [name for name in given if name in _READ]
    if read and not latest:
        raise UsageError(
            f"Running {run} again: it reads the snapshot the run has, and {', '.join(read)} would choose other data. Ask for the latest data with "
            "them (--latest), or leave them out.",
            run=run,
        )
    spec, _ = codes.load_code(store, original.code, original.job)
    snapshot = None
    if not latest:
        snapshot = snapshots.load_snapshot(store, run)
        if snapshot is None:
            raise Conflict(
                f"Running {run} again: it must have a snapshot, and it never got so far. Use retry, or ask for the latest data (--latest).",
                run=run,
            )
    first = original.request
    if parameters or latest or "stop" in given or "draws" in given:
        first = msgspec.structs.replace(first, settled=None)  # other numbers stop elsewhere
    request = _request(project, spec, first, parameters or {}, from_text, {"anew": tuple(slices), **given})
    if slices and snapshot is not None:
        make(project, spec, request, snapshot, ())  # a slice that is not there is refused before there is a run
    return opening.open_run(
        store, request, code=original.code, requested_by=requested_by, parent=run, snapshot=snapshot
    )


def extend(project: Project, store: Store, run: str, *, draws: int, seed: str, drawn: int, requested_by: str) -> Run:
    """Open a run of the same simulation with more draws: the same seed, snapshot and code, so only what is new is computed.

    Parameters
    ----------
    run : str
        Id of the first one, which has a result.
    draws : int
        In all.
    seed : str
        Of the first run, as its manifest has it.
    drawn : int
        Draws of the first run, as its manifest has them.
    requested_by : str
        "cli", "api" or "http".

    Raises
    ------
    hindscan.errors.UsageError
        It is no simulation, or has as many draws already.
    hindscan.errors.PlanRefused
        More draws than a plan may have slices for.
    """
    original = register.get_run(store, run)
    if not drawn:
        raise UsageError(f"Extending run {run}: it must be a simulation; {original.job} draws nothing. Extend another.")
    if draws <= drawn:
        raise UsageError(f"Extending run {run}: it must get more draws than its {drawn:,}; asked for {draws:,}.")
    spec, _ = codes.load_code(store, original.code, original.job)
    request = msgspec.structs.replace(original.request, draws=draws, seed=int(seed), stop=None, settled=None)
    check_most(project, spec, request)
    return opening.open_run(
        store, request, code=original.code, requested_by=requested_by, parent=run,
        snapshot=snapshots.load_snapshot(store, run),
    )  # fmt: skip


def _request(
    project: Project,
    spec: JobSpec,
    original: RunRequest,
    parameters: Mapping[str, object],
    from_text: bool,
    options: Mapping[str, object],
) -> RunRequest:
    """Make the request of a run another, with edits."""
    from hindscan.jobs.parameters import validate

    if from_text:
        # The others are values already. A name that is none of the job's is told with all that are.
        edited = (
            [p for p in spec.parameters if p.name in parameters]
            if parameters.keys() <= {p.name for p in spec.parameters}
            else spec.parameters
        )
        parameters = validate(edited, parameters, from_text=True)
    # What is empty was not asked for; that slices were computed anew, or all of them, is no part of what is done again.
    asked = {
        name: value
        for name, value in msgspec.structs.asdict(original).items()
        if name not in ("job", "parameters", "fresh", "anew") and value not in (None, {}, ())
    }
    return ask(project, spec, {**original.parameters, **parameters}, **{**asked, **options})
