"""Facts about a run, as they happen.

Bar, log, history and page are observers of the same values: whatever shows progress takes a function of one `Fact`. Facts are past
tense and carry what was measured where it happened; times are microseconds since the epoch. Foundation; nothing here acts.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

__all__ = [
    "Fact",
    "Observer",
    "Progressed",
    "RunFinished",
    "RunPlanned",
    "SliceFailed",
    "SliceFinished",
    "StageFinished",
    "StateChanged",
    "TaskLost",
]


class StateChanged(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact"):
    """The run went from one state to another."""

    run: str
    state: str
    at: int
    reason: str = ""


class RunPlanned(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact"):
    """The plan is fixed."""

    run: str
    slices: int
    reused: int
    tasks: int
    rows: int
    bytes: int


class SliceFinished(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact"):
    """One slice's partial is stored. Seconds are measured on the worker."""

    run: str
    stage: str
    slice: int
    rows: int
    seconds: float
    cpu_seconds: float
    worker: str


class Progressed(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact"):
    """How far a run is: goes to the log now and then in the place of every `SliceFinished`, which would be a row per slice."""

    run: str
    stage: str
    #: Slices finished in this attempt, of all its stages; rows they read.
    done: int
    rows: int


class SliceFailed(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact"):
    """One slice gave no partial; its neighbours go on."""

    run: str
    stage: str
    slice: int
    error: str
    message: str


class TaskLost(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact"):
    """A worker died over a task; its slices will be tried again or fail."""

    run: str
    stage: str
    slices: tuple[int, ...]
    reason: str


class StageFinished(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact"):
    """All slices of a stage are combined."""

    run: str
    stage: str
    seconds: float


class RunFinished(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact"):
    """The run is in a final state."""

    run: str
    state: str
    seconds: float


Fact = StateChanged | RunPlanned | SliceFinished | Progressed | SliceFailed | TaskLost | StageFinished | RunFinished
Observer = Callable[[Fact], None]
