"""What a worker process takes of the machine's memory, seen from its parent, and its end before the machine has none left.

Keeps promises 10 (bounded) and 11. A limit on a process's address space would count what Arrow maps and never touches, so its resident set is looked at instead, from the
outside, where no user code can hold it up. A worker over its limit is killed; one that somebody else killed with SIGKILL when it was last seen near its limit (the
kernel does so, faster than any look) counts as out of memory too. What the process's own children take is not seen.

::

    executor's loop -> Guard.look -> kill -> Guard.verdict -> Lost(out_of_memory) -> tried again alone on the machine -> OutOfMemory
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hindscan.tasks.process import Process

__all__ = ["Guard", "machine_bytes", "worker_bytes"]

#: How often workers are looked at: a process fills some hundred megabytes meanwhile.
LOOK_SECONDS: Final = 0.05
#: A worker killed by SIGKILL from outside was out of memory if it was last seen above this part of its limit.
NEAR: Final = 0.8
#: Part of the machine that all workers may take together.
_WORKERS_SHARE: Final = 0.9
_CGROUP: Final = Path("/sys/fs/cgroup/memory.max")


def machine_bytes() -> int:
    """Give the memory there is: the machine's, or less where a container is allowed less."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # "max", or no such file
        found = min(found, int(_CGROUP.read_text()))
    return found


def worker_bytes(memory: int | None, workers: int) -> int:
    """Give what one of several workers may take: what was set, else its part of the machine."""
    return memory if memory is not None else int(machine_bytes() * _WORKERS_SHARE / workers)


class Guard:
    """Looks at workers and ends those that take too much.

    Parameters
    ----------
    limit : int, optional
        Bytes one worker may take. Default: any number; nothing is looked at.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._looked = 0.0
        #: By process id, what each was last seen with and what it was allowed then.
        self._seen: dict[int, tuple[int, int]] = {}

    def look(self, processes: Iterable[Process], *, times: int = 1) -> None:
        """Look at workers, unless that was just done.

        Parameters
        ----------
        times : int
            Each may take so many times the limit: it does the work of several, or has the machine for itself.
        """
        if self._limit is None or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for process in processes:
            taken = _resident_bytes(process.pid)
            if taken is None:
                continue
            self._seen[process.pid] = taken, self._limit * times
            if taken > self._limit * times:
                process.kill()

    def verdict(self, process: Process) -> str:
        """Say how much a worker that has ended took, if it was out of memory; else nothing."""
        taken, limit = self._seen.pop(process.pid, (0, 0))
        if not limit or process.signal != signal.SIGKILL or taken < NEAR * limit:
            return ""
        return f"it was last seen with {taken / 2**20:,.0f} MB, and may take {limit / 2**20:,.0f} MB"


def _resident_bytes(pid: int) -> int | None:
    """Give the resident set of a process; None where that cannot be seen."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return None
