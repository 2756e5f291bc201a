"""How things are said outside: the documents that command line, HTTP and Python share, in the words of `docs/design.md`.

One place writes a run as a JSON-able mapping, so that `hindscan show --json`, `GET /runs/ID` and `run.describe()` cannot differ.
"""

from __future__ import annotations

import getpass
import html
import os
from collections.abc import Iterable
from typing import Any, get_args

import msgspec

from hindscan import times
from hindscan.errors import UsageError
from hindscan.jobs.job import JobSpec
from hindscan.runs.log import Logged
from hindscan.runs.run import Run, RunRequest, State
from hindscan.runs.waiting import Waiting

__all__ = [
    "asker",
    "chosen_document",
    "facts_document",
    "headline",
    "html_table",
    "job_document",
    "run_document",
    "state_of",
]


def asker(way: str) -> str:
    """Say who asks for a run in this process: the way it is asked, and the user who runs it."""
    try:
        return f"{way}:{getpass.getuser()}"
    except (KeyError, OSError):
        # A container's user may have a number and no name.
        return f"{way}:{os.getuid()}"


def headline(message: str | None) -> str:
    r"""Give the line of a failure's message that says it: the first, or, where the user's traceback comes first, the first after that.

    Examples
    --------
    >>> headline(
    ...     "Traceback (most recent call last):\n  File ...\nValueError: no\n\nWhile computing slice 0: it raised ValueError: no."
    ... )
    'While computing slice 0: it raised ValueError: no.'
    """
    text = message or ""
    said = text.rpartition("\n\n")[2] if text.startswith("Traceback ") else text
    return said.split("\n", 1)[0]


def html_table(rows: Iterable[Iterable[object]]) -> str:
    """Write rows for a notebook; the first cell of each is its heading."""
    written = (
        "".join(
            f"<th style='text-align:left'>{cell}</th>" if at == 0 else f"<td style='text-align:left'>{cell}</td>"
            for at, cell in enumerate(html.escape(str(cell)) for cell in cells)
        )
        for cells in rows
    )
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in written)}</table>"


def run_document(run: Run, waiting: Waiting | None = None) -> dict[str, Any]:
    """Describe a run; times are ISO 8601.

    Parameters
    ----------
    run : Run
        As the store has it.
    waiting : Waiting, optional
        Why it does not start.
    """
    request = run.request
    event = None if run.event_id is None else {"source": run.event_source, "id": run.event_id, "trigger": run.trigger}
    return {
        "id": run.id,
        "job": run.job,
        "state": run.state,
        "parameters": request.parameters,
        "sweep": list(request.points) or None,
        "as_of": _time(request.as_of),
        "since": _time(request.since),
        "until": _time(request.until),
        **chosen_document(request),
        "seed": request.seed,
        "draws": request.draws,
        "stop": request.stop,
        "event": event,
        "attempt": run.attempt,
        "priority": request.priority,
        "waiting": None
        if waiting is None
        else {"reason": waiting.reason, "run": waiting.run, "until": _time(waiting.until)},
        "superseded_by": run.superseded_by,
        "created_at": times.to_text(run.created_at),
        "updated_at": times.to_text(run.updated_at),
        "requested_by": run.requested_by,
        "parent": run.parent,
        "code": run.code,
        "error": run.error,
        "message": run.message,
        "result": run.result,
    }


def facts_document(logged: Iterable[Logged]) -> list[dict[str, Any]]:
    """Describe what happened to a run. When is that of the log: a fact may have its own, in microseconds."""
    return [{"number": one.seq, **msgspec.to_builtins(one.fact), "at": times.to_text(one.at)} for one in logged]


def chosen_document(request: RunRequest) -> dict[str, Any]:
    """Describe what is read of a topic; a key that is no UTF-8 shows its bytes escaped."""
    return {
        "offsets": {str(at.partition): [at.start, at.end] for at in request.offsets},
        "partitions": list(request.partitions),
        "keys": [key.decode(errors="backslashreplace") for key in request.keys],
    }


def _time(micros: int | None) -> str | None:
    return None if micros is None else times.to_text(micros)


def job_document(spec: JobSpec) -> dict[str, Any]:
    """Describe a job with the JSON Schema of its parameters."""
    from hindscan.jobs.parameters import json_schema

    return {
        "job": spec.name,
        "kind": spec.kind,
        "doc": spec.doc,
        "history": spec.history,
        "tables": spec.tables,
        "joins": {name: joined.history for name, joined in spec.joins.items()},
        "combine": spec.combine,
        "order": spec.order,
        "file": spec.file,
        "parameters": msgspec.to_builtins(json_schema(spec)),
    }


def state_of(text: str) -> State:
    """Read the name of a state.

    Raises
    ------
    hindscan.errors.UsageError
        It is none.
    """
    for state in get_args(State):
        if text == state:
            return state  # type: ignore[no-any-return]
    raise UsageError(f"Looking for runs: a state must be one of {', '.join(get_args(State))}; found {text!r}.")
