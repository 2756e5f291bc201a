"""What a run keeps of slices that are done until its result is published.

Serves promise 10. A run may have 100,000 slices, and a `Done` with its proof is eleven objects, of 700 bytes in all; packed it is one of half of that. What is asked
for is unpacked when it is asked for.

::

    receipts -> StageWork -> KeptSlices -> StageDone -> publication
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from hindscan.tasks.task import Done

__all__ = ["KeptSlices"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Done).decode


class KeptSlices:
    """Slices that are done, by their positions.

    Parameters
    ----------
    done : iterable of Done
        What is kept from the beginning. Default: nothing.
    """

    def __init__(self, done: Iterable[Done] = ()) -> None:
        self._packed: dict[int, bytes] = {}
        for one in done:
            self.keep(one)

    def keep(self, done: Done) -> None:
        """Keep a slice; it takes the place of what was kept of its position."""
        self._packed[done.position] = _encode(done)

    def get(self, position: int) -> Done | None:
        """Give the slice of a position; None where none is kept."""
        packed = self._packed.get(position)
        return None if packed is None else _decode(packed)

    def __contains__(self, position: int) -> bool:
        return position in self._packed

    def __len__(self) -> int:
        return len(self._packed)

    def __iter__(self) -> Iterator[Done]:
        """Give all, by position."""
        return (_decode(self._packed[position]) for position in sorted(self._packed))
