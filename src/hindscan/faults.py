"""Named points at which a test can end this process, as a power cut would.

Promises 4 and 6 say that `kill -9` anywhere loses and doubles nothing. "Anywhere" is made concrete: every side effect between the
receipt of an event and the publication of its result is bracketed by `point(name)`. A test starts the real program with
`HINDSCAN_FAULT=NAME` or `NAME:K` and the process kills itself the K-th time (default: first) it gets there; without the
variable a point costs a look at a module constant.
"""

from __future__ import annotations

import os
import signal
import threading

__all__ = ["point"]

_TARGET, _, _COUNT = os.environ.get("HINDSCAN_FAULT", "").partition(":")
_lock = threading.Lock()
_seen = 0


def point(name: str) -> None:
    """Mark a side effect; end the process here if a test asked for it.

    Parameters
    ----------
    name : str
        Place and moment, such as ``"dispatcher.recorded"``: past tense, so that the effect has happened.
    """
    if name != _TARGET:
        return
    global _seen
    with _lock:
        _seen += 1
        if _seen == int(_COUNT or 1):
            os.kill(os.getpid(), signal.SIGKILL)
