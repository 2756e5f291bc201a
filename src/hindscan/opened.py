"""Which files were opened while something went on, by whatever program, library or path.

Linux tells (inotify); elsewhere nothing is known, and `Opened.watches` is false. The leak test uses it for what no shadow of a project can show: a job that opens a
file by its absolute path.

::

    Opened(files) -> with: work -> opened.files
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

__all__ = ["Opened"]

#: From linux/inotify.h: a file was opened.
_IN_OPEN: Final = 0x20
_HEAD: Final = struct.Struct("iIII")


class Opened:
    """Watches files from entering to leaving.

    Parameters
    ----------
    watched : sequence of Path
        The files.
    """

    def __init__(self, watched: Sequence[Path]) -> None:
        self._watched = tuple(watched)
        self._names: dict[int, Path] = {}
        self._seen: set[Path] = set()
        self._descriptor = -1
        #: Whether this system tells.
        self.watches = sys.platform == "linux"

    def __enter__(self) -> Self:
        if self.watches and self._watched:
            libc = ctypes.CDLL(None, use_errno=True)
            self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            for file in self._watched if self._descriptor >= 0 else ():
                self._names[libc.inotify_add_watch(self._descriptor, os.fsencode(file), _IN_OPEN)] = file
            # A limit of the system on watches: what is not watched must not count as unopened.
            self.watches = self._descriptor >= 0 and -1 not in self._names
        return self

    def __exit__(self, *fault: object) -> None:
        self._look()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that were opened so far."""
        self._look()
        return tuple(sorted(self._seen))

    def _look(self) -> None:
        while self._descriptor >= 0:
            try:
                told = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return
            at = 0
            while at < len(told):
                watch, _, _, length = _HEAD.unpack_from(told, at)
                at += _HEAD.size + length
                if watch in self._names:
                    self._seen.add(self._names[watch])
