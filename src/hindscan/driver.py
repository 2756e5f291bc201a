"""Carrying out one run without a server: in this process, or in a child that survives it.

`hindscan run` drives its run itself. `hs.run` and `run --detach` hand it over: a `serve` on the same store takes it if there is one, else a process of its own
is started, which survives its caller (a notebook's kernel, a shell) and never runs user code in it (promise 12). Whoever is first claims it; the
others follow it in the store. A process that dies, or never begins, is replaced by whoever waits for the run.

::

    open_run -> hand_over -> (serve | python -m hindscan.driver) -> drive -> carry_out
    open_run -> hand_over, follow -> nobody has it any more -> hand_over
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hindscan.errors import ExecutionError, Fenced
from hindscan.runner import LEASE_SECONDS, carry_out
from hindscan.runs import leases, log, register
from hindscan.runs.run import FINAL
from hindscan.runs.waiting import why_waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from hindscan.config import Project
    from hindscan.progress import Observer
    from hindscan.runs.run import Run
    from hindscan.workshop import Workshop

__all__ = ["drive", "follow", "hand_over", "try_again"]

#: How often a run that another process works on is looked at.
LOOK_SECONDS: Final = 0.05
#: How long a run that could start is left to others before who waits for it starts a process: one that has just been started takes a second or two.
IDLE_SECONDS: Final = 5.0
#: Processes that are started for a run while somebody waits for it. What ends each of them ends the next one, too.
STARTS: Final = 3


def drive(workshop: Workshop, run: str, *, observe: Observer | None = None) -> Run:
    """Carry a waiting run out, or follow it where another process has it; give it in its final state."""
    owner, seen = f"{socket.gethostname()}:{os.getpid()}", 0
    while True:
        claimed = leases.claim(workshop.store, owner, LEASE_SECONDS, run=run)
        if claimed is not None:
            # Fenced: this process slept through its lease; whoever has the run now is followed.
            with contextlib.suppress(Fenced):
                carry_out(workshop, claimed, observe=observe)
            if observe is not None:
                # What is in the log by now was observed as it happened.
                seen = _tell(workshop, run, lambda _: None, seen)
        found, seen = _watch(workshop, run, observe, seen, while_running=True)
        if found.state in FINAL:
            return found
        if claimed is None:
            # It waits for its time, for its turn or for room.
            time.sleep(LOOK_SECONDS)


def follow(
    workshop: Workshop,
    run: str,
    *,
    observe: Observer | None = None,
    seconds: float | None = None,
    driver: subprocess.Popen[bytes] | None = None,
) -> Run:
    """Watch a run in the store until it is final, and start a process for it where nobody has it any more.

    Parameters
    ----------
    seconds : float, optional
        Come back after this time at the latest.
    driver : Popen, optional
        The process that it was handed over to.

    Raises
    ------
    hindscan.errors.ExecutionError
        Processes that were to carry it out end before they do.
    """
    return _watch(workshop, run, observe, 0, seconds=seconds, attend=_Attendant(workshop, driver).look)[0]


class _Attendant:
    """Sees to it that a run somebody waits for is in somebody's hands. A run of a trigger is the dispatcher's."""

    def __init__(self, workshop: Workshop, driver: subprocess.Popen[bytes] | None) -> None:
        self._workshop, self._driver = workshop, driver
        self._idle_since: float | None = None
        self._started = 0

    def look(self, found: Run) -> None:
        """Take one look at it."""
        driven = self._driver is not None
        if found.state != "pending" or (self._driver is not None and self._driver.poll() is None):
            self._idle_since = None
            return
        if (found.trigger and not driven) or why_waiting(self._workshop.store, found) is not None:
            return
        if self._idle_since is None:
            self._idle_since = time.monotonic()
        if not driven and time.monotonic() - self._idle_since < IDLE_SECONDS:
            return
        if self._started == STARTS:
            output = _output(self._workshop.project, found.id)
            said = output.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]
            raise ExecutionError(
                f"Waiting for run {found.id}: a process must carry it out; {STARTS} that were started ended before it was done, the last one with: {said}\n"
                f"All of it is in {output}. Mend that, and wait again.",
                run=found.id,
            )
        self._driver = hand_over(self._workshop.project, found.id)
        self._started += 1


def try_again(workshop: Workshop, run: str) -> None:
    """Have a run that failed or was cancelled wait for a new attempt. One that waits, as its owner died or never began, is left as it is.

    Raises
    ------
    hindscan.errors.Conflict
        Somebody works on it, or it has succeeded.
    """
    leases.release_expired(workshop.store)
    if register.get_run(workshop.store, run).state != "pending":
        register.retry(workshop.store, run)


def _watch(
    workshop: Workshop,
    run: str,
    observe: Observer | None,
    seen: int,
    *,
    while_running: bool = False,
    seconds: float | None = None,
    attend: Callable[[Run], None] = lambda _: None,
) -> tuple[Run, int]:
    """Watch a run from a place in its log on, while it is running or until it is final; give the place that was come to."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        found = register.get_run(workshop.store, run)
        if observe is not None:
            seen = _tell(workshop, run, observe, seen)
        if found.state in FINAL or (while_running and found.state == "pending"):
            return found, seen
        if deadline is not None and time.monotonic() > deadline:
            return found, seen
        attend(found)
        leases.release_expired(workshop.store)
        time.sleep(LOOK_SECONDS)


def _tell(workshop: Workshop, run: str, observe: Observer, seen: int) -> int:
    """Pass on what is new in the log of a run; give the place after it."""
    for logged in log.facts(workshop.store, run, seen):
        seen = logged.seq
        observe(logged.fact)
    return seen


def hand_over(project: Project, run: str) -> subprocess.Popen[bytes]:
    """Start a process that drives a run and survives this one. Its output goes to a file beside the store."""
    file = _output(project, run)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "hindscan.driver", str(project.root), run],
            cwd=project.root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _output(project: Project, run: str) -> Path:
    return project.artefacts / "drivers" / f"{run}.log"


def _main() -> None:
    from hindscan.config_file import load_project
    from hindscan.workshop import open_workshop

    with open_workshop(load_project(Path(sys.argv[1]))) as workshop:
        drive(workshop, sys.argv[2])


if __name__ == "__main__":
    _main()
