"""Folders that live as long as this process, or one command of it.

Keeps the tidy half of promise 11. A process that ends by itself removes its folder; workers are killed, and cannot. So each process locks the folder it makes; the kernel
lets go of the lock whatever ends the process, and the next one that makes a folder removes those that nobody holds.

::

    home -> TMPDIR/hindscan-UID/PID-.../ -> scratch: one folder for one call
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["home", "scratch"]

#: Name of the file that is locked.
_HELD = "held"
#: Open for as long as the process lives, or the lock would go.
_locks: list[int] = []


@functools.cache
def _home_of(process: int) -> Path:
    above = Path(tempfile.gettempdir()) / f"hindscan-{os.getuid()}"
    above.mkdir(mode=0o700, exist_ok=True)
    if above.stat().st_uid != os.getuid():
        # Somebody else made a folder of our name first; what we would run out of it, he could change.
        above = Path(tempfile.mkdtemp(prefix="hindscan-"))
    _sweep(above)
    made = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=above)).resolve()
    _locks.append(_lock(made / _HELD, os.O_CREAT))
    atexit.register(_leave, made, process)
    return made


def _leave(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a fork is at its end, too
        shutil.rmtree(folder, ignore_errors=True)


def home() -> Path:
    """Give the folder of this process; made when first asked for."""
    return _home_of(os.getpid())


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give an empty folder that is removed at the end of the context."""
    made = Path(tempfile.mkdtemp(prefix="call-", dir=home()))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _lock(file: Path, flags: int = 0) -> int:
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sweep(above: Path) -> None:
    """Remove the folders of processes that are gone; one without a lock file is being made."""
    for held in above.glob(f"*/{_HELD}"):
        with contextlib.suppress(OSError):
            descriptor = _lock(held)
            shutil.rmtree(held.parent, ignore_errors=True)
            os.close(descriptor)
