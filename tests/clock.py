"""Time as a test has it."""

from __future__ import annotations


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
