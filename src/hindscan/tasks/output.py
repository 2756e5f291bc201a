"""What user code prints: kept per task, the last 64 kB of it.

Keeps promise 12 in the small: standard output belongs to results and standard error to progress, so what a job prints goes into the receipt of its task, and from
there into the run's log. Several tasks may be at work in one process, each on its own thread, so the streams are routed by thread; what a thread of
the user's own prints goes where it went before.
"""

from __future__ import annotations

import io
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

__all__ = ["Printed", "printed"]

#: Bytes that are kept of what one task prints; the beginning goes first.
MOST_BYTES: Final = 65_536


class Printed:
    """The tail of what was printed."""

    def __init__(self) -> None:
        self._parts: deque[str] = deque()
        self._size = 0
        self._cut = False

    def add(self, text: str) -> None:
        """Take more text, and let go of the oldest."""
        self._parts.append(text)
        self._size += len(text)
        while self._size - len(self._parts[0]) >= MOST_BYTES:
            self._size -= len(self._parts.popleft())
            self._cut = True

    def text(self) -> str:
        """Give what is kept, beginning with ``...`` where something is missing."""
        whole = "".join(self._parts).encode(errors="replace")
        if len(whole) <= MOST_BYTES and not self._cut:
            return whole.decode()
        return "..." + whole[-MOST_BYTES:].decode(errors="ignore")


class _Routed(io.TextIOBase):
    """Stands for a standard stream: what a task's thread writes is the task's, all else goes on."""

    def __init__(self, onwards: TextIO) -> None:
        super().__init__()
        self.onwards = onwards

    def write(self, text: str, /) -> int:
        kept = getattr(_thread, "printed", None)
        if kept is None:
            return self.onwards.write(text)
        kept.add(text)
        return len(text)

    def flush(self) -> None:
        self.onwards.flush()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def fileno(self) -> int:
        return self.onwards.fileno()


_thread = threading.local()
_lock = threading.Lock()
_users = 0


@contextmanager
def printed() -> Iterator[Printed]:
    """Keep what this thread prints while the context lasts."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            sys.stdout, sys.stderr = _Routed(sys.stdout), _Routed(sys.stderr)
    kept = _thread.printed = Printed()
    try:
        yield kept
    finally:
        _thread.printed = None
        with _lock:
            _users -= 1
            if _users == 0:
                sys.stdout, sys.stderr = _onwards(sys.stdout), _onwards(sys.stderr)


def _onwards(stream: TextIO) -> TextIO:
    # User code may have put its own stream there and forgotten it; then there is nothing to take away.
    return stream.onwards if isinstance(stream, _Routed) else stream
