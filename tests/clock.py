"""Time as a test has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Clock:
    """A clock that a test moves; microseconds since the epoch.

    Parameters
    ----------
    now : int
        What it shows first.
    tick : int
        By how much it moves whenever it is looked at.
    """

    def __init__(self, now: int = 1_700_000_000_000_000, tick: int = 0) -> None:
        self.now, self.tick = now, tick

    def __call__(self) -> int:
        self.now += self.tick
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)


def until(look: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Look until there is something; say what was missing otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)
