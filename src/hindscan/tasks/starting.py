"""Starting an executor by its kind: what stands between a setting and the processes that do the work.

Serves promises 10 (each worker is given its part of the memory) and 11. It imports nothing but the executor asked for, so that a command can have its worker start, which
takes as long as everything before the first task, as its own first act.

::

    "threads" | "processes" | an address -> start_executor -> Executor, entered
"""

from __future__ import annotations

from hindscan.tasks.executor import Executor
from hindscan.tasks.memory import worker_bytes

__all__ = ["start_executor"]


def start_executor(kind: str, workers: int, memory: int | None) -> Executor:
    """Start an executor; returns while its workers still import.

    Parameters
    ----------
    kind : str
        "threads" of one child process, "processes", or the address of a Dask scheduler.
    workers : int
        How many tasks are worked on at the same time.
    memory : int, optional
        Bytes one worker may take. Default: its part of the machine.
    """
    most = worker_bytes(memory, workers)
    if kind == "threads":
        from hindscan.tasks.threads import ThreadsExecutor

        return ThreadsExecutor(workers, most).__enter__()
    from hindscan.tasks.dask import DaskExecutor

    address = None if kind == "processes" else kind
    return DaskExecutor(workers=workers, address=address, memory=most).__enter__()
