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
    owner = f"{socket.gethostname()}:{os.getpid()}"
    while True:
        claimed = leases.claim(workshop.store, owner, LEASE_SECONDS, run=run)
        if claimed is not None:
            # Fenced: this process slept through its lease; whoever has the run now is followed.
            with contextlib.suppress(Fenced):
                carry_out(workshop, claimed, observe=observe)
        found = follow(workshop, run, observe=observe, while_running=True)
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
    while_running: bool = False,
    seconds: float | None = None,
) -> Run:
    """Watch a run in the store until it is final.

    Parameters
    ----------
    while_running : bool
        Come back too when the run waits, so that the caller may claim it.
    seconds : float, optional
        Come back after this time at the latest.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    seen = 0
    while True:
        found = register.get_run(workshop.store, run)
        if observe is not None:
            for logged in log.facts(workshop.store, run, seen):
                seen = logged.seq
                observe(logged.fact)
        if found.state in FINAL or (while_running and found.state == "pending"):
            return found
        if deadline is not None and time.monotonic() > deadline:
            return found
        leases.release_expired(workshop.store)
        time.sleep(LOOK_SECONDS)


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
