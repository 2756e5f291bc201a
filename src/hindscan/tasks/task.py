"""A task: one or more slices (or tree nodes) for one worker, and the receipt it gives back.

Keeps promises 6, 8 and 12. A worker gets one fixed function, `perform(bytes) -> bytes`, and no user object is ever pickled by reference: the
job's code travels as bytes inside the task and is loaded inside that function, so that a failure to load is an ordinary error in
a receipt. Partials are stored by the task; the receipt carries only what was done. How slices are grouped into tasks never shows in
a result: each slice is computed, keyed and stored on its own.

What all tasks of a stage share is one `Assignment`, packed once; a worker unpacks it once and keeps it under its digest. Tasks go only from a run to its own
workers, never to a disk, so readers in them may be pickled.

::

    Plan -> grouping -> Task -> Executor -> perform: Code -> Data -> partial stored -> Receipt
"""

from __future__ import annotations

import hashlib
import pickle
from typing import Literal

import msgspec

from hindscan.data import Proof
from hindscan.history.snapshot import DrawPin, Reader, Slice
from hindscan.jobs.job import Code, JobSpec, StepName
from hindscan.plans.plan import Chain, Node
from hindscan.runs.partials import Partials

__all__ = [
    "Assignment",
    "Broadcast",
    "Checkpoints",
    "Done",
    "Failed",
    "Packed",
    "Receipt",
    "Task",
    "TaskKind",
    "pack",
    "unpack",
]

TaskKind = Literal["slices", "whole", "close", "combine", "finish"]


class Broadcast(msgspec.Struct, frozen=True, kw_only=True):
    """One whole table that steps may take."""

    reader: Reader
    slices: tuple[Slice, ...]
    #: Workers keep an opened table under this.
    digest: str
    #: Key to store its proof under once it has been read; None: nobody asks for it.
    proof_key: str | None = None


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What all tasks of one stage have in common."""

    run: str
    job: JobSpec
    code: Code
    #: Steps of the stage by their roles. Names without a function in the code are built in.
    each: StepName
    combine: StepName
    finish: StepName
    #: "function", "concat", "statistics" or "none".
    how: str
    #: Reader of the sliced history; None for draws.
    reader: Reader | None
    draws: DrawPin | None
    tables: dict[str, Broadcast]
    parameters: dict[str, object]
    #: Key of the model's table.
    model: str | None
    #: What the job is joined with: by name, the key of each part's table.
    joined: dict[str, tuple[str, ...]] = {}
    partials: Partials


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment on its way."""

    digest: str
    content: bytes


class Checkpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the states of consecutive slices of an ordered job are."""

    #: Key of the state before the first of them; None: the state its partition begins with.
    before: str | None
    #: Key of the state after each.
    after: tuple[str, ...]


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work for one worker."""

    id: str
    kind: TaskKind
    assignment: Packed
    #: For "slices": what to compute, and the keys to store it under. No slices and one key: the step over no rows. For "whole": all, and one key.
    slices: tuple[Slice, ...] = ()
    keys: tuple[str, ...] = ()
    #: For "slices" of a job that is not ordered: one whose partial is there by now is done. The task may be done over again by whoever lost its worker, and only what
    #: was being computed then is to be computed twice.
    keep: bool = False
    #: For "slices" of an ordered job: they follow on one another, and none is computed after one that failed.
    checkpoints: Checkpoints | None = None
    #: For "close": partitions whose last states are there.
    closes: tuple[Chain, ...] = ()
    #: For "combine": in an order in which every child comes before its parent.
    nodes: tuple[Node, ...] = ()
    #: For "finish": key of the combined table, and of the finished one; of a job that is split by key, which part it is.
    combined: str = ""
    finished: str = ""
    part: int = 0


class Done(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One slice or node: its partial is stored under `key`."""

    position: int
    key: str
    rows: int
    bytes: int
    #: Content digest of the partial's table.
    digest: str
    seconds: float
    cpu_seconds: float
    proof: Proof | None = None


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """One slice or node that gave nothing."""

    position: int
    #: Name of the class in `hindscan.errors`.
    error: str
    message: str
    retryable: bool
    #: The user's traceback, first line first; empty where the fault is not in user code.
    traceback: str = ""
    #: Key of the partial that was to be stored.
    key: str = ""
    #: Values and ids of the fault, as the error has them.
    details: dict[str, object] = {}


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker did with one task."""

    task: str
    kind: TaskKind
    done: tuple[Done, ...] = ()
    failed: tuple[Failed, ...] = ()
    worker: str = ""
    #: What the user's code printed, the last 64 kB.
    output: str = ""


def pack(assignment: Assignment) -> Packed:
    """Pack an assignment once for all its tasks."""
    content = pickle.dumps(assignment, protocol=5)
    return Packed(digest=hashlib.blake2b(content, digest_size=16).hexdigest(), content=content)


def unpack(packed: Packed) -> Assignment:
    """Unpack an assignment on the worker."""
    assignment = pickle.loads(packed.content)  # noqa: S301 -- made by `pack` in the run this worker belongs to
    assert isinstance(assignment, Assignment)
    return assignment
