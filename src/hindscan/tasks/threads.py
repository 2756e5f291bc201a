"""Dask's threaded scheduler in a child process: what small runs on one machine are done with.

Keeps promises 6, 11 and 12. The scheduler that costs a tenth of a millisecond per task (`dask.threaded`) runs in one child that can be killed, never in the caller:
a segfault, an endless loop or `os._exit` in user code ends the child and is an outcome here. The child starts with the executor and imports
while the caller still plans, so that it adds little to the time of a run.

All threads share one fate. When the child dies, tasks that had begun are lost and the others are given to the next child; which of the begun ones killed it cannot be
told, so `execution` has suspects done alone.

::

    run --batches of (id, payload)--> child: dask.threaded.get --started, finished--> Finished | Lost
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, Self

from hindscan.errors import WorkerDied
from hindscan.tasks.executor import GRACE_SECONDS, Finished, Lost, Outcome, Work
from hindscan.tasks.memory import Guard
from hindscan.tasks.process import Frames, Inbox, Process, start

__all__ = ["ThreadsExecutor", "child_main"]

#: Tasks for each thread that are in the child at a time: the next one begins without a word to the parent. No more of them, as how large a task is follows the pace.
_WINDOW: Final = 4
#: Children that may die one after another before one has begun a task.
_STILLBORN_MOST: Final = 3
#: How often a stop is looked for while nothing else happens.
_TICK_SECONDS: Final = 0.02


class ThreadsExecutor:
    """Tasks on threads of one child process.

    Parameters
    ----------
    workers : int
        Threads.
    memory : int, optional
        Bytes each of them may take; the child may take so many times this. Default: no limit.
    folder : path, optional
        Working directory of the child. Default: this process's.
    """

    def __init__(self, workers: int, memory: int | None = None, folder: str | os.PathLike[str] | None = None) -> None:
        self._workers = workers
        self._folder = folder
        self._memory = memory
        self._guard = Guard(memory)
        self._child: Process | None = None
        self._inbox: Inbox = queue.SimpleQueue()

    @property
    def workers(self) -> int:
        """How many tasks are worked on at the same time."""
        return self._workers

    def __enter__(self) -> Self:
        self._child_alive()
        return self

    def __exit__(self, *fault: object) -> None:
        self._end()

    def run(self, tasks: Iterator[Work], stop: threading.Event, *, alone: bool = False) -> Iterator[Outcome]:
        """Do tasks; see `Executor.run`."""
        window = 1 if alone else self._workers * _WINDOW
        live: dict[str, Work] = {}
        begun: set[str] = set()
        stillborn = 0
        deadline: float | None = None
        try:
            child = self._child_alive()
            while True:
                if deadline is None and stop.is_set():
                    deadline = time.monotonic() + GRACE_SECONDS
                if deadline is None and len(live) <= window // 2:
                    self._give(child, list(islice(tasks, window - len(live))), live)
                if not live:
                    return
                if deadline is not None and (not begun or time.monotonic() > deadline):
                    return
                self._guard.look([child], times=self._workers)
                match self._hear(child):
                    case ("started", str(task)):
                        begun.add(task)
                        stillborn = 0
                    case ("finished", str(task), bytes(receipt)):
                        begun.discard(task)
                        del live[task]
                        yield Finished(id=task, receipt=receipt)
                    case ("broken", str(task), str(reason)):
                        begun.discard(task)
                        del live[task]
                        yield Lost(id=task, reason=reason)
                    case ("died", str(reason)):
                        memory = self._guard.verdict(child)
                        stillborn += not begun
                        _refuse_stillborn(stillborn, reason)
                        lost, begun = sorted(begun), set()
                        for task in lost:
                            del live[task]
                        if deadline is None:
                            # What had not begun did not kill it, and goes to the next child without being blamed.
                            child = self._child_alive()
                            self._give(child, list(live.values()), live)
                        yield from (Lost(id=task, reason=reason, out_of_memory=memory) for task in lost)
        finally:
            if live:
                self._end()

    def _child_alive(self) -> Process:
        if self._child is None or not self._child.alive:
            self._end()
            self._inbox = queue.SimpleQueue()
            self._child = start(
                self._inbox,
                "hindscan.tasks.threads:child_main",
                str(self._workers),
                folder=self._folder,
                threads=self._workers,
                memory=None if self._memory is None else self._memory * self._workers,
            )
        return self._child

    def _give(self, child: Process, tasks: list[Work], live: dict[str, Work]) -> None:
        live.update((task.id, task) for task in tasks)
        if tasks:
            child.send(("tasks", [(task.id, task.payload) for task in tasks]))

    def _hear(self, child: Process) -> tuple[object, ...]:
        try:
            _, message = self._inbox.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            return ()
        return ("died", child.reason()) if message is None else message

    def _end(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def _refuse_stillborn(count: int, reason: str) -> None:
    if count >= _STILLBORN_MOST:
        raise WorkerDied(
            f"Starting a worker process: it must live until it has begun a task, and {count} in a row did not. "
            f"The last {reason}\nRun `hindscan doctor`, which tries to start one."
        )


def child_main(frames: Frames, workers: str) -> None:
    """Do tasks until the parent is gone: the whole life of the child."""
    import dask.threaded

    from hindscan.tasks.perform import perform, warm

    def work(task: str, payload: bytes) -> None:
        frames.send(("started", task))
        try:
            frames.send(("finished", task, perform(payload)))
        except BaseException:  # noqa: BLE001 -- perform answers with a receipt, whatever happens; should it not, the parent must not wait
            frames.send(("broken", task, traceback.format_exc()))

    def batch(tasks: list[tuple[str, bytes]]) -> None:
        # Bound, not given as arguments: in a graph an argument that equals a key means that task's result. Of tasks that do not need each other Dask begins with
        # the one whose key is the last of all texts: what was given first is to be begun first, as the last tasks of a stage are the smallest.
        graph = {f"{len(tasks) - number:06}": (functools.partial(work, *task),) for number, task in enumerate(tasks)}
        try:
            dask.threaded.get(graph, list(graph), pool=pool)
        except Exception:  # noqa: BLE001 -- whatever it is: the parent must hear of it, and hears of nothing better than of an end
            traceback.print_exc()
            os._exit(1)

    pool = ThreadPoolExecutor(int(workers), thread_name_prefix="hindscan-task")
    warm()
    while (message := frames.receive()) is not None:
        # Batches overlap: the threads turn to the next one while the last tasks of this one are still at work.
        threading.Thread(target=batch, args=(message[1],), daemon=True).start()
    os._exit(0)
