"""How fast the slices of a job are: learnt from earlier runs, corrected while a run goes on.

Serves promise 10 (what a plan will take is known before it starts) and the grouping of slices into tasks, which is scheduling and never shows in a
result (promise 8). A slice weighs what it reads, a draw a little; a pace is seconds for each unit of weight, of one worker. Nothing of it is in a key or in
the bounds of a slice.

::

    earlier runs' slices -> Pace -> cost (seconds), group (slices of a task) <- Pace.add(slice, seconds) while tasks are done
"""

from __future__ import annotations

from typing import Final

from hindscan.history.snapshot import DrawSlice, Slice

__all__ = ["Pace", "weight", "weight_of"]

#: What a draw weighs against bytes read: about ten nanoseconds each.
_DRAW_BYTES: Final = 16


class Pace:
    """Seconds of one worker for slices of a stage.

    Parameters
    ----------
    seconds : float
        What slices took so far.
    weight : int
        What these weighed.
    """

    def __init__(self, seconds: float = 0.0, weight: int = 0) -> None:
        self._seconds, self._weight = seconds, weight

    @property
    def known(self) -> bool:
        """Whether any slice was measured."""
        return self._weight > 0

    def add(self, s: Slice, seconds: float) -> None:
        """Take in what one more slice took."""
        self._seconds += seconds
        self._weight += weight_of(s)

    def seconds(self, weight: int) -> float:
        """Give what so much takes; 0 where nothing is known."""
        return weight * self._seconds / self._weight if self._weight else 0.0

    def weight(self, seconds: float) -> int:
        """Give how much is done in a time; at least 1."""
        return max(1, int(seconds * self._weight / self._seconds)) if self._seconds > 0 else 1 << 62


def weight_of(s: Slice) -> int:
    """Give what a slice weighs: bytes to read, or draws in units of these; at least 1."""
    return weight(rows=s.rows, size=s.bytes, drawn=isinstance(s, DrawSlice))


def weight(*, rows: int, size: int, drawn: bool) -> int:
    """Give what a slice of such size weighs."""
    return max(1, rows * _DRAW_BYTES if drawn else size)
