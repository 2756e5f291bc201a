"""A worker process: a fresh interpreter that dies with its parent, and the pipe that both speak through.

Keeps promises 11 (stoppable) and 12 (user code never runs in the caller). A worker is never a fork: it starts as a new interpreter that imports hindscan and
nothing of the caller, so a script without a main guard works, and neither working directory nor PYTHONPATH matter. It has a session of its own,
so that ending it ends what user code started in it.

It dies with its parent, whatever either is doing: it holds the reading end of a pipe whose only writing end is the parent's, and the kernel sends SIGIO, which
ends the process group, when that end closes. No thread of the worker has to run for that; user code may hold the interpreter lock for ever.

::

    start(program) -> Process --Frames--> the program's main function --Frames--> Inbox
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import queue
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import msgspec

from hindscan.jobs.scratch import home
from hindscan.lean import leave_pandas_out
from hindscan.room import ENGINE_FOLDER, ENGINE_MEMORY

__all__ = ["ENGINE_SHARE", "ENGINE_THREADS", "Frames", "Inbox", "Process", "become_worker", "start"]

#: One engine thread for each slice (promise 8): sums of floats must not depend on a pool's size. Set before any library is imported.
ENGINE_THREADS: Final[Mapping[str, str]] = dict.fromkeys(
    (
        "MKL_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "POLARS_MAX_THREADS",
        "RAYON_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ),
    "1",
)

#: How the C library, where it is glibc, deals out a worker's memory; it reads this before anything else runs. Of its own accord it gives every thread an arena and keeps
#: what one freed for another: a worker that reads a topic, with the threads of its clients, was seen at 390 MB instead of 250, and to grow with every slice.
MEMORY: Final[Mapping[str, str]] = {
    "MALLOC_ARENA_MAX": "1",
    # Larger pieces go back to the system when they are freed; a simulation's blocks are smaller, and are used again.
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**20),
}

#: Where several threads work: for one and for its clients.
ARENAS_PER_THREAD: Final = 2
#: Part of a worker's memory that its SQL engine may hold: what a statement reads and what it returns are tables in Arrow beside it.
ENGINE_SHARE: Final = 0.25

#: Bytes of a dead worker's standard error that its reason shows.
_LAST_WORDS: Final = 2_000

#: Where hindscan lies: a worker must find the very same one, installed or not.
_ROOT: Final = str(Path(__file__).resolve().parents[2])


class Frames:
    """Messages over a pipe: a length, then msgpack. Sending is safe from several threads, and so is closing."""

    def __init__(self, reading: IO[bytes], writing: IO[bytes]) -> None:
        self._reading = reading
        self._writing = writing
        self._lock = threading.Lock()

    def send(self, message: tuple[object, ...]) -> None:
        """Send one message; an ended receiver is no fault of the sender and shows elsewhere."""
        content = msgspec.msgpack.encode(message)
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            self._writing.write(struct.pack(">Q", len(content)) + content)
            self._writing.flush()

    def receive(self) -> tuple[Any, ...] | None:
        """Wait for a message; None when the other side is gone."""
        head = self._reading.read(8)
        if len(head) < 8:
            return None
        (size,) = struct.unpack(">Q", head)
        content = self._reading.read(size)
        return tuple(msgspec.msgpack.decode(content)) if len(content) == size else None


#: What workers send: who, and what; None at the end.
Inbox: TypeAlias = "queue.SimpleQueue[tuple[Process, tuple[Any, ...] | None]]"


class Process:
    """A worker process as its parent sees it.

    What it sends comes into the inbox, with the process itself: one thread can hear many workers. Last comes a None, when it has ended and all it sent
    before has been heard.
    """

    def __init__(
        self, popen: subprocess.Popen[bytes], lifeline: int, errors: IO[bytes], spilled: Path, inbox: Inbox
    ) -> None:
        assert popen.stdin is not None
        assert popen.stdout is not None
        self._popen = popen
        self._lifeline = lifeline
        self._errors = errors
        self._spilled = spilled
        self._frames = Frames(popen.stdout, popen.stdin)
        self._inbox = inbox
        self._reader = threading.Thread(target=self._read, name=f"hindscan-worker-{popen.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Id of the process, which is also the id of its process group."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    @property
    def signal(self) -> int:
        """Number of the signal that ended it; 0: none."""
        return max(0, -(self._popen.poll() or 0))

    def send(self, message: tuple[object, ...]) -> None:
        """Send one message."""
        self._frames.send(message)

    def kill(self) -> None:
        """End it and all it started, now. May be called more than once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        self._reader.join()

    def close(self) -> None:
        """Kill it and let go of everything."""
        self.kill()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for stream in (self._popen.stdin, self._popen.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        shutil.rmtree(self._spilled, ignore_errors=True)

    def reason(self) -> str:
        """Say how it ended, with the last it wrote to its standard error."""
        code = self._popen.wait()
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 4 * _LAST_WORDS))
        lines = self._errors.read().decode(errors="replace").splitlines()
        # After a crash Python also lists every extension module there was.
        words = "\n".join(line for line in lines if not line.startswith("Extension modules:")).strip()[-_LAST_WORDS:]
        return f"worker process {self.pid} {how}" + (f"; its last words:\n{words}" if words else "")

    def _read(self) -> None:
        while (message := self._frames.receive()) is not None:
            self._inbox.put((self, message))
        self._inbox.put((self, None))


