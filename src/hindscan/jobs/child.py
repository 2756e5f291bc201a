"""One command, spoken to through its standard streams: fed, read, listened to and ended, all at the same time.

Keeps promises 10 and 11. Input is written as it is made and output is read as it comes, by threads of their own, so that no full pipe can hold up the other side,
whatever the command reads or writes first. A command stays in the process group of its worker: whatever ends the worker ends it. Here it is ended when its
time is over, when what it writes is wrong, and, with all it has started, when it has ended itself: nothing outlives the call that began it. Those are found by
the mark in their environment, which they have from their parents wherever they have moved (Linux; elsewhere only the command itself is ended).

::

    argv + environment -> converse(feed -> standard input, standard output -> take) -> what `take` gave, or JobFailed with the end of standard error
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Generic, TypeVar

from hindscan.errors import BadPartial, JobFailed

__all__ = ["MARK", "converse", "starting"]

#: Variable by which all processes of one call are known.
MARK: Final = "HINDSCAN_SCRATCH"
#: Bytes of standard error that go to the run's log, and those that a message shows.
_LOG_BYTES: Final = 65_536
_TAIL_BYTES: Final = 4_000
#: How often, and how long apart, processes that have been killed are looked for again: one may just have started another.
_ROUNDS: Final = 200
_ROUND_SECONDS: Final = 0.005

#: How long a program whose output is wrong may take to end by itself: its output may be wrong because it is about to.
_LAST_BREATH_SECONDS: Final = 0.25

#: Held while a program is written to disk and while a process is started: a child that has inherited the file while it was open for writing would make it "busy".
starting = threading.Lock()

_T = TypeVar("_T")


def converse(
    argv: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    seconds: float | None,
    doing: str,
    feed: Callable[[IO[bytes]], None],
    take: Callable[[IO[bytes]], _T],
) -> _T:
    """Run a command to its end.

    Parameters
    ----------
    argv : sequence of str
        The program and its arguments.
    folder : Path
        Its working directory, of this call alone.
    environment : mapping
        All of its environment but for the mark.
    seconds : float, optional
        How long it may take. Default: for ever.
    doing : str
        What it is, for messages: "the step 'slice' of job bidders".
    feed : callable
        Writes its standard input, in the caller's thread. A command need not read all of it.
    take : callable
        Reads its standard output, in another thread.

    Raises
    ------
    hindscan.errors.JobFailed
        It cannot be started, ended with an exit code other than 0, or took too long.
    Exception
        What `feed` or `take` raised.
    """
    environment = {**environment, MARK: str(folder)}
    try:
        with starting:
            popen = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=environment
            )
    except (OSError, ValueError) as error:
        raise JobFailed(
            f"Starting {doing}: {argv[0]} must be a program that runs here, and does not start: {error}. "
            "Install it where the workers run, or name a file of the project.",
            command=list(argv),
        ) from error
    talk = _Talk(popen, str(folder), take)
    waiter = threading.Thread(target=talk.wait, args=(seconds,), daemon=True)
    waiter.start()
    try:
        talk.feed(feed)
    except BaseException:
        talk.end()
        raise
    finally:
        waiter.join()
        talk.close()
    if talk.said.text:
        # This thread's standard error is the task's: what is written there is in the run's log.
        sys.stderr.write(talk.said.text if talk.said.text.endswith("\n") else f"{talk.said.text}\n")
    return talk.outcome(argv, doing, seconds)


class _Talk(Generic[_T]):
    """A running command and the threads that listen to it."""

    def __init__(self, popen: subprocess.Popen[bytes], mark: str, take: Callable[[IO[bytes]], _T]) -> None:
        assert popen.stdin is not None
        assert popen.stdout is not None
        assert popen.stderr is not None
        self._popen, self._mark, self._take = popen, mark, take
        self._stdin, self._stdout = popen.stdin, popen.stdout
        self.said = _Tail(popen.stderr)
        self._late = self._cut_off = False
        self._made: list[_T] = []
        self._fault: BaseException | None = None
        self._listeners = [threading.Thread(target=run, daemon=True) for run in (self._listen, self.said.listen)]
        for one in self._listeners:
            one.start()

    def feed(self, write: Callable[[IO[bytes]], None]) -> None:
        """Write all there is; a command that does not want to hear the rest is told no more."""
        stdin = _Pipe(self._stdin)
        with contextlib.suppress(_Deaf):
            write(stdin)  # type: ignore[arg-type]
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()

    def wait(self, seconds: float | None) -> None:
        """Wait for the command's own end, or that of its time; then end what it has started."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._late = True
        self.end()

    def end(self) -> None:
        """End the command and all it has started, now."""
        self._popen.kill()
        self._popen.wait()
        _end_marked(self._mark)

    def close(self) -> None:
        """Hear the last it said, and let go."""
        for one in self._listeners:
            one.join()
        self.said.close()
        self._stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()

    def outcome(self, argv: Sequence[str], doing: str, seconds: float | None) -> _T:
        """Give what was taken, or say what is wrong."""
        code = self._popen.returncode
        tail = self.said.text[-_TAIL_BYTES:].strip()
        words = f"\nThe end of its standard error:\n{tail}" if tail else " It wrote nothing to standard error."
        details: dict[str, Any] = {"command": list(argv), "exit_code": code, "stderr": tail}
        if self._late:
            raise JobFailed(
                f"While running {doing}: {argv[0]} must be done after {seconds:g} s, and was not, so it was ended.{words}\n"
                "Raise time_limit of the step, or let it do less.",
                **details,
            )
        # Of a program that fails what it wrote is cut short, which is no news beside the failure; of one that was ended for what it wrote it is all.
        if self._fault is not None and (self._cut_off or code == 0):
            raise self._fault
        if code != 0:
            how = f"ended with exit code {code}" if code > 0 else f"was killed by {_signal_name(-code)}"
            raise JobFailed(
                f"While running {doing}: {argv[0]} must end with exit code 0, and {how}.{words}\n"
                "Mend the program and run the job again.",
                **details,
            )
        return self._made[0]

    def _listen(self) -> None:
        try:
            made = self._take(self._stdout)
            if self._stdout.read(1):
                raise BadPartial("Reading what the command wrote: its output must end where its stream ends, and goes on. Write one stream.")  # fmt: skip
            self._made.append(made)
        except BaseException as fault:  # noqa: BLE001 -- raised again in the caller's thread
            self._fault = fault
            try:
                self._popen.wait(_LAST_BREATH_SECONDS)
            except subprocess.TimeoutExpired:
                # Nobody reads any more: it would wait for ever.
                self._cut_off = True
                self._popen.kill()


