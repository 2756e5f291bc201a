"""The contract of executors, and the reference: tasks done one after another where one stands.

Keeps promises 6, 8 and 11. An executor takes tasks as they come, keeps a bounded number of them alive, and gives each one's outcome when it is there: the receipt, or
that its worker died. It never hangs: where nothing can do the work it raises. Which executor did the work never shows in a result; one suite,
`tests/contract/test_executors.py`, holds for all of them.

::

    Work, Work, ... -> Executor.run -> Finished | Lost, in the order of completion
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final, Protocol, Self

import msgspec

__all__ = ["GRACE_SECONDS", "Executor", "Finished", "InlineExecutor", "Lost", "Outcome", "Work"]

#: After a stop, tasks that are nearly done may finish for this long; then their processes are killed.
GRACE_SECONDS: Final = 1.0


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One task as executors see it: nothing but bytes for `perform`."""

    id: str
    payload: bytes


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """The task's receipt came back. It may tell of slices that failed."""

    id: str
    receipt: bytes


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """The process that worked on the task ended without an answer."""

    id: str
    reason: str
    #: How much memory it took, if that is why; else empty.
    out_of_memory: str = ""


Outcome = Finished | Lost


class Executor(Protocol):
    """Something that can do tasks. A context manager: leaving it ends every process it started."""

    @property
    def workers(self) -> int:
        """How many tasks are worked on at the same time."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *fault: object) -> None: ...

    def run(self, tasks: Iterator[Work], stop: threading.Event, *, alone: bool = False) -> Iterator[Outcome]:
        """Do tasks; workers stay warm for the next call.

        Parameters
        ----------
        tasks : iterator of Work
            Taken as there is room, never all at once. It may have none now and more after a later outcome, because some tasks need others done: it
            is asked again as long as there is something to wait for.
        stop : threading.Event
            When set no task is begun any more; after `GRACE_SECONDS` the processes still at work are killed and the iterator ends
            without outcomes for what they did. Closing the iterator does the same.
        alone : bool
            No two tasks share a process at the same time, so that the task of a process that dies is what killed it.

        Yields
        ------
        Outcome
            One for each task, in the order of completion.

        Raises
        ------
        hindscan.errors.WorkerDied
            Workers die as soon as they start, or none can be started.
        hindscan.errors.ServiceUnavailable
            The scheduler that was connected to is gone.
        """
        ...


class InlineExecutor:
    """The reference: each task in this process, one after another. A task that ends the process ends the caller with it."""

    workers = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        return None

    def run(self, tasks: Iterator[Work], stop: threading.Event, *, alone: bool = False) -> Iterator[Outcome]:  # noqa: ARG002
        """Do tasks; a stop is seen between two of them."""
        # Imported here: whoever starts workers need not import what they do, and so starts them earlier.
        from hindscan.tasks.perform import perform

        for task in tasks:
            if stop.is_set():
                return
            yield Finished(id=task.id, receipt=perform(task.payload, interruptible=True))
