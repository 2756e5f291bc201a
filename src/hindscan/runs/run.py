"""A run: its states and the legal moves between them.

The table is the whole of it: legal moves are data, final states are present and empty. Every move is logged as a fact with its
reason. `runs.store` writes moves only under the run's fencing token (promise 4); `docs/reference/runs.md` shows this table.

::

    pending ──> running ──> succeeded
       │           │──────> failed ──(retry)──> pending
       └───────────┴──────> cancelled ──(retry)──> pending
    running ──(owner died, or its error is tried again)──> pending
    failed ──(lets those behind it go)──> cancelled
"""

from __future__ import annotations

from typing import Literal

import msgspec

from hindscan.errors import Conflict
from hindscan.history.snapshot import OffsetRange
from hindscan.retries import Retries

__all__ = ["FINAL", "MOVES", "Run", "RunRequest", "Settled", "State", "check_move"]

State = Literal["pending", "running", "succeeded", "failed", "cancelled"]

MOVES: dict[State, frozenset[State]] = {
    "pending": frozenset({"running", "failed", "cancelled"}),
    "running": frozenset({"pending", "succeeded", "failed", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset({"pending", "cancelled"}),
    "cancelled": frozenset({"pending"}),
}
#: States in which nothing goes on.
FINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})


def check_move(run: str, before: State, after: State) -> None:
    """Refuse a move that is not in the table.

    Raises
    ------
    hindscan.errors.Conflict
        The move is not legal.
    """
    if after not in MOVES[before]:
        legal = ", ".join(sorted(MOVES[before])) or "nothing"
        raise Conflict(
            f"Moving run {run} from {before} to {after}: not a legal move. From {before} one can go to {legal}.",
            run=run,
        )


class Settled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a simulation with a stopping rule has stopped."""

    #: Of a sweep: the most of any point.
    draws: int
    #: "precision", "max_draws" or "max_seconds"; of a sweep all that there were.
    why: str
    #: How often the rule was judged.
    looks: int
    #: Of a sweep: where each point has stopped.
    points: tuple[Settled, ...] = ()


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: a job with parameters and the options of a run. Times are microseconds since the epoch."""

    job: str
    parameters: dict[str, object] = {}
    as_of: int | None = None
    since: int | None = None
    until: int | None = None
    seed: int | None = None
    draws: int | None = None
    #: When a simulation has drawn enough (see `plans.stopping`), and where it was found to have.
    stop: dict[str, object] | None = None
    settled: Settled | None = None
    workers: int | None = None
    fresh: bool = False
    #: Positions of slices that are computed again although their partials exist.
    anew: tuple[int, ...] = ()
    #: Other histories for the job's tables: parameter name to history name.
    histories: dict[str, str] = {}
    #: Position of the triggering event (JSON of `history.snapshot.Position`), where it came from Kafka.
    position: dict[str, object] | None = None
    #: What is read of a topic: see `history.snapshot.Window`.
    offsets: tuple[OffsetRange, ...] = ()
    partitions: tuple[int, ...] = ()
    keys: tuple[bytes, ...] = ()
    #: Slices that may fail for good: a share of all (a float below 1) or a number; None: the job's.
    allow_failed: int | float | None = None
    #: Of a sweep: values of the swept parameters, point by point; `parameters` has the others.
    points: tuple[dict[str, object], ...] = ()
    #: Runs of a higher one are started first.
    priority: int = 0
    #: Seconds it may take; None: the job's.
    time_limit: float | None = None
    #: Whether it is tried again when it fails; None: the job's.
    retries: Retries | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a plan as the store has it."""

    id: str
    job: str
    state: State
    request: RunRequest
    created_at: int
    updated_at: int
    attempt: int = 0
    #: Code bundle the run was opened with; empty: the project's at the time it starts.
    code: str = ""
    trigger: str | None = None
    event_source: str | None = None
    event_id: str | None = None
    parent: str | None = None
    error: str | None = None
    message: str | None = None
    #: Folder of the published result.
    result: str | None = None
    #: Who asked: "cli:USER", "python:USER", "http:ADDRESS", "trigger:NAME".
    requested_by: str = ""
    #: Runs with one key go strictly one after another (promise 13).
    order_key: str | None = None
    #: What its trigger counts, replaces and gathers its runs by.
    key: str | None = None
    #: While it is failed no later run of its key starts.
    blocks: bool = False
    #: Tries that failed since it was opened or retried by hand.
    failures: int = 0
    #: It starts no earlier than this.
    not_before: int = 0
    #: The run of a newer event that took its place.
    superseded_by: str | None = None
    #: Somebody asked its owner to stop.
    cancel_requested: bool = False
    #: What it was asked for and what came of it was deleted on request: it can be neither retried nor rerun.
    forgotten: bool = False
