"""Tasks of jobs with requirements of their own: handed on to an interpreter of the job's environment.

Keeps promises 6, 11 and 12. The interpreter is a worker's worker: it gets the same bytes, runs the same function over them and answers with the same receipt, so that
all that holds of a task holds of these: rows are read there, lazily, and partials are stored there. It dies with the worker that started it, and a worker
with several threads has one for each that needs it.

::

    perform(bytes) -> perform_there -> Process of the environment's Python: perform(bytes) -> the receipt's bytes
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

from hindscan.errors import WorkerDied
from hindscan.jobs.isolated import ensured, environment_in, project_paths
from hindscan.tasks.process import Inbox, Process, start
from hindscan.tasks.task import Packed, unpack

__all__ = ["interpreter_of", "perform_there"]

#: Idle interpreters that are kept, over all environments: each has a worker's libraries in memory.
_IDLE_MOST: Final = 4
#: Assignments of which is known where they run.
_KNOWN_MOST: Final = 64

_lock = threading.Lock()
_known: OrderedDict[str, Path | None] = OrderedDict()
_idle: list[tuple[Path, Process, Inbox]] = []


def interpreter_of(packed: Packed) -> Path | None:
    """Give the Python that must do the tasks of an assignment; None: this one.

    Raises
    ------
    hindscan.errors.CodeLoadError
        Its environment cannot be made here.
    """
    with _lock:
        if packed.digest not in _known:
            environment = environment_in(unpack(packed).code)
            _known[packed.digest] = None if environment is None else ensured(environment)
            while len(_known) > _KNOWN_MOST:
                _known.popitem(last=False)
        return _known[packed.digest]


def perform_there(python: Path, payload: bytes) -> bytes:
    """Do one task in an interpreter of the environment.

    Raises
    ------
    hindscan.errors.WorkerDied
        It ended without an answer.
    """
    process, inbox = _taken(python)
    process.send(("task", payload))
    _, message = inbox.get()
    if message is None:
        reason = process.reason()
        process.close()
        raise WorkerDied(
            f"Waiting for a task in the job's environment: its process must live until it is done, and it ended: {reason}\n"
            "Look for what ends the process (memory, a crash in native code, os._exit)."
        )
    with _lock:
        _idle.append((python, process, inbox))
        over = _idle[:-_IDLE_MOST]
        del _idle[:-_IDLE_MOST]
    for _, old, _ in over:
        old.close()
    return bytes(message[1])


def _taken(python: Path) -> tuple[Process, Inbox]:
    """Take an idle interpreter, or start one."""
    with _lock:
        for index in range(len(_idle) - 1, -1, -1):
            if _idle[index][0] == python and _idle[index][1].alive:
                _, process, inbox = _idle.pop(index)
                return process, inbox
    fresh: Inbox = queue.SimpleQueue()
    program = "hindscan.tasks.perform:answer"
    return start(fresh, program, python=str(python), paths=project_paths()), fresh
