"""Commands that need not import what every command imports: forks of a process that has done so.

A start of Python with Arrow, SQLAlchemy and the like takes half a second, and the suite types some hundreds of commands. Here one process
of each session imports these libraries, once; each command is a fork of it: a process with its own environment, working directory, streams and
exit, which runs `python -m hindscan` as Python itself would. Of hindscan nothing is imported before the fork, so what its modules do when
they are imported (read the environment, above all) they do in each command anew.

What a fork hides, such as a library that a command uses and only another one imports, shows the first of each command: that one is a new interpreter.

::

    start --arguments, streams--> nursery --fork--> keeper --fork--> the command
      ^-------------- its process id, then its exit code ---------------'
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

__all__ = ["Typed", "start"]

#: What commands and the server import of others. Not DuckDB: at its end a process complains of what of it was not collected, see below.
LIBRARIES = (
    "cloudpickle", "confluent_kafka.admin", "cronsim", "cyclopts", "h11", "jmespath", "msgspec.inspect", "numpy.random", "pandas", "pyarrow.compute",
    "pyarrow.dataset", "pyarrow.fs", "pyarrow.json", "pyarrow.parquet", "rich.table", "sqlalchemy.dialects.sqlite", "uvicorn", "xxhash",
)  # fmt: skip

_lock = threading.Lock()
_begun: set[str] = set()


class Typed(Protocol):
    """A command that was started: what of `subprocess.Popen` tests ask for."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


def start(*arguments: str, cwd: Path, env: Mapping[str, str], streams: tuple[int, int, int]) -> Typed:
    """Start `hindscan` with these arguments; it gets copies of the three file descriptors."""
    if arguments[0] not in _begun:
        _begun.add(arguments[0])
        stdin, stdout, stderr = streams
        command = [sys.executable, "-m", "hindscan", *arguments]
        return subprocess.Popen(command, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr)
    return _Fork(arguments, cwd, env, streams)


class _Fork:
    def __init__(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], streams: tuple[int, int, int]
    ) -> None:
        self._arguments = arguments
        self._code: int | None = None
        self._report, report = socket.socketpair()
        order = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": dict(env)}).encode()
        with report, _lock:
            # A message over a stream of bytes may come in parts; its length goes first, and the descriptors with it.
            socket.send_fds(_nursery(), [len(order).to_bytes(8, "big")], [*streams, report.fileno()])
            _nursery().sendall(order)
        self.pid = int.from_bytes(_exactly(self._report, 8), "big")

    def poll(self) -> int | None:
        """Tell how it ended, as `subprocess` counts; None while it runs."""
        if self._code is None and select.select([self._report], [], [], 0)[0]:
            self._code = int.from_bytes(_exactly(self._report, 8), "big", signed=True)
            self._report.close()
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(self._arguments, timeout or 0)
            select.select([self._report], [], [], left)
        return code

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send_signal(signal.SIGKILL)


@functools.cache
def _nursery() -> socket.socket:
    """Start the nursery at its first use; it ends with this process."""
    ours, its = socket.socketpair()
    with its:
        process = subprocess.Popen(
            [sys.executable, __file__, str(its.fileno())],
            pass_fds=(its.fileno(),),
            stdin=subprocess.DEVNULL,
            # A library's pool of threads would not live on in a fork.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _exactly(stream: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        piece = stream.recv(size - len(content))
        if not piece:
            raise EOFError("the nursery has ended")
        content += piece
    return content


def _serve(line: socket.socket) -> None:
    """Fork whenever one is asked for; returns in the child, which then is the command."""
    while True:
        size, descriptors, _, _ = socket.recv_fds(line, 8, 4)
        if not size:
            os._exit(0)
        order = json.loads(_exactly(line, int.from_bytes(size, "big")))
        # A parent that stays knows the end of its child; the nursery itself must not wait.
        if os.fork() == 0:
            _keep(descriptors.pop())
            break
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    line.close()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    os.chdir(order["cwd"])
    sys.path[0] = order["cwd"]
    sys.argv[:] = ["", *order["arguments"]]


def _keep(report: int) -> None:
    """Fork the command and report on it; returns in the child."""
    child = os.fork()
    if child == 0:
        os.close(report)
        return
    os.write(report, child.to_bytes(8, "big"))
    # Only the command holds its streams: who reads them must see their end.
    os.closerange(0, report)
    os.closerange(report + 1, report + 64)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(report, code.to_bytes(8, "big", signed=True))
    os._exit(0)


if __name__ == "__main__":
    for library in LIBRARIES:
        importlib.import_module(library)
    # What is there now is nothing to a collection in a fork: it would touch, and so copy, all of it, when the command ends at the latest.
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("hindscan", run_name="__main__", alter_sys=True)