class _Deaf(Exception):
    """Say that the command reads no more."""


class _Pipe:
    """The command's standard input as a file, which tells a command that has stopped reading from all other faults."""

    closed = False

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def write(self, data: Any) -> int:
        try:
            return self._pipe.write(data)
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EINVAL):
                raise _Deaf from error
            raise

    def flush(self) -> None:
        """Write nothing early: closing does."""

    def close(self) -> None:
        """Stay open: the conversation closes its pipe."""


class _Tail:
    """The last of what a command says on standard error."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._kept: deque[bytes] = deque()

    def listen(self) -> None:
        """Read to the end and keep the last of it."""
        size = 0
        while piece := self._pipe.read1(_LOG_BYTES):  # type: ignore[attr-defined]
            self._kept.append(piece)
            size += len(piece)
            while size - len(self._kept[0]) >= _LOG_BYTES:
                size -= len(self._kept.popleft())

    def close(self) -> None:
        """Let go of the pipe."""
        self._pipe.close()

    @property
    def text(self) -> str:
        """What is kept."""
        return b"".join(self._kept)[-_LOG_BYTES:].decode(errors="replace")


def _end_marked(mark: str) -> None:
    """Kill every process that has the mark in its environment."""
    needle = f"{MARK}={mark}\0".encode()
    for _ in range(_ROUNDS):
        found = [pid for pid in _processes() if needle in _environment(pid)]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_ROUND_SECONDS)


def _processes() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 -- names, not paths: this runs for each slice
    return []


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""  # another user's, or gone


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