def start(
    inbox: Inbox,
    program: str,
    *arguments: str,
    python: str = sys.executable,
    paths: Sequence[str] = (),
    folder: str | os.PathLike[str] | None = None,
    threads: int = 1,
    memory: int | None = None,
) -> Process:
    """Start a worker; returns at once, while the worker imports.

    Parameters
    ----------
    inbox : SimpleQueue
        Where what it sends is put.
    program : str
        ``module:function`` of hindscan, called in the new interpreter with the frames and the arguments.
    *arguments : str
        What the function gets beside the frames.
    python : str
        The interpreter. Default: this one.
    paths : sequence of str
        Folders of packages that it searches after its own.
    folder : path, optional
        Its working directory. Default: this process's.
    threads : int
        How many of its threads work at a time.
    memory : int, optional
        Bytes it may take. Its SQL engine holds as much of that as `ENGINE_SHARE` says and puts the rest into files, which are gone with the worker. Default: as much
        as the engine takes of its own accord.
    """
    spilled = Path(tempfile.mkdtemp(prefix="spilled-", dir=home()))
    engine = {ENGINE_FOLDER: str(spilled)}
    if memory is not None:
        engine[ENGINE_MEMORY] = str(int(memory * ENGINE_SHARE))
    reading, writing = os.pipe()
    errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the process
    module, _, function = program.partition(":")
    code = (
        f"import sys; sys.path += {[*paths, _ROOT]!r}; from hindscan.tasks.process import become_worker; "
        f"frames = become_worker({reading}); from {module} import {function}; {function}(frames, *sys.argv[1:])"
    )
    try:
        popen = subprocess.Popen(
            # -P: the caller's working directory is not searched for modules.
            [python, "-P", "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=(reading,),
            # Of one arena several threads would wait for each other with every record that their clients make and they let go.
            env={
                **MEMORY,
                "MALLOC_ARENA_MAX": str(ARENAS_PER_THREAD * threads if threads > 1 else 1),
                **os.environ,
                **ENGINE_THREADS,
                **engine,
            },
            cwd=folder,
            start_new_session=True,
        )
    finally:
        os.close(reading)
    return Process(popen, writing, errors, spilled, inbox)


def become_worker(lifeline: int) -> Frames:
    """Tie this process to its parent and take over its pipes; called first in a new worker."""
    # Tied before the first slow import: a parent that ends now leaves nothing.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # the parent ended before the line was tied
        os._exit(1)
    faulthandler.enable(all_threads=False)
    reading, writing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What user code and C libraries print or read must not reach the pipes.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    leave_pandas_out()
    import pyarrow as pa

    pa.set_cpu_count(1)
    return Frames(reading, writing)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
