"""Carrying out one run without a server: in this process, or in a child that survives it.

`hindscan run` drives its run itself. `hs.run` and `run --detach` hand it over: a `serve` on the same store takes it if there is one, else a process of its own
is started, which survives its caller (a notebook's kernel, a shell) and never runs user code in it (promise 12). Whoever is first claims it; the
others follow it in the store.

::

    open_run -> hand_over -> (serve | python -m hindscan.driver) -> drive -> carry_out
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

from hindscan.errors import Fenced
from hindscan.runner import LEASE_SECONDS, carry_out
from hindscan.runs import leases, log, register
from hindscan.runs.run import FINAL

if TYPE_CHECKING:
    from hindscan.config import Project
    from hindscan.progress import Observer
    from hindscan.runs.run import Run
    from hindscan.workshop import Workshop

__all__ = ["drive", "follow", "hand_over"]

#: How often a run that another process works on is looked at.
LOOK_SECONDS: Final = 0.05


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


def follow(workshop: Workshop, run: str, *, observe: Observer | None = None, seconds: float | None = None) -> Run:
    """Watch a run in the store until it is final.

    Parameters
    ----------
    seconds : float, optional
        Come back after this time at the latest.
    """
    return _watch(workshop, run, observe, 0, seconds=seconds)[0]


def _watch(
    workshop: Workshop,
    run: str,
    observe: Observer | None,
    seen: int,
    *,
    while_running: bool = False,
    seconds: float | None = None,
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
        leases.release_expired(workshop.store)
        time.sleep(LOOK_SECONDS)


def _tell(workshop: Workshop, run: str, observe: Observer, seen: int) -> int:
    """Pass on what is new in the log of a run; give the place after it."""
    for logged in log.facts(workshop.store, run, seen):
        seen = logged.seq
        observe(logged.fact)
    return seen


def hand_over(project: Project, run: str) -> None:
    """Start a process that drives a run and survives this one. Its output goes to a file beside the store."""
    folder = project.artefacts / "drivers"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{run}.log").open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "hindscan.driver", str(project.root), run],
            cwd=project.root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _main() -> None:
    from hindscan.config_file import load_project
    from hindscan.workshop import open_workshop

    with open_workshop(load_project(Path(sys.argv[1]))) as workshop:
        drive(workshop, sys.argv[2])


if __name__ == "__main__":
    _main()
