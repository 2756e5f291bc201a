"""Commands about runs that are there: `runs`, `show`, `cancel`, `retry`, `result`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from hindscan.cli.options import DEFAULTS, Count, Options
from hindscan.cli.output import print_arrow, print_document, print_table, writing_to
from hindscan.errors import NotFound, UsageError

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.runs.run import Run
    from hindscan.runs.waiting import Waiting

__all__ = ["cancel", "result", "retry", "runs", "show"]


def runs(*, job: str | None = None, state: str | None = None, limit: Count = 20, options: Options = DEFAULTS) -> None:
    """List runs, newest first.

    Parameters
    ----------
    job : str
        Only this job's.
    state : str
        Only those in this state: pending, running, succeeded, failed, cancelled.
    limit : int
        How many.
    """
    from hindscan import times
    from hindscan.runs.leases import release_expired
    from hindscan.runs.register import list_runs
    from hindscan.runs.store import open_store
    from hindscan.runs.waiting import why_waiting
    from hindscan.words import run_document, state_of

    project = options.load()
    with open_store(project.store_url, project.root) as store:
        release_expired(store)  # what is shown as running is
        found = list_runs(store, job=job, state=state_of(state) if state else None, limit=limit)
        waiting = {run.id: why_waiting(store, run) for run in found}
    if options.json:
        print_document({"runs": [run_document(run, waiting[run.id]) for run in found]})
        return
    print_table(
        ("run", "job", "state", "asked by", "created", "message"),
        [
            (
                run.id,
                run.job,
                run.state,
                run.requested_by,
                times.to_text(run.created_at)[:19],
                _remark(run, waiting[run.id]),
            )
            for run in found
        ],
    )


def _remark(run: Run, waiting: Waiting | None) -> str:
    """Say in one line why a run waits or what became of it."""
    if waiting is not None:
        return f"waits: {waiting.reason}{f' ({waiting.run})' if waiting.run else ''}"
    from hindscan.words import headline

    return headline(run.message)[:100]


def show(run: str, /, *, options: Options = DEFAULTS) -> None:
    """Show one run: its states, what was asked for, its result.

    Parameters
    ----------
    run : str
        Its id.
    """
    from hindscan import times
    from hindscan.runs.leases import release_expired
    from hindscan.runs.log import facts
    from hindscan.runs.register import get_run
    from hindscan.runs.store import open_store
    from hindscan.runs.waiting import why_waiting
    from hindscan.words import facts_document, run_document

    project = options.load()
    with open_store(project.store_url, project.root) as store:
        release_expired(store)
        found = get_run(store, run)
        document = run_document(found, why_waiting(store, found))
        logged = facts(store, run)
    if options.json:
        print_document(
            {
                **document,
                "facts": facts_document(logged),
            }
        )
        return
    print_table(("", ""), [(name, value) for name, value in document.items() if value not in (None, "", {}, [])])
    print()
    print_table(("at", "what"), [(times.to_text(f.at)[:23], _told(f.fact)) for f in logged])


def _told(fact: Any) -> str:
    import msgspec

    said = {
        name: value
        for name, value in msgspec.to_builtins(fact).items()
        if name not in ("fact", "run", "at") and value != ""
    }
    return f"{type(fact).__name__}: " + ", ".join(f"{name} {value}" for name, value in said.items())


def cancel(run: str, /, *, options: Options = DEFAULTS) -> None:
    """Stop a run: at once if it waits; one that runs is ended on its workers; one that failed lets those go that wait behind it.

    Parameters
    ----------
    run : str
        Its id.
    """
    from hindscan.runs.leases import release_expired
    from hindscan.runs.register import request_cancel
    from hindscan.runs.store import open_store
    from hindscan.words import run_document

    project = options.load()
    with open_store(project.store_url, project.root) as store:
        release_expired(store)  # one whose owner has died waits, and is cancelled at once
        asked = request_cancel(store, run)
    if options.json:
        print_document(run_document(asked))
    else:
        print(f"{run}: {'cancelled' if asked.state == 'cancelled' else 'asked to stop'}")


def retry(run: str, /, *, options: Options = DEFAULTS) -> int:
    """Try the slices again that failed or are missing, over the run's own snapshot, and wait.

    Parameters
    ----------
    run : str
        Its id.
    """
    from hindscan.cli.work import finish
    from hindscan.driver import try_again
    from hindscan.workshop import open_workshop

    with open_workshop(options.load()) as workshop:
        try_again(workshop, run)
        return finish(workshop, run, options)


def result(
    run: str,
    /,
    *,
    format: Literal["table", "csv", "json", "parquet", "arrow"] = "table",
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    limit: Count = 20,
    partial: Annotated[bool, Parameter(negative="")] = False,
    options: Options = DEFAULTS,
) -> None:
    """Print or save the result of a run.

    Parameters
    ----------
    run : str
        Id of a run, or JOB@latest.
    format : str
        How.
    output : Path
        Write to this file instead of standard output.
    limit : int
        Rows of a printed table.
    partial : bool
        Combine what is done so far, of a run that goes on, failed or was cancelled; standard error tells how much that is.
    """
    path = _partial_path(options, run) if partial else _result_path(options.load(), run)
    try:
        _give_result(path, options, format=format, output=output, limit=limit)
    finally:
        if partial:
            path.unlink()


def _give_result(path: Path, options: Options, *, format: str, output: Path | None, limit: int) -> None:
    import pyarrow.parquet as pq

    from hindscan.web.media import encode

    chosen = "json" if options.json and format == "table" else format
    if chosen == "table":
        if output is not None:
            raise UsageError(
                f"Writing {output}: a table is printed, and never a file. Give --format csv, json, parquet or arrow."
            )
        print_arrow(pq.read_table(path), limit)
        return
    pieces = encode(path, chosen)
    if output is not None:
        with writing_to(output), output.open("wb") as file:
            file.writelines(pieces)
        return
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    if chosen == "json":
        sys.stdout.buffer.write(b"\n")


def _partial_path(options: Options, run: str) -> Path:
    """Combine what a run has done so far, say how much that is, and give a file that the caller deletes."""
    from hindscan.anytime import partial_result, save_partial
    from hindscan.workshop import open_workshop

    with open_workshop(options.load()) as workshop:
        found = partial_result(workshop.project, workshop.store, workshop.partials, run)
    done = found.coverage
    sys.stderr.write(
        f"{'INCOMPLETE' if found.incomplete else 'complete'}: {done.slices_done} of {done.slices} slices, {done.rows_done:,} of {done.rows:,} rows "
        f"of run {run}, which is {found.state}\n"
    )
    for name, part in done.parts.items():
        if part.slices_done < part.slices:
            sys.stderr.write(
                f"  {name}: {part.slices_done} of {part.slices} slices, {part.rows_done:,} of {part.rows:,} rows\n"
            )
    return save_partial(found)


def _result_path(project: Project, run: str) -> Path:
    """Find the table of a run, or of the latest run of a job."""
    from hindscan.runs.register import get_run, refuse_forgotten
    from hindscan.runs.results import latest
    from hindscan.runs.store import open_store
    from hindscan.words import headline

    job, at, which = run.partition("@")
    if at:
        if which != "latest":
            raise NotFound(f"Looking up result {run!r}: after @ only `latest` is known.")
        folder = latest(project.artefacts, job)
        if folder is None:
            raise NotFound(
                f"Looking up the latest result of {job!r}: there is none. `hindscan runs --job {job}` shows its runs."
            )
        return Path(folder) / "result.parquet"
    with open_store(project.store_url, project.root) as store:
        found = get_run(store, run)
    refuse_forgotten(found, "Looking up the result of")
    if found.result is None:
        raise NotFound(
            f"Looking up the result of run {run}: it must have succeeded; it is {found.state}. {headline(found.message)}".rstrip()
        )
    return project.root / found.result / "result.parquet"
